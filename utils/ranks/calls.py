"""Every call of `torch.distributed` on this rank, seen where all of them pass: PyTorch's dispatcher.

Whoever makes it (a cell, DDP's C++, FSDP's functional collectives), a collective or a message becomes an operator of
the dispatcher, `c10d::allreduce_` or `c10d::send`. Here a kernel is registered above the real one, for the dispatch
key BackendSelect, which every call passes. No function of PyTorch is replaced, with one exception: `Work.wait` is
wrapped, because a wait in C++ leaves no Python frame and so cannot be told from a computation.

The kernel does three things. It numbers the calls of each group, and the messages of each pair of ranks. It writes
what is about to be called into the table all ranks see, and raises `Mismatch` before calling if another rank has
called something else as the same number. And it tells the callbacks of `on_call`.
"""

from __future__ import annotations

import collections
import datetime
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch._C import DispatchKey
from torch._C._distributed_c10d import ProcessGroup, Work

from utils.ranks.table import digest

ANY = " any"  # after a group's name: its receives from anyone that have not come yet
Frame = tuple[int, int, str]  # number of a cell, line in it, function


class Mismatch(RuntimeError):
    """This rank was about to call something other than what another rank has called in the same place."""


@dataclass(eq=False)
class Call:
    """One collective or message, as begun on this rank.

    `payload` is in bytes: the tensors this rank hands to the operation (for `recv`, the buffer it fills). `number`
    counts from 1: the collectives of the group, or the messages of this pair of ranks with this tag. `peer` is the
    other rank of a message, or the root, as a rank of the world.
    """

    op: str
    group: str
    ranks: tuple[int, ...]
    number: int
    shapes: list[tuple[int, ...]]
    dtype: str
    payload: int
    signature: str
    peer: int | None = None
    tag: int = 0
    channel: str = ""  # "source>destination#tag" of a message
    order: int = 0  # among all calls of this rank
    cell: int = 0
    via: str = ""  # the function of torch.distributed that was called, where it has another name than `op`
    frames: list[Frame] = field(default_factory=list)  # the learner's own, outermost first

    @property
    def kind(self) -> str:
        """Return "send", "recv", "any" (a receive from whoever sends) or "collective"."""
        return self.op if self.op in ("send", "recv") and self.channel else "any" if self.op == "recv" else "collective"

    def channel_from(self, source: int, target: int) -> str:
        """Return the name of the way from one rank to another in this group and with this tag."""
        return f"{self.group} {source}>{target}#{self.tag}"

    def plain(self) -> dict[str, Any]:
        """Return this call as simple values."""
        return {**asdict(self), "kind": self.kind}


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in an argument: a tensor, a list, or a list of lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for item in value for t in _tensors(item)] if isinstance(value, (list, tuple)) else []


@dataclass(frozen=True)
class _Form:
    """How an operator's arguments are read: the name learners know, what must agree, what is handed in."""

    name: str
    agree: int | None  # argument whose shapes and types must be equal on all ranks
    payload: int
    group: int = 1
    root: int | None = None


_FORMS = {
    "allreduce_": _Form("all_reduce", 0, 0),
    "allreduce_coalesced_": _Form("all_reduce", 0, 0),
    "broadcast_": _Form("broadcast", 0, 0, root=2),
    "reduce_": _Form("reduce", 0, 0, root=3),
    "allgather_": _Form("all_gather", 1, 1, group=2),
    "allgather_coalesced_": _Form("all_gather", 1, 1, group=2),
    "_allgather_base_": _Form("all_gather_single", 1, 1, group=2),
    "allgather_into_tensor_coalesced_": _Form("all_gather_single", 1, 1, group=2),
    "gather_": _Form("gather", 1, 1, group=2, root=3),
    "scatter_": _Form("scatter", 0, 1, group=2, root=3),
    "reduce_scatter_": _Form("reduce_scatter", 1, 1, group=2),
    "_reduce_scatter_base_": _Form("reduce_scatter_single", 1, 1, group=2),
    "reduce_scatter_tensor_coalesced_": _Form("reduce_scatter_single", 1, 1, group=2),
    "alltoall_": _Form("all_to_all", None, 1, group=2),
    "alltoall_base_": _Form("all_to_all_single", None, 1, group=2),
    "barrier": _Form("barrier", None, 0),
    "monitored_barrier_": _Form("monitored_barrier", None, 0),
    "send": _Form("send", None, 0),
    "recv_": _Form("recv", None, 0),
    "recv_any_source_": _Form("recv", None, 0),
}


class Book:
    """What this rank has called since the world was made."""

    def __init__(self, rank: int, epoch: int, table: Any):
        self.rank, self.epoch, self.table = rank, epoch, table
        self.lock = threading.RLock()
        self.groups: dict[str, tuple[int, ...]] = {}
        self.collectives: collections.Counter[str] = collections.Counter()
        self.sent: collections.Counter[str] = collections.Counter()
        self.received: collections.Counter[str] = collections.Counter()
        self.recent: dict[str, collections.deque[Call]] = {}
        self.pending: dict[int, tuple[Call, Any]] = {}  # by identity of the Work, which is held meanwhile
        self.over: dict[int, weakref.ref[Any]] = {}  # messages whose wait() has returned, by identity of their Work
        self.waiting: dict[int, tuple[int, Call]] = {}  # by thread: serial number of the wait, what it waits for
        self.waits = self.order = 0
        self.mismatch: Call | None = None
        self.failed: Call | None = None  # the call in which an error was raised last
        self.fed = False  # a receive from anyone was ended by an empty message

    # -- beginning a call -------------------------------------------------------------------------------------------

    def read(self, name: str, args: tuple[Any, ...]) -> Call:
        """Return the call that these arguments of the operator `name` make; nothing is counted yet."""
        form = _FORMS[name]
        pg = ProcessGroup.unbox(args[form.group])
        group, ranks = self._group(pg)
        tensors = _tensors(args[form.payload])
        call = Call(
            op=form.name, group=group, ranks=ranks, number=0, shapes=[tuple(t.shape) for t in tensors],
            dtype=str(tensors[0].dtype)[6:] if tensors else "",
            payload=0 if name.endswith("barrier_") or name == "barrier" else sum(t.nbytes for t in tensors),
            signature="",
        )  # fmt: skip
        if name in ("send", "recv_"):
            call.peer, call.tag = self._member(ranks, args[2], form.name), args[3]
            if call.peer == self.rank:
                raise ValueError(f"rank {self.rank} calls {form.name} with itself: copy what stays on its rank")
            ends = (self.rank, call.peer) if name == "send" else (call.peer, self.rank)
            call.channel = call.channel_from(*ends)
            # A message may arrive in another shape: only type and number of elements must agree.
            call.signature = f"{call.dtype} of {sum(t.numel() for t in tensors)} elements"
        else:
            if name == "recv_any_source_":
                call.tag = args[2]
            if form.root is not None:
                call.peer = self._member(ranks, args[form.root], form.name)
            call.signature = self._signature(form, call, args)
        return call

    @staticmethod
    def _member(ranks: tuple[int, ...], index: int, name: str) -> int:
        """Return the rank that is number `index` of a group; raise ValueError where the group has none such."""
        if not 0 <= index < len(ranks):
            ring = f" In a ring count modulo the number of ranks: {'(rank - 1)' if index < 0 else '(rank + 1)'} % n."
            raise ValueError(f"{name}: there is no rank {index} among {len(ranks)} (0 to {len(ranks) - 1}).{ring}")
        return ranks[index]

    @staticmethod
    def _signature(form: _Form, call: Call, args: tuple[Any, ...]) -> str:
        words = [form.name]
        if form.agree is not None and (agree := _tensors(args[form.agree])):
            shapes = sorted({str(list(t.shape)) for t in agree}) if len(agree) < 4 else []
            words += [str(agree[0].dtype)[6:], " and ".join(shapes)]
            if len(agree) > 1 or len(shapes) != 1:
                words.append(f"({len(agree)} tensors, {sum(t.numel() for t in agree)} elements)")
        elif form.name.startswith("all_to_all"):
            words.append(call.dtype)
        if call.peer is not None:
            words.append(("to" if form.name in ("reduce", "gather") else "from") + f" rank {call.peer}")
        return " ".join(filter(None, words))

    def _group(self, pg: Any) -> tuple[str, tuple[int, ...]]:
        name = pg.group_name
        if name not in self.groups:
            known = dist.distributed_c10d._world.pg_group_ranks.get(pg)
            self.groups[name] = tuple(sorted(known, key=known.__getitem__)) if known else tuple(range(pg.size()))
        return name, self.groups[name]

    def begin(self, call: Call) -> None:
        """Number the call, publish it, and raise `Mismatch` if another rank has called something else."""
        with self.lock:
            counter, key = self._counter(call)
            counter[key] += 1
            self.order += 1
            call.order = self.order
            call.number = counter[key]
            self.recent.setdefault(key, collections.deque(maxlen=16)).append(call)
            if len(self.pending) > 8:
                self.prune()
        if call.kind == "any":
            return
        others = [r for r in ((call.peer,) if call.channel else call.ranks) if r is not None and r != self.rank]
        differs = self.table.claim(self._place(call), call.number, call.signature, others)
        if differs:
            self.undo(call)
            self.mismatch = call
            raise Mismatch(f"rank {self.rank} calls {call.signature}, but rank {differs[0]} called {differs[1]}")

    def undo(self, call: Call) -> None:
        """Take back a call that was not made."""
        with self.lock:
            counter, key = self._counter(call)
            counter[key] -= 1
            if self.recent[key] and self.recent[key][-1] is call:
                self.recent[key].pop()
        if call.kind != "any":
            self.table.erase(self._place(call), call.number)

    def _place(self, call: Call) -> int:
        return digest(self.epoch, call.channel or (call.group, call.ranks))

    def _counter(self, call: Call) -> tuple[collections.Counter[str], str]:
        if call.channel:
            return (self.sent if call.op == "send" else self.received), call.channel
        return (self.received, call.group + ANY) if call.kind == "any" else (self.collectives, call.group)

    # -- waiting ----------------------------------------------------------------------------------------------------

    def enter(self, call: Call) -> None:
        """Note that this thread waits for a call."""
        self.waits += 1
        self.waiting[threading.get_ident()] = (self.waits, call)

    def leave(self) -> None:
        """Note that this thread waits no more."""
        self.waiting.pop(threading.get_ident(), None)

    def note_over(self, work: Any) -> None:
        """Note that a message was waited for, as long as its Work lives."""
        key = id(work)
        self.over[key] = weakref.ref(work, lambda _: self.over.pop(key, None))

    def came(self, call: Call, work: Any) -> None:
        """Count a receive from anyone, now complete, to the rank that sent."""
        with self.lock:
            self.received[call.channel_from(call.ranks[work._source_rank()], self.rank)] += 1
            self.received[call.group + ANY] -= 1

    def prune(self) -> None:
        """Let go of the calls that are complete, and of messages whose Work nobody but this book holds."""
        with self.lock:
            for key in list(self.pending):
                call, work = self.pending[key]
                # 3: the book, the name here, the argument of getrefcount. A message is complete only once waited for.
                if work.is_completed() or (call.kind != "collective" and sys.getrefcount(work) <= 3):
                    self.pending.pop(key, None)

    def feed(self, call: dict[str, Any]) -> None:
        """Send an empty message to a rank that waits for one from anyone: gloo cannot end that wait otherwise."""
        for group in list(dist.distributed_c10d._world.pg_map):
            if group.group_name == call["group"] and isinstance(group, ProcessGroup):
                tensor = torch.zeros(call["shapes"][0], dtype=getattr(torch, call["dtype"]))
                backend: Any = group._get_backend(
                    tensor.device
                )  # below the dispatcher: this is no call of the learner's
                target = list(call["ranks"]).index(call["from"])
                backend.send([tensor], target, call["tag"]).wait(datetime.timedelta(seconds=1))

    def report(self, cell: int) -> dict[str, Any]:
        """Return what the watcher compares between ranks: counts by group and channel, and the latest calls."""
        with self.lock:
            recent = sorted((c for calls in self.recent.values() for c in calls), key=lambda c: c.order)
            return {
                "groups": dict(self.groups),
                "made": self._made(),
                "new_groups": dist.distributed_c10d._world.group_count - 1,
                "collectives": dict(self.collectives),
                "sent": dict(self.sent),
                "received": dict(self.received),
                "recent": [c.plain() for c in recent if c.cell == cell][-200:],
            }

    @staticmethod
    def _made() -> dict[str, list[int]]:
        """Return the members of the groups made here, by name; groups of others, made here too, have no entry."""
        known = list(dist.distributed_c10d._world.pg_group_ranks.items())
        return {group.group_name: sorted(ranks) for group, ranks in known if isinstance(group, ProcessGroup)}


class _Now:
    """What the kernels look at: the book of this world, the cell that runs, who listens."""

    book: Book | None = None
    cell = 0
    trace: Callable[[Any], tuple[list[Frame], str]] = staticmethod(lambda frame: ([], ""))
    listeners: list[Callable[[Call], None]] = []


now = _Now


def book() -> Book:
    """Return the book of this rank's world."""
    if now.book is None:
        raise RuntimeError("this process has not joined a world")
    return now.book


_library: Any = None


def on_call(callback: Callable[[Call], None]) -> Callable[[], None]:
    """Call `callback(call)` for each collective and message of this rank, before it is made; return how to end that."""
    now.listeners.append(callback)
    return lambda: now.listeners.remove(callback)


def install() -> None:
    """Register the kernels and wrap `Work.wait`; once in a process."""
    global _library
    if _library:
        return
    _library = torch.library.Library("c10d", "IMPL")
    for name in _FORMS:
        _library.impl(name, _kernel(name, getattr(torch.ops.c10d, name).default), "BackendSelect", with_keyset=True)
    wait_in_c = Work.wait

    def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
        book = now.book
        entry = book.pending.get(id(self)) if book else None
        if book is None or entry is None or entry[1] is not self:
            if book and (seen := book.over.get(id(self))) and seen() is self:
                # gloo would wait for a second message, for ever
                raise RuntimeError("this message is over: its wait() has returned before. Wait for each Work once.")
            return wait_in_c(self, *args, **kwargs)
        book.enter(entry[0])
        try:
            result = wait_in_c(self, *args, **kwargs)
            if entry[0].kind == "any":
                if book.fed:
                    raise RuntimeError("nobody sends any more")
                book.came(entry[0], self)
            return result
        except BaseException:
            book.failed = entry[0]
            raise
        finally:
            book.leave()
            book.pending.pop(id(self), None)
            if entry[0].kind != "collective":
                book.note_over(self)

    Work.wait = wait  # type: ignore[method-assign]


def _kernel(name: str, op: Any) -> Callable[..., Any]:
    def kernel(keys: Any, *args: Any, **kwargs: Any) -> Any:
        below = keys.remove(DispatchKey.BackendSelect)
        book = now.book
        if book is None:
            return op.redispatch(below, *args, **kwargs)
        call = book.read(name, args)
        call.cell = now.cell
        call.frames, call.via = now.trace(sys._getframe())
        for listener in list(now.listeners):
            listener(call)
        book.begin(call)
        book.enter(call)  # some operations wait here and not in Work.wait
        try:
            result = op.redispatch(below, *args, **kwargs)
        except BaseException:
            book.undo(call)
            book.failed = call
            raise
        finally:
            book.leave()
        work = result[-1] if isinstance(result, tuple) else result
        if work is not None:
            work = Work.unbox(work)
            book.pending[id(work)] = (call, work)
        return result

    return kernel
