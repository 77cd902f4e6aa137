"""Try a function that trains or computes gradients on the ranks, and name the mistake behind a wrong gradient.

A trial runs the learner's function on the first n ranks, which are the whole world to it, on a small model and real
text cut into unequal pieces. The ranks send back what came out and what was sent. The kernel computes the truth with
one worker, and beside it what each well-known mistake would give, so that the hint is for the mistake that was made.
"""
from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.check.verdict import NotYet

if TYPE_CHECKING:
    from torch import Tensor

CLOSE = 2e-4  # relative distance below which two gradients are the same
RATE = 0.1
FROZEN = "position.weight"
KEPT = (16, 3, 11, 5, 0, 7, 2, 13, 1)  # target tokens that count, by sequence, where sequences are ragged

HINTS = {
    "ranks": "You add up the ranks' means. Each is a mean already, so the sum is too large by the number of ranks. "
             "AdamW would hide it.",
    "ranks and micro-batches": "You add up over ranks and over micro-batches, and each term is a mean already.",
    "micro-batches": "You add up the means of the micro-batches. One denominator is needed, the number of target "
                     "tokens of all of them.",
    "never divided": "The losses of all tokens are added up, but their sum is never divided by the number of tokens.",
    "padding": "Your denominator counts every target. Those of -100 are not in the sum, so they must not be in the "
               "count either.",
    "four": "This is right only on 4 ranks: divide by what `dist.get_world_size()` says, not by a fixed number.",
    "twice": "You divide twice: by the tokens of all ranks (or by the number of ranks), and once more by the number of "
             "ranks.",
    "factor": "The gradient has the right direction and the wrong length: look at what you divide by.",
    "mean of means": "You average the ranks' means. With unequal counts a mean of means is not the mean: add up sums, "
                     "and divide by the number of target tokens of all ranks.",
    "by sequences": "You weigh each rank by its number of sequences. The loss is a mean over target tokens, which are "
                    "not spread evenly over sequences: weigh by tokens.",
    "mean of micro-batch means": "You average the means of micro-batches. With unequal token counts that is not the "
                                 "mean: add up sums, and divide once, by the target tokens of all ranks.",
    "last micro-batch": "Only the last micro-batch is left: gradients are cleared inside the loop. Clear them once, "
                        "before it.",
    "added up again": "What was synchronised after one micro-batch is synchronised again after the next, so early "
                      "micro-batches count several times. Synchronise once, after the loop.",
    "other": "The gradient is not that of the mean loss over all target tokens of all ranks. Compare it with one "
             "worker's, by hand, on one step.",
    "nan": "The result is NaN. A mean over no tokens is 0 / 0: use the sum of the losses, and divide by the number of "
           "target tokens of all ranks, which is not zero.",
    "idle rank": "A rank without data leaves out a call that the others wait in. It has nothing to compute, but it "
                 "must make every collective call, with gradients of zero.",
    "unequal numbers": "Not all ranks make the same calls when they have different numbers of micro-batches. "
                       "Synchronise once, after the loop; a rank without micro-batches takes part with zeros.",
    "order": "Not all ranks make the same calls in the same order: every rank must reach every collective.",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One trial on the first `n` ranks.

    sizes: for task "train_as_one" by step, by rank: sequences; for "accumulate" by rank, by micro-batch: sequences.
    ragged: sequences have unequal numbers of target tokens. frozen: one parameter needs no gradient.
    """

    task: str
    title: str
    n: int
    sizes: tuple[tuple[int, ...], ...]
    ragged: bool = False
    frozen: bool = False

    def pieces(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Return by rank its list of (tokens, targets): a piece a step, or a piece a micro-batch."""
        if self.task == "accumulate":
            flat = self._batch([size for sizes in self.sizes for size in sizes], 0)
            return [[flat.pop(0) for _ in sizes] for sizes in self.sizes]
        steps = [self._batch(sizes, step) for step, sizes in enumerate(self.sizes)]
        return [list(shards) for shards in zip(*steps, strict=True)]

    def _batch(self, sizes: Sequence[int], step: int) -> list[tuple[Tensor, Tensor]]:
        from utils import model

        tokens, targets = model.batch(step, sum(sizes), context=config().context)
        if self.ragged:
            for index, row in enumerate(targets):
                row[KEPT[(index + step) % len(KEPT)] :] = -100
        return list(zip(tokens.split(list(sizes)), targets.split(list(sizes)), strict=True))

    def network(self, rank: int = 0) -> Any:
        """Build the model as `rank` gets it: in training each rank has other first values."""
        from utils import model

        network = model.GPT(config(), seed=3 + rank * (self.task == "train_as_one"))
        if self.frozen:
            network.get_parameter(FROZEN).requires_grad_(False)
        return network


def config() -> Any:
    """Return the sizes of the model that is tried."""
    from utils import model

    return model.Config(layers=1, width=16, heads=2, context=16)


# ---------------------------------------------------------------------------------------------------------------------
# On every rank


@dataclass
class Seen:
    """What one rank brings back from a trial."""

    returned: Any = None
    tensors: dict[str, Tensor] = field(default_factory=dict)  # parameters after training, or gradients
    calls: list[tuple[str, int]] = field(default_factory=list)  # operation, bytes handed over
    before: int | None = None  # how many of the calls came before the end of the first forward pass
    alive: int = 0  # forward passes whose activations were held at once
    largest: int = 0  # sequences in one forward pass

    def sent(self, *operations: str) -> int:
        """Return the bytes handed to these operations."""
        return sum(size for op, size in self.calls if op in operations)

    def sent_except(self, *operations: str) -> int:
        """Return the bytes handed to other operations than these."""
        return sum(size for op, size in self.calls if op not in operations)


def on_a_ring(calls: Sequence[tuple[str, int]], n: int) -> float:
    """Return what the calls send in a ring of n ranks, in units of (n - 1)/n bytes: an all-reduce sends its payload
    twice, a reduce-scatter once, an all-gather the whole that it brings together once.
    """
    weights = {"all_reduce": 2.0, "all_gather": n, "all_gather_single": n, "gather": n, "recv": 0.0}
    weights["send"] = n / max(n - 1, 1)
    return sum(weights.get(op, 1.0) * size for op, size in calls)


def run_case(name: str, case: Case) -> Seen | None:
    """Run the learner's function called `name` once on this rank; None on ranks that take no part."""
    import torch
    import torch.distributed as dist

    from utils.ranks import engine

    namespace = engine.namespace()
    with world_of(case.n, namespace) as member:
        if not member:
            return None
        rank, seen = dist.get_rank(), Seen()
        network, pieces = case.network(rank), case.pieces()[rank]
        _watch_graphs(network, seen)
        stop = engine.on_call(lambda call: seen.calls.append((call.op, call.payload)))
        try:
            seen.returned = _plain(namespace[name](network, pieces, *[RATE] * (case.task == "train_as_one")))
        finally:
            stop()
    for key, parameter in network.named_parameters():
        value = parameter if case.task == "train_as_one" else parameter.grad
        seen.tensors[key] = (torch.zeros_like(parameter) if value is None else value).detach().clone()
    return seen


@contextlib.contextmanager
def world_of(n: int, namespace: dict[str, Any]) -> Iterator[bool]:
    """Make the first n ranks the whole world for a while; give whether this rank is one of them."""
    import torch.distributed as dist

    rank, before = dist.get_rank(), dist.GroupMember.WORLD
    if n == dist.get_world_size():
        yield True
        return
    group = dist.new_group(list(range(n)))  # every rank of the world makes this call
    if rank >= n:
        yield False
        return
    old = namespace.get("world_size")
    dist.GroupMember.WORLD = group
    namespace["world_size"] = n
    try:
        yield True
    finally:
        dist.GroupMember.WORLD = before
        namespace["world_size"] = old


def _watch_graphs(network: Any, seen: Seen) -> None:
    """Count the forward passes whose backward has not come yet, and note when the first one came."""
    alive = 0

    def forward(_: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal alive
        seen.before = len(seen.calls) if seen.before is None else seen.before
        seen.largest = max(seen.largest, len(inputs[0]))
        if output.requires_grad and len(inputs[0]):
            alive += 1
            seen.alive = max(seen.alive, alive)
            output.register_hook(backward)

    def backward(_: Any) -> None:
        nonlocal alive
        alive -= 1

    network.register_forward_hook(forward)


def _plain(value: Any) -> Any:
    """Turn tensors into numbers, lists of them into lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def trial(name: str, case: Case) -> list[Seen]:
    """Run one case on the ranks. Raise NotYet, with the usual cause here, if they wait for each other for ever."""
    from utils import ranks

    try:
        seen = [one for one in ranks.call(run_case, name, case) if one is not None]
    except ranks.RanksError as error:
        unwritten = any(state.name == "NotImplementedError" for state in error.states.values())
        if unwritten or error.cause not in ("skipped", "order", "unmatched", "mismatch"):
            raise
        key = "order"
        if case.task == "accumulate" and len({len(sizes) for sizes in case.sizes}) > 1:
            key = "unequal numbers"
        elif case.task == "train_as_one" and any(0 in sizes for sizes in case.sizes):
            key = "idle rank"
        raise NotYet("deadlock", HINTS[key], tried(case), *str(error).splitlines()[:8]) from None
    finite = all(bool(tensor.isfinite().all()) for one in seen for tensor in one.tensors.values())
    returned = (value for one in seen for value in (one.returned if isinstance(one.returned, list) else [one.returned]))
    if not finite or any(isinstance(value, float) and not math.isfinite(value) for value in returned):
        raise NotYet("result", HINTS["nan"], tried(case))
    return seen


def tried(case: Case) -> str:
    """Say what was tried."""
    return f"Tried: {case.title}."


# ---------------------------------------------------------------------------------------------------------------------
# The truth, and what mistakes would give


@dataclass(frozen=True)
class Piece:
    """One piece of a global batch: the gradient of its summed loss (one long vector), that sum, and its counts."""

    gradient: Tensor
    loss: float
    tokens: int
    sequences: int
    padded: int  # tokens, those of -100 included

    @property
    def mean(self) -> Tensor:
        """Return the gradient of the mean loss of this piece; zeros where no token counts."""
        return self.gradient / max(self.tokens, 1)


def parts_of(network: Any, pieces: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> list[list[Piece]]:
    """Compute, by rank, what one worker finds for each piece."""
    from utils import model

    def part(tokens: Tensor, targets: Tensor) -> Piece:
        network.zero_grad()
        loss = model.loss(network(tokens), targets, reduction="sum")
        loss.backward()
        gradient = vector({k: p.grad for k, p in network.named_parameters() if p.requires_grad})
        return Piece(gradient, loss.item(), int((targets != -100).sum()), len(tokens), targets.numel())

    return [[part(*piece) for piece in row] for row in pieces]


def vector(tensors: Mapping[str, Any]) -> Tensor:
    """Join tensors to one long vector of double precision."""
    import torch

    return torch.cat([tensor.detach().flatten().double() for tensor in tensors.values()])


def truth(parts: Sequence[Sequence[Piece]]) -> tuple[Tensor, float]:
    """Return gradient and value of the mean loss over all target tokens."""
    everything = [piece for row in parts for piece in row]
    count = sum(piece.tokens for piece in everything)
    total: Any = sum(piece.gradient for piece in everything)
    return total / count, sum(piece.loss for piece in everything) / count


def _mistakes(parts: Sequence[Sequence[Piece]], task: str) -> dict[str, Any]:
    """Return the gradient that each known mistake would give, up to a factor."""
    busy = [row for row in parts if row]
    by_rank = [sum(p.gradient for p in row) / max(sum(p.tokens for p in row), 1) for row in busy]
    found: dict[str, Any] = {
        "mean of means": sum(by_rank),
        "by sequences": sum(g * sum(p.sequences for p in row) for g, row in zip(by_rank, busy, strict=True)),
    }
    if task == "accumulate":
        found["mean of micro-batch means"] = sum(sum(p.mean for p in row) / len(row) for row in busy)
        found["last micro-batch"] = sum(row[-1].gradient for row in busy)
        for name, kind in (("added up again", "gradient"), ("means added up again", "mean")):
            again: Any = 0
            for index in range(max(map(len, parts))):
                again = again * len(parts) + sum(getattr(row[index], kind) for row in parts if index < len(row))
            found[name] = again
    return found


def _factor(found: Tensor, expected: Tensor) -> float | None:
    """Return k where found is k times expected, or None."""
    k, length = float(found @ expected / (expected @ expected)), float(found.norm())
    return k if length > 0 and float((found - k * expected).norm()) <= 5 * CLOSE * length else None


def explained(found: Tensor, parts: Sequence[Sequence[Piece]], case: Case) -> NotYet:
    """Say which known mistake gives this gradient."""
    true, _ = truth(parts)
    k = _factor(found, true)
    if k is not None:
        details = (f"The gradient is {k:.4g} times the true one.", tried(case))
        return NotYet("result", HINTS[_why_factor(k, parts)], *details)
    for mistake, gradient in _mistakes(parts, case.task).items():
        if _factor(found, gradient) is not None:
            return NotYet("result", HINTS[mistake.removeprefix("means ")], tried(case))
    distance = float((found - true).norm() / true.norm())
    return NotYet("result", HINTS["other"], f"Relative distance from the true gradient: {distance:.2g}.", tried(case))


def _why_factor(k: float, parts: Sequence[Sequence[Piece]]) -> str:
    """Name the mistake that makes a gradient k times too long."""
    n, micro = len(parts), len(parts[0])
    tokens = sum(piece.tokens for row in parts for piece in row)
    padded = sum(piece.padded for row in parts for piece in row)
    factors = [
        (n, "ranks"), (n * micro, "ranks and micro-batches"), (micro, "micro-batches"), (1 / n, "twice"),
        (tokens, "never divided"), (tokens / n, "never divided"), (tokens / padded, "padding"),
        (n / 4, "four"), (4 / n, "four"),
    ]  # fmt: skip
    return next((why for value, why in factors if value != 1 and abs(k / value - 1) < 1e-3), "factor")
