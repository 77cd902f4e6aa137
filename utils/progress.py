"""Keep what the learner answered: an append-only log, one JSON line an event, from which everything else is replayed.

The log is `progress.jsonl` in the platform's user data folder, or in the folder that the environment variable
`COURSE_HOME` names. Each event is one `write` to a file opened with `O_APPEND`, so several kernels may write at once
and a killed kernel loses at most the event it had not begun to write (shown on Linux; Windows appends in two steps, so
two kernels that write in the same microsecond are not safe there). Lines that cannot be read are skipped and reported
with their number; nothing is ever rewritten.

For the checks of exercises: `progress.attempt("ring_all_reduce", "not yet", hint="...", source=code)`. It never raises.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FORMAT = 1
FOLDER_NAME = "one-model-many-workers"
LONGEST = 20_000  # characters of one typed answer
STATUSES = ("not attempted", "not yet", "passed")

_session = uuid.uuid4().hex[:12]
_unsaved: list[Event] = []
_cache: tuple[tuple[Any, ...], list[Event], list[Fault]] | None = None


@dataclass(frozen=True)
class Event:
    """One thing that happened. `item` is an item's id, `check:<name>`, `test:<bank>`, or the name of a topic."""

    ev: str
    item: str
    id: str
    ts: str
    learner: str
    session: str
    rev: int = 1
    resp: Any = None
    conf: int | None = None
    ok: bool | None = None
    score: float | None = None
    ms: int | None = None
    ctx: Mapping[str, Any] = field(default_factory=dict)
    v: int = FORMAT


@dataclass(frozen=True)
class Fault:
    """A line of the log that was skipped, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line} of {log_path().name} was skipped: {self.reason}"


@dataclass(frozen=True)
class Restored:
    """What a restore did: events added, events that were there already, lines that could not be read."""

    added: int
    known: int
    faults: list[Fault]


class NotSavedError(OSError):
    """The log could not be written. The event is kept in memory and written with the next one that can be."""

    def _render_traceback_(self) -> list[str]:
        return [f"NotSavedError: {self}"]


def home() -> Path:
    """Return the folder of the log: `$COURSE_HOME`, else the platform's user data folder."""
    chosen = os.environ.get("COURSE_HOME")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir(FOLDER_NAME, appauthor=False))


def log_path() -> Path:
    """Return the path of the log."""
    return home() / "progress.jsonl"


def now() -> datetime:
    """Return the present moment in UTC (tests replace this)."""
    return datetime.now(UTC)


def learner() -> str:
    """Return the random id of whoever learns here, made once and kept beside the log."""
    path = home() / "learner"
    try:
        known = path.read_text(encoding="ascii").strip()
        if known:
            return known
    except (OSError, UnicodeDecodeError):
        pass
    fresh = uuid.uuid4().hex
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # written aside and linked into place: two kernels starting at once end up with one id, never half of one
        aside = path.with_name(f"learner.{fresh}")
        aside.write_text(fresh, encoding="ascii")
        try:
            os.link(aside, path)
        except FileExistsError:
            return path.read_text(encoding="ascii").strip() or fresh
        except OSError:  # a file system without hard links
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError:
        return "unsaved"  # a fixed id, so that options at least keep their order in this session
    return fresh


def record(ev: str, item: str, **values: Any) -> Event:
    """Append one event to the log and return it.

    `values` are the optional fields of `Event` (resp, conf, ok, score, ms, rev, ctx). Raises NotSavedError, with what
    to do, where the folder cannot be written; the event then still counts in this session and is written with the next.
    """
    if isinstance(values.get("resp"), str):
        values["resp"] = values["resp"][:LONGEST]
    event = Event(
        ev=ev,
        item=item,
        id=uuid.uuid4().hex,
        ts=now().isoformat(timespec="microseconds"),
        learner=learner(),
        session=_session,
        **values,
    )
    _unsaved.append(event)
    _flush()
    return event


def _flush() -> None:
    while _unsaved:
        _append(_line(_unsaved[0]))
        _unsaved.pop(0)


def _line(event: Event) -> bytes:
    content = {f.name: getattr(event, f.name) for f in fields(event)}
    kept = {name: value for name, value in content.items() if value is not None and value != {}}
    return json.dumps({"v": kept.pop("v"), **kept}, separators=(",", ":"), default=str).encode("ascii") + b"\n"


def _append(line: bytes) -> None:
    path = log_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        try:
            end = os.lseek(handle, 0, os.SEEK_END)
            if end and os.lseek(handle, end - 1, os.SEEK_SET) >= 0 and os.read(handle, 1) != b"\n":
                line = (
                    b"\n" + line
                )  # a writer was killed in mid-line: its line stays damaged, this one does not join it
            written = os.write(handle, line)
        finally:
            os.close(handle)
    except OSError as error:
        raise NotSavedError(_advice(error, path)) from None
    if written != len(line):
        raise NotSavedError(_advice(OSError("the disk is full"), path))


def _advice(error: OSError, path: Path) -> str:
    reason = error.strerror or str(error)
    return (
        f"Your progress could not be saved ({reason}: {path}). It counts until this kernel stops. Free space or make "
        "the folder writable, or set COURSE_HOME to another folder before starting Jupyter; the next answer saves this "
        "one too."
    )


# ---- reading


def events() -> list[Event]:
    """Return every event that can be read, oldest first, those not yet saved included."""
    return _read()[0] + list(_unsaved)


def faults() -> list[Fault]:
    """Return the lines of the log that were skipped, with number and reason."""
    return list(_read()[1])


def _read() -> tuple[list[Event], list[Fault]]:
    global _cache
    path = log_path()
    try:
        status = path.stat()
        stamp = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
        if _cache is None or _cache[0] != stamp:
            found, wrong = parse(path.read_bytes())
            _cache = (stamp, sorted(found, key=lambda event: event.ts), wrong)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [Fault(0, f"the log cannot be read ({error.strerror})")]
    return list(_cache[1]), _cache[2]


def parse(data: bytes) -> tuple[list[Event], list[Fault]]:
    """Return the events of a log's bytes, each once, and the lines that are none."""
    found: dict[str, Event] = {}
    wrong = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            event = _event(line)
        except ValueError as error:
            wrong.append(Fault(number, str(error)))
        else:
            found.setdefault(event.id, event)
    return list(found.values()), wrong


_KINDS: dict[str, tuple[type, ...]] = {
    "ev": (str,),
    "item": (str,),
    "id": (str,),
    "ts": (str,),
    "learner": (str,),
    "session": (str,),
    "rev": (int,),
    "conf": (int, type(None)),
    "ok": (bool, type(None)),
    "score": (int, float, type(None)),
    "ms": (int, type(None)),
    "ctx": (dict,),
}


def _event(line: bytes) -> Event:
    """Return the event of one line; raise ValueError saying what is wrong with it."""
    try:
        content = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("it is damaged (no whole JSON object)") from None
    if not isinstance(content, dict) or "ev" not in content:
        raise ValueError("it is no event of this course")
    if content.get("v") != FORMAT:
        raise ValueError(f"it is of format {str(content.get('v'))[:20]!r}, this course reads {FORMAT}")
    known = {f.name for f in fields(Event)}
    values = {name: value for name, value in content.items() if name in known}
    missing = sorted({"ev", "item", "id", "ts", "learner", "session"} - set(values))
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    for name, kinds in _KINDS.items():
        if name in values and not isinstance(values[name], kinds):
            raise ValueError(f"its field {name} is a {type(values[name]).__name__}")
    try:
        moment = datetime.fromisoformat(values["ts"])
        if moment.tzinfo is None:
            raise ValueError
        values["ts"] = moment.astimezone(UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError):
        raise ValueError("its time cannot be read (or has no time zone)") from None
    return Event(**values)


# ---- carrying it to another machine


def download() -> str:
    """Return the whole readable log as text, for a learner to keep (Binder forgets its disk)."""
    return b"".join(_line(event) for event in events()).decode("ascii")


def restore(text: str) -> Restored:
    """Add the events of a downloaded log that are not here yet. Restoring the same text twice changes nothing.

    Lines that are no events are reported and left out; nothing in the text is ever run or shown as anything but text.
    """
    found, wrong = parse(text.encode("utf-8", "replace"))
    here = {event.id for event in events()}
    fresh = [event for event in found if event.id not in here]
    _unsaved.extend(fresh)
    _flush()
    return Restored(len(fresh), len(found) - len(fresh), wrong)


def keep_copy() -> Path | None:
    """Copy the log aside under the present time and return the copy's path; None where there is no log yet."""
    path = log_path()
    if not path.exists():
        return None
    copy = path.with_name(f"progress-{now():%Y%m%d-%H%M%S-%f}.jsonl")
    try:
        copy.write_bytes(path.read_bytes())
    except OSError as error:
        raise NotSavedError(_advice(error, copy)) from None
    return copy


# ---- exercises


def attempt(check: str, status: str, hint: str = "", source: str = "") -> str:
    """Record one attempt at an exercise; return "" or a message for the learner where it could not be saved.

    `check` is the name of the check (`ring_all_reduce`), `status` "not attempted" | "not yet" | "passed", `hint` the
    hint given, `source` the learner's code, of which only a digest is kept. A stub ("not attempted") is not recorded,
    and neither is the same code with the same outcome, so that running a notebook twice counts once. Never raises.
    """
    import hashlib

    try:
        if status not in STATUSES:
            return f"The check {check!r} answered {status!r}, which is none of {', '.join(STATUSES)}."
        if status == "not attempted":
            return ""
        outcome = {"status": status, "hint": hint[:500], "source": hashlib.sha256(source.encode()).hexdigest()[:16]}
        earlier = attempts(check)
        if earlier and earlier[-1].resp == outcome:
            return ""
        record("checked", f"check:{check}", resp=outcome, ok=status == "passed")
    except Exception as error:  # a check never raises because of its bookkeeping
        return str(error)
    return ""


def attempts(check: str, among: Iterable[Event] | None = None) -> list[Event]:
    """Return the recorded attempts at an exercise, oldest first."""
    chosen = events() if among is None else among
    return [e for e in chosen if e.ev == "checked" and e.item == f"check:{check}" and isinstance(e.resp, dict)]
