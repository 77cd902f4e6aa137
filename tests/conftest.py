"""What every test gets: places of its own, never the user's; and `lab`, a JupyterLab in a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def places_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Point the learner's progress and the settings of IPython and Jupyter to empty folders, for kernels as well."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COURSE_HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        patch.delenv("JUPYTER_PATH", raising=False)
        yield


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["object"]:
    """Start one JupyterLab for all tests."""
    from tests.browser.lab import server

    with server(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="module")
def lab_browser(lab_server: object) -> Iterator["object"]:
    """Start one browser for a module: Playwright's event loop would be in the way of other modules' tests."""
    from tests.browser.lab import browser

    with browser(lab_server) as lab:
        yield lab


@pytest.fixture
def lab(lab_browser: object) -> Iterator["object"]:
    """Return JupyterLab in a browser (`tests.browser.lab.Lab`), with no progress kept and no kernel running."""
    home: Path = lab_browser.server.course_home
    shutil.rmtree(home)
    home.mkdir()
    yield lab_browser
    lab_browser.close_all()
