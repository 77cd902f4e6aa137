"""`lab`: a JupyterLab in a real browser, for the tests of any room."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.browser.lab import Lab, Server


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """Start one JupyterLab for all tests."""
    from tests.browser.lab import server

    with server(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="module")
def lab_browser(lab_server: "Server") -> Iterator["Lab"]:
    """Start one browser for a module: Playwright's event loop would be in the way of other modules' tests."""
    from tests.browser.lab import browser

    with browser(lab_server) as lab:
        yield lab


@pytest.fixture
def lab(lab_browser: "Lab") -> Iterator["Lab"]:
    """Return JupyterLab in a browser, with no progress kept and no kernel running."""
    home = lab_browser.server.course_home
    shutil.rmtree(home)
    home.mkdir()
    yield lab_browser
    lab_browser.close_all()
