"""What quiz tests get: an empty log, a clock to turn, and the sample bank with one item of every kind."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from utils import progress
from utils.quiz import bank

SAMPLE = Path(__file__).parent / "bank"


class Clock:
    """A clock that stands until it is turned, a microsecond a look."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.moment += timedelta(microseconds=1)
        return self.moment

    def forward(self, **amount: float) -> None:
        """Turn the clock, by days=1 for instance."""
        self.moment += timedelta(**amount)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder where progress is kept."""
    folder = tmp_path / "course"
    monkeypatch.setenv("COURSE_HOME", str(folder))
    monkeypatch.setattr(progress, "_unsaved", [])
    monkeypatch.setattr(progress, "_cache", None)
    return folder


@pytest.fixture
def clock(home: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock that progress reads instead of the real one."""
    turned = Clock()
    monkeypatch.setattr(progress, "now", turned)
    return turned


@pytest.fixture
def sample(home: Path, monkeypatch: pytest.MonkeyPatch) -> bank.Bank:
    """Return the sample bank, the only one there is."""
    monkeypatch.setattr(bank, "FOLDER", SAMPLE)
    return bank.load("sample")


@pytest.fixture
def make_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return a function that writes a file into a bank folder of its own."""
    folder = tmp_path / "bank"
    folder.mkdir()
    (folder / bank.MISCONCEPTIONS).write_text("some-mistake: Something that is wrong.\n")
    monkeypatch.setattr(bank, "FOLDER", folder)

    def write(name: str, text: str) -> Path:
        path = folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
