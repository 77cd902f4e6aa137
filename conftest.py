"""Give every test run places of its own: the user's progress and settings are neither read nor changed.

This stands at the top, and not in tests/, because it has to hold for notebooks too: their kernels inherit it.
"""

import os
import shutil
import tempfile

import pytest

PLACES = ("COURSE_HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")


def pytest_configure(config: pytest.Config) -> None:
    """Point the learner's progress and the settings of IPython and Jupyter to empty folders."""
    folder = tempfile.mkdtemp(prefix="course-tests-")
    for name in PLACES:
        os.environ[name] = os.path.join(folder, name.lower())
        os.mkdir(os.environ[name])
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how long each notebook took, the slowest first."""
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            name = getattr(report, "nodeid", "").split("::")[0]
            if name.endswith(".ipynb"):
                seconds[name] = seconds.get(name, 0.0) + report.duration
    if seconds:
        terminalreporter.section("notebooks")
        for name, total in sorted(seconds.items(), key=lambda item: -item[1]):
            terminalreporter.write_line(f"{total:7.1f} s  {name}")
