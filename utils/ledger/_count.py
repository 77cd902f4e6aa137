"""What a line of source sends: calls and payload by operation and rank, bytes on the wire by rank."""
from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from utils.ledger import _wire
from utils.ledger._book import amount, table


@dataclass(frozen=True)
class Call:
    """One collective or message as a rank began it: `payload` in bytes, `peer` the other rank or the root, if any."""

    op: str
    payload: int
    peer: int | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    dtype: str = ""
    group: tuple[int, ...] = ()


@dataclass
class Seen:
    """What one rank counted: its calls in their order, bytes its sockets sent and received, and why not, if not."""

    calls: list[Call] = field(default_factory=list)
    wire: int = 0
    received: int = 0
    no_wire: str = ""


@dataclass(frozen=True)
class Count:
    """What was sent. Lists are by rank, in the order of `ranks`; payload and wire are in bytes.

    `log[i]` are the calls of a rank in their order. `wire` is what its sockets sent, headers of gloo included; None
    where the platform does not count it, and `no_wire` says why.
    """

    log: list[list[Call]]
    wire: list[int] | None
    received: list[int] | None
    ranks: list[int]
    no_wire: str = ""

    @property
    def ops(self) -> list[str]:
        """Name the operations, in order of the alphabet."""
        return sorted({call.op for calls in self.log for call in calls})

    @property
    def calls(self) -> dict[str, list[int]]:
        """Count the calls: operation -> number by rank."""
        return {op: [sum(call.op == op for call in calls) for calls in self.log] for op in self.ops}

    @property
    def payload(self) -> dict[str, list[int]]:
        """Add up the bytes handed to each operation (for recv: of the buffer it fills): operation -> bytes by rank."""
        return {op: [sum(c.payload for c in calls if c.op == op) for calls in self.log] for op in self.ops}

    def texts(self) -> list[tuple[str, str, str, str]]:
        """Give the rows of the table."""
        rows = [
            (op, self._by_rank(self.calls[op], ""), self._by_rank(self.payload[op], "bytes"), "") for op in self.ops
        ]
        wire = self.no_wire if self.wire is None else self._by_rank(self.wire, "bytes")
        return [*rows, ("all", self._by_rank([len(c) for c in self.log], ""), "", wire)]

    def _by_rank(self, values: list[int], unit: str) -> str:
        texts = [amount(v, unit) for v in values]
        return texts[0] if len(set(texts)) == 1 else ", ".join(texts)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        each = f"{len(self.ranks)} ranks; one value: the same on each of them, several: by rank"
        return table(("operation", "calls", "payload", "on the wire"), self.texts(), each)

    def __repr__(self) -> str:
        return self._repr_mimebundle_()["text/plain"]


class _Recording:
    """A recording under way on this rank."""

    seen: Seen | None = None
    end: Any = None
    before: _wire.Counters = {}


def begin() -> None:
    """Begin, on a rank, to write down its calls and to count its sockets' bytes."""
    from utils.ranks import engine

    if _Recording.end:
        _Recording.end()
    seen = Seen(no_wire=_wire.why_not())

    def note(call: Any) -> None:
        shapes = tuple(tuple(shape) for shape in call.shapes)
        seen.calls.append(Call(call.op, call.payload, call.peer, shapes, call.dtype, tuple(call.ranks)))

    _Recording.seen, _Recording.before = seen, _wire.read(engine.group_sockets())
    _Recording.end = engine.on_call(note)


def end() -> Seen:
    """End the recording on this rank and give what was seen; an empty one if none had begun."""
    from utils.ranks import engine

    seen, stop = _Recording.seen, _Recording.end
    _Recording.seen = _Recording.end = None
    if stop:
        stop()
    if seen is None:
        return Seen()
    seen.wire, seen.received = _wire.between(_Recording.before, _wire.read(engine.group_sockets()))
    return seen


@contextlib.contextmanager
def recording() -> Iterator[Seen]:
    """Record, on a rank, the calls and bytes of the block: for checks that run the learner's function themselves."""
    begin()
    seen = _Recording.seen
    assert seen is not None
    try:
        yield seen
    finally:
        end()


def count(source: str, on: int | Iterable[int] | None = None) -> Count:
    """Run source on the ranks (all, or those in `on`) and count what they send. Prints what the source prints.

    Raises RanksError, after the ranks have explained it, if the source fails.
    """
    from utils import ranks

    ranks.call(begin, on=on)
    try:
        ranks.run(quiet(source), on=on)
    except BaseException:
        _try_to_end(on)
        raise
    return gathered(ranks.call(end, on=on), on)


def gathered(seen: list[Seen], on: int | Iterable[int] | None = None) -> Count:
    """Put together what the ranks have seen."""
    chosen = list(range(len(seen))) if on is None else sorted({on} if isinstance(on, int) else set(on))
    no_wire = next((s.no_wire for s in seen if s.no_wire), "")
    sent, received = [s.wire for s in seen], [s.received for s in seen]
    return Count([s.calls for s in seen], None if no_wire else sent, None if no_wire else received, chosen, no_wire)


def quiet(source: str) -> str:
    """Keep the value of the last expression from being shown; lines keep their numbers."""
    return source.rstrip() + "\nNone"


def _try_to_end(on: int | Iterable[int] | None) -> None:
    """End the recording although something went wrong; a rank that is gone has nothing to end."""
    from utils import ranks

    with contextlib.suppress(ranks.RanksError):
        ranks.call(end, on=on)
