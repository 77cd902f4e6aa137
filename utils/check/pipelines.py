"""Trials of a function that trains a cut model: what gradients it leaves, what it sends, in which order it works.

A trial lays a chain of parts over some of the ranks, in any order, and runs the learner's function once on each. Every
rank compares the gradients on its own part with those of the whole model, which it builds beside it (these models are
tiny). The kernel then judges what all ranks saw.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from utils.check.messages import recorder

BYTES = 4  # of a float32


@dataclass(frozen=True)
class Case:
    """One trial: parts `0, 1, ...` on the ranks of `chain`, with `blocks` blocks each; the sizes of model and batch.

    uncounted: by sequence (and over again), how many of its last targets are -100 and do not count.
    """

    chain: tuple[int, ...]
    blocks: tuple[int, ...]
    sequences: int = 6
    context: int = 5
    width: int = 8
    micro_batches: int | None = None
    uncounted: tuple[int, ...] = ()

    def arguments(self, place: int) -> tuple[Any, ...]:
        """Return what the learner's function gets between the batch and the neighbours, on the part at `place`."""
        return () if self.micro_batches is None else (self.micro_batches,)

    @property
    def activations(self) -> int:
        """Return the bytes of the activations of the whole batch at one cut."""
        return self.sequences * self.context * self.width * BYTES

    @property
    def in_order(self) -> bool:
        """Tell whether part k stands on rank k."""
        return list(self.chain) == list(range(len(self.chain)))

    def __str__(self) -> str:
        parts = len(self.chain)
        where = "rank " + str(self.chain[0]) if parts == 1 else "ranks " + ", ".join(map(str, self.chain))
        micro = f" in {self.micro_batches} micro-batches" if self.micro_batches else ""
        padded = ", some targets -100" if self.uncounted else ""
        return f"{parts} part{'s' * (parts > 1)} on {where}, {self.sequences} sequences{micro}{padded}"


class Log(list):
    """A record of (operation, other rank, bytes); what else is written into an entry is dropped."""

    def append(self, entry: tuple[Any, ...]) -> None:
        """Keep the first three fields."""
        super().append(entry[:3])


@dataclass
class Seen:
    """What one rank saw. `log`: (operation, other rank, bytes), and for its part's work ("backward", -1, 0) and
    ("forward", -1, how many of its outputs were alive then).
    """

    part: int | None = None
    log: Log = field(default_factory=lambda: Log())
    gradients: dict[str, str] = field(default_factory=dict)  # how each compares: see `compare`
    returned: str = ""  # "none", "right", "times 0.5", or what it is
    finished: bool = False
    changed: int = 0  # tensors that were changed between isend and the end of its wait
    unwaited: int = 0  # sends that were begun (isend) and never asked whether they are done

    def messages(self, operation: str = "send") -> list[tuple[int, int]]:
        """Return (other rank, bytes) of the messages sent, or received, in their order."""
        return [(peer, size) for op, peer, size in self.log if op == operation]

    @property
    def order(self) -> list[str]:
        """Return "F" and "B" in the order in which the part worked."""
        return [op[0].upper() for op, *_ in self.log if op in ("forward", "backward")]

    @property
    def held(self) -> int:
        """Return the largest number of outputs of the part that were alive at once."""
        return max((alive for op, _, alive in self.log if op == "forward"), default=0)

    def are(self, kind: str) -> list[str]:
        """Return the names of the parameters whose gradients compare as `kind`."""
        return [name for name, how in self.gradients.items() if how == kind]


# ---------------------------------------------------------------------------------------------------------------------
# On every rank

_state = SimpleNamespace(seen=Seen())
VOCAB = 11
SEED = 4


def run_trial(name: str, case: Case) -> Seen | str:
    """Run the learner's function `name` once on this rank's part of `case`, if it has one."""
    import torch.distributed as dist

    from utils.ranks import engine

    seen = _state.seen = Seen()
    rank = dist.get_rank()
    tied = dist.new_group([case.chain[0], case.chain[-1]]) if len(case.chain) > 1 else None  # every rank takes part
    if rank not in case.chain:
        seen.finished = True
        return seen
    seen.part = place = case.chain.index(rank)
    part = parts_of(case)[place]
    tokens, targets = batch_of(case)
    before = case.chain[place - 1] if place else None
    after = case.chain[place + 1] if place + 1 < len(case.chain) else None
    group = tied if place in (0, len(case.chain) - 1) else None
    note_work(part, seen.log)
    try:
        with recorder(seen.log), _watch_sends(seen):
            value = engine.namespace()[name](part, tokens, targets, *case.arguments(place), before, after, group)
    except NotImplementedError:
        return "not written"
    compare_all(case, part, value, seen)
    seen.finished = True
    return seen


@contextlib.contextmanager
def _watch_sends(seen: Seen) -> Iterator[None]:
    """Count the messages of isend whose Work is dropped (nobody waits for it, nor asks whether it is done), and those
    whose tensor is changed while they may be on their way.
    """
    import torch.distributed as dist
    from torch._C._distributed_c10d import Work

    begun: list[Any] = []
    handed: dict[int, tuple[Any, int]] = {}  # by work: the tensor, and how often it had been changed
    asked: set[int] = set()
    isend, kept = dist.isend, {name: getattr(Work, name) for name in ("wait", "get_future", "is_completed")}

    def begin(*args: Any, **kwargs: Any) -> Any:
        begun.append(isend(*args, **kwargs))
        tensor = args[0] if args else kwargs["tensor"]
        handed[id(begun[-1])] = tensor, tensor._version
        return begun[-1]

    def look(work: int) -> None:
        tensor, version = handed.pop(work, (None, 0))
        seen.changed += tensor is not None and tensor._version != version

    def asking(original: Any) -> Any:
        def ask(work: Any, *args: Any, **kwargs: Any) -> Any:
            asked.add(id(work))
            answer = original(work, *args, **kwargs)
            if answer is not False:  # is_completed() may say: not yet
                look(id(work))
            return answer
        return ask

    modules = (dist, dist.distributed_c10d)  # P2POp compares with the second
    try:
        for module in modules:
            module.isend = begin  # type: ignore[attr-defined]
        for name, original in kept.items():
            setattr(Work, name, asking(original))
        yield
        for work in list(handed):
            look(work)
        seen.unwaited = sum(id(work) not in asked for work in begun)
    finally:
        for module in modules:
            module.isend = isend  # type: ignore[attr-defined]
        for name, original in kept.items():
            setattr(Work, name, original)
        for work in begun if seen.unwaited else ():
            work.wait()


def last_seen() -> Seen:
    """Return what this rank saw in its last trial, also if that did not come to an end."""
    return _state.seen


def parts_of(case: Case) -> list[Any]:
    """Build all parts of a case (tiny ones), from one seed."""
    from utils import model

    config = config_of(case)
    ends = [sum(case.blocks[: k + 1]) for k in range(len(case.blocks))]
    return [
        model.Part(config, range(end - size, end), first=k == 0, last=k == len(ends) - 1, seed=SEED)
        for k, (size, end) in enumerate(zip(case.blocks, ends, strict=True))
    ]


def config_of(case: Case) -> Any:
    """Return the model's sizes."""
    from utils import model

    return model.Config(layers=sum(case.blocks), width=case.width, heads=2, context=case.context, vocab=VOCAB)


def batch_of(case: Case) -> tuple[Any, Any]:
    """Draw the batch: (tokens, targets), int64 [sequences, context], the same on every rank."""
    import torch

    generator = torch.Generator().manual_seed(case.sequences)
    shape = (2, case.sequences, case.context)
    tokens, targets = torch.randint(VOCAB, shape, generator=generator)
    for sequence, count in zip(range(case.sequences), itertools.cycle(case.uncounted), strict=False):
        targets[sequence, case.context - count :] = -100
    return tokens, targets


def note_work(part: Any, log: Log) -> None:
    """Write into `log` when the part starts a forward pass and when it starts a backward pass."""

    outputs: list[weakref.ref[Any]] = []

    def forward(_module: Any, _inputs: Any, output: Any) -> None:
        outputs.append(weakref.ref(output))
        log.append(("forward", -1, sum(ref() is not None for ref in outputs)))
        if output.requires_grad:
            output.register_hook(lambda _gradient: log.append(("backward", -1, 0)))

    part.register_forward_hook(forward)


def compare_all(case: Case, part: Any, value: Any, seen: Seen) -> None:
    """Compare the part's gradients and what the function returned with the whole model's."""
    from utils import model

    tokens, targets = batch_of(case)
    whole = model.GPT(config_of(case), seed=SEED)
    loss = model.loss(whole(tokens), targets)
    loss.backward()
    right = {name: parameter.grad for name, parameter in whole.named_parameters()}
    alone = gradients_apart(case)
    for name, parameter in part.named_parameters():
        expected = right[model.whole_name(name, part.config)]
        seen.gradients[name] = compare(parameter.grad, expected, alone[name] if len(case.chain) > 1 else None)
    number = value.item() if hasattr(value, "item") and value.numel() == 1 else value
    if value is None:
        seen.returned = "none"
    elif isinstance(number, float):
        seen.returned = "right" if abs(number - loss.item()) < 1e-4 else f"{number / loss.item():.3g} times the loss"
    else:
        seen.returned = type(value).__name__


def gradients_apart(case: Case) -> dict[str, Any]:
    """Return the gradients that the parts get while the two uses of the tied weight do not meet."""
    from utils import model

    x, targets = batch_of(case)
    parts = parts_of(case)
    for part in parts:
        x = part(x)
    model.loss(x, targets).backward()
    return {name: parameter.grad for part in parts for name, parameter in part.named_parameters()}


def compare(gradient: Any, expected: Any, alone: Any = None) -> str:
    """Say how a gradient compares: "right", "missing", "own use only", "times 3", "other"."""
    if gradient is None:
        return "missing"
    scale = expected.norm().item() or 1.0
    if (gradient - expected).norm() < 1e-4 * scale:
        return "right"
    if alone is not None and (gradient - alone).norm() < 1e-4 * scale:
        return "own use only"
    factor = (gradient * expected).sum().item() / scale**2
    if factor and (gradient - factor * expected).norm() < 1e-3 * scale * abs(factor):
        return f"times {factor:.3g}"
    return "other"


# ---------------------------------------------------------------------------------------------------------------------
# In the kernel: a replay of work in time


Piece = tuple[int, str, int, float, float]  # part, "F" or "B", micro-batch, start, end


def replay(orders: Sequence[Iterable[tuple[str, int, float]]]) -> list[Piece]:
    """Replay the work of each part in its order; a piece starts when its part is free and its input has come.

    orders: by part, (kind, micro-batch, seconds) in the order of the work. A forward piece needs the same micro-batch's
    forward piece of the part before, a backward piece the backward piece of the part after. Raises ValueError if the
    orders cannot be kept.
    """
    todo = [list(order) for order in orders]
    ends: dict[tuple[int, str, int], float] = {}
    free = [0.0] * len(todo)
    pieces: list[Piece] = []
    while any(todo):
        moved = False
        for part, queue in enumerate(todo):
            while queue:
                kind, micro, seconds = queue[0]
                from_part = part - 1 if kind == "F" else part + 1
                need = (from_part, kind, micro) if 0 <= from_part < len(todo) else (part, "F", micro)
                if need not in ends and need != (part, kind, micro):
                    break
                start = max(free[part], ends.get(need, 0.0))
                free[part] = ends[part, kind, micro] = start + seconds
                pieces.append((part, kind, micro, start, free[part]))
                queue.pop(0)
                moved = True
        if not moved:
            raise ValueError("the parts wait for each other: no piece can start")
    return pieces


def idle_share_of(pieces: Sequence[Piece], parts: int) -> float:
    """Return the share of all parts' time, from the first start to the last end, in which they do not work."""
    span = max(piece[4] for piece in pieces) - min(piece[3] for piece in pieces)
    return 1 - sum(piece[4] - piece[3] for piece in pieces) / (parts * span)
