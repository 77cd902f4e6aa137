"""Worlds for the tests of the ranks, and a guard: a test that hangs fails and says so."""

import signal
from collections.abc import Iterator

import pytest

from utils import ranks

GUARD = 180  # seconds; nothing here takes a tenth of it


@pytest.fixture(autouse=True)
def _guard() -> Iterator[None]:
    def hang(*_: object) -> None:
        raise TimeoutError(f"a test hung for {GUARD} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(GUARD)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def _world() -> Iterator[None]:
    """Four forked ranks for the tests of a module."""
    ranks.start(4, launcher="fork", fresh=True)
    yield
    ranks.stop()


@pytest.fixture
def world(_world: None) -> None:
    """Four ranks."""
    ranks.start(4)


@pytest.fixture(scope="module", params=["fork", "stock"])
def launcher(request: pytest.FixtureRequest) -> Iterator[str]:
    """Four ranks by each launcher in turn."""
    ranks.start(4, launcher=request.param, fresh=True)
    yield request.param
    ranks.stop()
