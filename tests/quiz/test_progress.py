"""The event log: nothing lost by many writers, kills, damage, a full disk; restored twice is restored once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from utils import progress
from utils.progress import NotSavedError


def test_an_event_is_one_line_and_comes_back(home: Path) -> None:
    made = progress.record("answered", "sample.single", resp={"chosen": ["data"]}, conf=2, ok=False, score=0.0, ms=12)
    assert (home / "progress.jsonl").read_bytes().count(b"\n") == 1
    assert progress.events() == [made]
    assert made.learner == (home / "learner").read_text()


def test_the_folder_is_the_platforms_unless_a_variable_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COURSE_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert progress.FOLDER_NAME in str(progress.home())
    monkeypatch.setenv("COURSE_HOME", "~/kept")
    assert progress.home() == Path.home() / "kept"


WRITER = """
import sys
from utils import progress
for n in range(int(sys.argv[2])):
    progress.record("answered", f"{sys.argv[1]}.{n}", resp={"typed": "x" * 3000}, ok=True)
"""


def test_many_writers_at_once_lose_nothing(home: Path) -> None:
    count = 200
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, f"w{n}", str(count)]) for n in range(4)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0, 0]
    assert progress.faults() == []
    found = {event.item for event in progress.events()}
    assert found == {f"w{n}.{k}" for n in range(4) for k in range(count)}
    assert len({event.learner for event in progress.events()}) == 1


def test_a_writer_killed_in_the_middle_leaves_whole_lines(home: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, "w", "1000000"])
    path = home / "progress.jsonl"
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size > 200_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait(20)
    progress.record("answered", "after.kill", ok=True)
    events = progress.events()
    assert progress.faults() == []
    numbers = sorted(int(e.item.split(".")[1]) for e in events if e.item != "after.kill")
    assert numbers == list(range(len(numbers)))
    assert any(event.item == "after.kill" for event in events)


def line(**changes: object) -> bytes:
    base = {
        "v": 1,
        "ev": "answered",
        "item": "a.b",
        "id": "x",
        "ts": "2026-11-22T10:00:00+00:00",
        "learner": "l",
        "session": "s",
    }
    return json.dumps({**base, **changes}).encode()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"v":1,"ev":"answ', "damaged"),
        (b"\x00\x00\x00", "damaged"),
        (b"\xff\xfe", "not text"),
        (b"[1, 2]", "no event of this course"),
        (b'"text"', "no event of this course"),
        (b'{"name": "another program"}', "no event of this course"),
        (line(v=99), "format '99'"),
        (line(item=["a"]), "field item is a list"),
        (line(ok="yes"), "field ok is a str"),
        (line(ctx=[]), "field ctx is a list"),
        (line(ts="yesterday"), "time"),
        (line(ts="2026-11-22T10:00:00"), "time"),
        (line(ts="0001-01-01T00:00:00+23:00"), "time"),
        (b'{"v":1,"ev":"answered"}', "lacks id, item"),
        (b"[" * 100_000, "damaged"),
    ],
)
def test_damaged_and_foreign_lines_are_skipped_with_their_number(home: Path, bad: bytes, reason: str) -> None:
    progress.record("answered", "sample.one", ok=True)
    path = home / "progress.jsonl"
    path.write_bytes(path.read_bytes() + bad + b"\n\n")
    progress.record("answered", "sample.two", ok=True)
    assert [event.item for event in progress.events()] == ["sample.one", "sample.two"]
    assert [fault.line for fault in progress.faults()] == [2]
    assert reason in str(progress.faults()[0])
    assert "line 2 of progress.jsonl" in str(progress.faults()[0])


def test_a_line_cut_short_does_not_take_the_next_one_with_it(home: Path) -> None:
    progress.record("answered", "sample.one", ok=True)
    with (home / "progress.jsonl").open("ab") as stream:
        stream.write(b'{"v":1,"ev":"answered","item":"sam')
    progress.record("answered", "sample.two", ok=True)
    assert [event.item for event in progress.events()] == ["sample.one", "sample.two"]
    assert len(progress.faults()) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    events, faults = progress.parse(line() + b"\n" + data)
    assert all(fault.line >= 1 for fault in faults)
    assert len(events) + len(faults) >= 1


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_folder_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    progress.record("answered", "sample.zero", ok=True)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(NotSavedError, match="could not be saved .*Permission denied.*COURSE_HOME"):
            progress.record("answered", "sample.one", ok=True)
        assert [event.item for event in progress.events()] == ["sample.zero", "sample.one"]
        assert "sample.one" in progress.download()
        assert progress.attempt("ring", "passed") != ""
    progress.record("answered", "sample.two", ok=True)
    saved = (home / "progress.jsonl").read_text()
    assert [json.loads(row)["item"] for row in saved.splitlines()] == [
        "sample.zero",
        "sample.one",
        "check:ring",
        "sample.two",
    ]


def test_a_home_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "file"
    place.write_text("")
    monkeypatch.setenv("COURSE_HOME", str(place))
    monkeypatch.setattr(progress, "_unsaved", [])
    with pytest.raises(NotSavedError):
        progress.record("answered", "sample.one")
    assert progress.learner() == "unsaved"
    assert len(progress.events()) == 1


FULL = """
import resource, signal, sys
from utils import progress
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for n in range(20):
    try:
        progress.record("answered", f"a.{n}", resp={"typed": "x" * 100})
    except progress.NotSavedError as error:
        print(n, len(progress.events()), error)
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file size")
def test_a_disk_that_fills_in_the_middle_of_a_line(home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=True)
    number, kept, message = done.stdout.split(" ", 2)
    assert int(kept) == int(number) + 1, "the answer that did not fit counts in this session"
    assert "could not be saved" in message
    progress.record("answered", "after.full", ok=True)
    assert [e.item for e in progress.events()] == [f"a.{n}" for n in range(int(number))] + ["after.full"]
    assert len(progress.faults()) <= 1


def test_restoring_twice_changes_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        progress.record("answered", f"sample.{n}", ok=True)
    text = progress.download()
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "elsewhere"))
    progress.record("answered", "sample.here", ok=True)
    first = progress.restore(text + "broken\n")
    assert (first.added, first.known, [fault.line for fault in first.faults]) == (3, 0, [4])
    before = progress.log_path().read_bytes()
    second = progress.restore(text)
    assert (second.added, second.known) == (0, 3)
    assert progress.log_path().read_bytes() == before
    assert [event.item for event in progress.events()] == ["sample.0", "sample.1", "sample.2", "sample.here"]


def test_attempts_at_an_exercise(home: Path) -> None:
    assert progress.attempt("ring", "not attempted") == ""
    assert progress.attempts("ring") == []
    assert progress.attempt("ring", "not yet", hint="Rank 2 is off.", source="a = 1") == ""
    assert progress.attempt("ring", "not yet", hint="Rank 2 is off.", source="a = 1") == ""
    assert progress.attempt("ring", "passed", source="a = 2") == ""
    assert [event.ok for event in progress.attempts("ring")] == [False, True]
    assert "a = 1" not in progress.log_path().read_text(), "the learner's code stays the learner's"
    assert "none of" in progress.attempt("ring", "almost")


def test_two_starts_at_once_agree_on_the_learner(home: Path) -> None:
    code = "from utils import progress; print(progress.learner())"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1
    assert [path.name for path in home.iterdir()] == ["learner"]
