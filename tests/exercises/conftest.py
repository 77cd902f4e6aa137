"""What several exercises' tests start."""

import pytest

from utils import ranks


@pytest.fixture(scope="module")
def four_ranks():
    """Start the ranks once for all tests of a file."""
    ranks.start(4)
    yield
    ranks.stop()
