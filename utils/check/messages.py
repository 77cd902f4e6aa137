"""Who sent what to whom: the messages of a function on the ranks, recorded as torch issues them.

The record is made below the Python functions of torch.distributed, so it does not depend on how a function is
written (send, isend, batch_isend_irecv). The ledger counts how much; this keeps also who sent to whom, and in which
order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Entry = tuple[str, int, int, tuple[float, ...]]  # operation, the other rank, bytes, the numbers that were sent
NUMBERS = 64  # of a message are kept at most


@dataclass
class Seen:
    """What one rank saw in one trial: what it returned, what its tensor held then, its calls in their order."""

    returned: list[float] | None = None
    inplace: list[float] = field(default_factory=list)
    kind: str = ""
    dtype: str = ""
    log: list[Entry] = field(default_factory=list)
    finished: bool = False

    def numbers_sent(self) -> list[float]:
        """Return the numbers in all messages that this rank sent."""
        return [number for op, _, _, numbers in self.log if op == "send" for number in numbers]

    def messages(self, operation: str = "send") -> list[tuple[int, int]]:
        """Return (other rank, bytes) of the messages with numbers in them that were sent, or received."""
        return [(peer, size) for op, peer, size, _ in self.log if op == operation and size]


def recorder(log: list[Entry]) -> Any:
    """Return a dispatch mode that appends every communication to `log`."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "c10d":
                operation = func.__name__.split(".")[0].strip("_")
                if operation in ("send", "recv"):
                    size = sum(t.numel() * t.element_size() for t in args[0])
                    sent = args[0] if operation == "send" else []
                    numbers = tuple(number for t in sent for number in t.flatten()[:NUMBERS].tolist())
                    log.append((operation, args[2], size, numbers))
                else:
                    log.append((operation, -1, 0, ()))
            return func(*args, **(kwargs or {}))

    return Recorder()


@dataclass(frozen=True)
class Message:
    """One message: it leaves `sender` at time `start` and is at `receiver` one unit later; None: nobody took it."""

    sender: int
    receiver: int
    start: int
    size: int
    taken: bool = True


def timeline(by_rank: Sequence[Seen]) -> list[Message]:
    """Replay the records of all ranks in logical time: a message takes one unit, a rank sends one at a time.

    A receive that was posted ahead of a send (irecv) holds the rank up only when nothing else can go on.
    """
    todo = [[entry for entry in seen.log if entry[0] in ("send", "recv")] for seen in by_rank]
    clock = [0] * len(todo)
    messages: list[Message] = []
    waiting: dict[tuple[int, int], list[int]] = {}  # (sender, receiver) -> numbers of messages under way
    while any(todo):
        moved = False
        for rank, entries in enumerate(todo):
            while entries:
                operation, peer, size, _ = entries[0]
                under_way = waiting.get((peer, rank), [])
                if operation == "send":
                    waiting.setdefault((rank, peer), []).append(len(messages))
                    messages.append(Message(rank, peer, clock[rank], size, taken=False))
                    clock[rank] += 1
                elif under_way:
                    number = under_way.pop(0)
                    sent = messages[number]
                    messages[number] = Message(sent.sender, rank, sent.start, sent.size)
                    clock[rank] = max(clock[rank], sent.start + 1)
                else:
                    break
                entries.pop(0)
                moved = True
        if not moved:
            posted = [entries for entries in todo if any(entry[0] == "send" for entry in entries)]
            if not posted:
                break  # what is left are receives of messages that nobody sent
            for entries in posted:
                first = next(i for i, entry in enumerate(entries) if entry[0] == "send")
                entries.insert(0, entries.pop(first))
    return messages


def rounds(by_rank: Sequence[Seen]) -> int:
    """Return how many messages follow one another on the longest chain of the run."""
    return max((message.start + 1 for message in timeline(by_rank) if message.size), default=0)
