"""Checks of the exercises on sharded data parallelism: flat shards, a ZeRO-1 step, gather-use-free, the global norm."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.check.gradients import world_of
from utils.check.sharded_mistakes import HINTS
from utils.check.verdict import NotYet, exercise

if TYPE_CHECKING:
    from torch import Tensor

CLOSE = 1e-4  # relative distance below which two results are the same
RATE, MOMENTUM = 0.1, 0.9


@dataclass
class Seen:
    """What one rank brings back from a trial."""

    returned: Any = None
    tensors: list[Tensor] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)  # operation, bytes handed over
    most: int = 0  # blocks whose parameters were there at once
    ahead: bool = False  # rows were gathered before the block in front of them had computed
    kept: int = 0  # blocks whose parameters are there at the end
    levels: list[int] = field(default_factory=list)  # elements of parameters as blocks begin and end, and at the end
    state: int = -1  # elements in the tensors of `state`

    def volume(self, n: int) -> int:
        """Return the bytes that go round, a whole row for each pass: n times what is handed to a gather."""
        passes = {"all_reduce": 2, "all_gather": n, "all_gather_single": n, "gather": n, "broadcast": 1}
        return sum(size * passes.get(op, 1) for op, size in self.calls)


def _trial(function: Callable[..., Seen | None], deadlock: str, *args: Any) -> list[Seen]:
    """Call a trial on the ranks. Raise NotYet, with the usual cause here, if they wait for each other for ever."""
    from utils import ranks

    try:
        return [one for one in ranks.call(function, *args) if one is not None]
    except ranks.RanksError as error:
        unwritten = any(state.name == "NotImplementedError" for state in error.states.values())
        if unwritten or error.cause not in ("skipped", "order", "unmatched", "mismatch"):
            raise
        raise NotYet("deadlock", HINTS[deadlock], *str(error).splitlines()[:8]) from None


def _random(*shape: int, seed: int) -> Tensor:
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _off(found: Any, expected: Any) -> bool:
    """Tell whether a tensor differs from what it should be."""
    return bool(found.shape != expected.shape or not float((found - expected).norm()) <= CLOSE * float(expected.norm()))


# ---- flat shards: a plain function

ROWS = (  # shapes of the tensors, ranks
    (((2, 3), (5,), (1,)), 4), (((2, 2), (1,)), 4), (((3, 3), (2,)), 4), (((4,), (2, 2, 2)), 4), (((7,),), 3),
    (((2,), (1,)), 8),
    (((), (3, 1), (2, 2)), 2), (((6, 5), (11,), ()), 5), (((3,), (4,)), 1),
)  # fmt: skip


@exercise(judges=("result",))
def flat_shards(function: Any) -> None:
    """Judge rows of tensors that are cut into equal shards, and joined again."""
    for shapes, n in ROWS:
        tensors = [_random(*shape, seed=9 + i) + 3 for i, shape in enumerate(shapes)]
        value = function([t.clone() for t in tensors], n)
        if not (isinstance(value, tuple) and len(value) == 2 and callable(value[1])):
            raise NotYet("result", HINTS["not a pair"], f"Got {value!r:.80}.")
        tried = f"Tried: tensors of shapes {', '.join(str(list(shape)) for shape in shapes)} on {n} ranks."
        _judge_shards(list(value[0]), tensors, n, tried)
        _judge_join(value[1], list(value[0]), tensors, tried)


def _judge_shards(shards: list[Tensor], tensors: list[Tensor], n: int, tried: str) -> None:
    import torch

    row = torch.cat([t.flatten() for t in tensors])
    sizes = [t.numel() for t in shards]
    each, details = math.ceil(len(row) / n), (f"Your shards have {sizes} elements.", tried)
    if len(shards) != n:
        raise NotYet("result", HINTS["number of shards"], *details)
    if len(set(sizes)) > 1:
        raise NotYet("result", HINTS["unequal"], *details)
    if sum(sizes) < len(row):
        raise NotYet("result", HINTS["lost"], *details)
    if sizes[0] > each:
        by_tensor = sum(math.ceil(t.numel() / n) for t in tensors)
        raise NotYet("result", HINTS["each tensor" if sizes[0] == by_tensor else "longer"], *details)
    found, rest = torch.cat([s.flatten() for s in shards]), each * n - len(row)
    if found[: len(row)].equal(row):
        if found[len(row) :].any():
            raise NotYet("result", HINTS["zeros"], *details)
        return
    padded = torch.cat([row, row.new_zeros(rest)])
    if torch.stack([s.flatten() for s in shards], 1).flatten().equal(padded):
        raise NotYet("result", HINTS["dealt"], *details)
    if rest and found[-len(row) :].equal(row):
        raise NotYet("result", HINTS["front"], *details)
    raise NotYet("result", HINTS["order"], *details)


def _judge_join(join: Any, shards: list[Tensor], tensors: list[Tensor], tried: str) -> None:
    for factor in (1, 2):
        found = list(join([factor * shard for shard in shards]))
        expected = [factor * t for t in tensors]
        if len(found) == len(expected) and all(a.equal(b) for a, b in zip(found, expected, strict=True)):
            continue
        if factor == 2:
            raise NotYet("result", HINTS["remembers"], tried)
        flat = [a.flatten().tolist() for a in found] == [b.flatten().tolist() for b in expected]
        raise NotYet("result", HINTS["shapes" if flat else "joined"], tried)


# ---- a ZeRO-1 step

STEPS = ((4, 12, 1), (3, 12, 1), (4, 40, 3))  # ranks, elements of the row, steps


@exercise(judges=("result", "memory", "bytes"), ranks=4)
def zero_1_step(name: str) -> None:
    """Judge steps of gradient descent with momentum whose states are shared out."""
    for n, length, steps in STEPS:
        seen = _trial(run_steps, "step deadlock", name, n, length, steps)
        tried = f"Tried: {steps} step{'s' * (steps > 1)} with a row of {length} elements on {n} ranks."
        _judge_step(seen, n, length, steps, tried)


def run_steps(name: str, n: int, length: int, steps: int) -> Seen | None:
    """Run the learner's step on this rank some times; None on ranks that take no part."""
    import torch.distributed as dist
    from torch.utils._pytree import tree_leaves

    from utils.ranks import engine

    namespace, seen = engine.namespace(), Seen()
    with world_of(n, namespace) as member:
        if not member:
            return None
        row, state = _random(length, seed=1), dict[str, Any]()
        stop = engine.on_call(lambda call: seen.calls.append((call.op, call.payload)))
        try:
            for step in range(steps):
                gradient = _random(length, seed=10 * step + dist.get_rank() + 2)
                namespace[name](row, gradient, state, RATE, MOMENTUM)
                seen.tensors.append(row.clone())
        finally:
            stop()
    seen.state = sum(leaf.numel() for leaf in tree_leaves(state) if hasattr(leaf, "numel"))
    return seen


def descend(n: int, length: int, steps: int) -> list[Tensor]:
    """Take the steps of one worker; return the row after each."""
    import torch

    row, momentum, rows = _random(length, seed=1), torch.zeros(length), []
    for step in range(steps):
        each = torch.stack([_random(length, seed=10 * step + rank + 2) for rank in range(n)])
        momentum = MOMENTUM * momentum + each.mean(0)
        row = row - RATE * momentum
        rows.append(row)
    return rows


def _judge_step(seen: list[Seen], n: int, length: int, steps: int, tried: str) -> None:
    import torch

    start, right = _random(length, seed=1), descend(n, length, steps)
    first = [one.tensors[0] for one in seen]
    if not any(_off(row, expected) for one in seen for row, expected in zip(one.tensors, right, strict=True)):
        return _judge_step_cost(seen, n, length, steps, tried)
    if all(row.equal(start) for row in first):
        raise NotYet("result", HINTS["not in place"], tried)
    if not any(_off(row, right[0]) for row in first):
        raise NotYet("result", HINTS["forgets"], tried)
    own = [torch.cat([part[rank] for rank, part in enumerate(rows.chunk(n, 1))])
           for rows in (torch.stack(first), torch.stack([_random(length, seed=r + 2) for r in range(n)]))]
    moved, mean = (start - own[0]) / RATE, (start - right[0]) / RATE
    if any(_off(row, first[0]) for row in first) and not _off(own[0], right[0]):
        raise NotYet("result", HINTS["not gathered"], tried)
    for factor, why in ((n, "summed"), (n / 4, "four"), (1 / n, "divided twice")):
        if factor != 1 and not _off(moved, factor * mean):
            raise NotYet("result", HINTS[why], tried)
    if not _off(moved, own[1]) or not _off(moved, own[1] / n):
        raise NotYet("result", HINTS["own gradient"], tried)
    for k in range(1, n):  # another part of the gradient, or another part of the row
        moved_on = [torch.cat(rows.chunk(n)[k:] + rows.chunk(n)[:k]) for rows in (mean, start)]
        if not (_off(first[0], start - RATE * moved_on[0]) and _off(first[0], moved_on[1] - RATE * mean)):
            raise NotYet("result", HINTS["other shard"], tried)
    raise NotYet("result", HINTS["step"], f"Rank 0: {[round(x, 3) for x in first[0].tolist()[:6]]} ..., one worker: "
                 f"{[round(x, 3) for x in right[0].tolist()[:6]]} ...", tried)


def _judge_step_cost(seen: list[Seen], n: int, length: int, steps: int, tried: str) -> None:
    held = max(one.state for one in seen)
    if held > length // n:
        why = "whole states" if held >= length else "more states"
        raise NotYet("memory", HINTS[why], f"`state` holds {held} elements, the shard {length // n}.", tried)
    if held < length // n and steps > 1:
        raise NotYet("memory", HINTS["no states"], tried)
    volume, needed = seen[0].volume(n), 2 * 4 * length * steps
    if volume > needed:
        why = "all-reduced" if any(op == "all_reduce" for op, _ in seen[0].calls) else "too much"
        raise NotYet("bytes", HINTS[why], f"{volume:,} bytes go round, {needed:,} are enough.", tried)


# ---- gather, use, free

RUNS = (  # ranks, blocks, sequences by rank
    (4, 3, (2, 2, 2, 2)), (3, 2, (2, 1, 2)), (4, 2, (2, 1, 1, 0)),
)  # fmt: skip


@exercise(judges=("result", "memory", "bytes"), ranks=4)
def run_sharded(name: str) -> None:
    """Judge a forward pass through blocks whose parameters are gathered for use and freed after it."""
    for n, count, sizes in RUNS:
        seen = _trial(run_blocks, "run deadlock", name, n, count, sizes)
        tried = f"Tried: {count} blocks on {n} ranks, {', '.join(map(str, sizes))} sequences by rank."
        _judge_run(seen, n, count, sizes, tried)


def blocks_and_rows(count: int, n: int) -> tuple[Any, list[Tensor]]:
    """Build some blocks of the model, and the flat row of each, padded for n ranks."""
    import torch

    from utils import model

    config = model.Config(layers=count, width=16 + 2 * (n == 3), heads=2, context=8)
    blocks = list(model.GPT(config, seed=5).blocks.values())
    rows = []
    for block in blocks:
        row = torch.cat([p.detach().flatten() for p in block.parameters()])
        row = row + 0.01 * _random(len(row), seed=3)  # biases are no zeros, so that a wrong place shows
        rows.append(torch.nn.functional.pad(row, (0, -len(row) % n)))
    return blocks, rows


def fill(block: Any, row: Tensor, shapes: dict[str, Any]) -> None:
    """Give a block the parameters of a row."""
    start = 0
    for name, parameter in block.named_parameters():
        parameter.data = row[start : start + shapes[name].numel()].view(shapes[name])
        start += shapes[name].numel()


def inputs(rank: int, sizes: Sequence[int], width: int) -> Tensor:
    """Draw the sequences of one rank, [sequences, positions, width]."""
    return _random(sizes[rank], 8, width, seed=20 + rank)


def run_blocks(name: str, n: int, count: int, sizes: Sequence[int]) -> Seen | None:
    """Run the learner's forward pass on this rank; None on ranks that take no part."""
    import torch
    import torch.distributed as dist

    from utils.ranks import engine

    namespace, seen = engine.namespace(), Seen()
    with world_of(n, namespace) as member:
        if not member:
            return None
        rank, (blocks, rows) = dist.get_rank(), blocks_and_rows(count, n)
        shapes = {key: parameter.shape for key, parameter in blocks[0].named_parameters()}
        shards = [row.chunk(n)[rank].clone() for row in rows]
        before = [shard.clone() for shard in shards]

        def there() -> int:
            return sum(any(p.numel() for p in block.parameters()) for block in blocks)

        def look(*_: Any) -> None:
            seen.most = max(seen.most, there())
            seen.levels.append(sum(p.numel() for block in blocks for p in block.parameters()))

        for block in blocks:
            for parameter in block.parameters():
                parameter.data = torch.empty(0)
            block.register_forward_pre_hook(look)
            block.register_forward_hook(look)
            block.register_forward_hook(lambda block, *_: computed.append(block))

        computed: list[Any] = []

        def called(call: Any) -> None:
            seen.calls.append((call.op, call.payload))
            gathered = sum(n * size for op, size in seen.calls if op.startswith("all_gather"))
            # A rank without sequences need not call its blocks, so they tell nothing there.
            seen.ahead |= bool(sizes[rank]) and gathered > (len(computed) + 1) * rows[0].nbytes
            look()

        x = inputs(rank, sizes, blocks[0].norm1.normalized_shape[0])
        stop = engine.on_call(called)
        try:
            with torch.no_grad():
                seen.returned = namespace[name](blocks, shards, shapes, x)
        finally:
            stop()
    look()
    seen.kept = there()
    seen.tensors = [torch.tensor([float(not a.equal(b)) for a, b in zip(shards, before, strict=True)])]
    return seen


def _forward(count: int, n: int, x: Tensor, last_goes_back: bool = False) -> Tensor:
    """Give the true output, or the one where the last rank gathers the blocks in the reverse order."""
    import torch

    blocks, rows = blocks_and_rows(count, n)
    shapes = {key: parameter.shape for key, parameter in blocks[0].named_parameters()}
    with torch.no_grad():
        for i, block in enumerate(blocks):
            given = [i] * (n - 1) + [count - 1 - i if last_goes_back else i]  # by rank, whose shard it hands in
            fill(block, torch.cat([rows[owner].chunk(n)[rank] for rank, owner in enumerate(given)]), shapes)
            x = block(x)
    return x


def _judge_run(seen: list[Seen], n: int, count: int, sizes: Sequence[int], tried: str) -> None:
    width = 16 + 2 * (n == 3)
    if any(bool(one.tensors[0].any()) for one in seen):
        raise NotYet("result", HINTS["changed"], tried)
    sent = any(size for one in seen for _, size in one.calls)
    for rank, one in enumerate(seen):
        x = inputs(rank, sizes, width)
        expected = _forward(count, n, x)
        if hasattr(one.returned, "shape") and not _off(one.returned, expected):
            continue
        if not sent:
            raise NotYet("result", HINTS["own shard"], tried)
        if hasattr(one.returned, "shape") and not _off(one.returned, _forward(count, n, x, last_goes_back=True)):
            raise NotYet("result", HINTS["mixed"], tried)
        raise NotYet("result", HINTS["places"], f"The output of rank {rank} is not that of the whole blocks.", tried)
    if max(one.most for one in seen) > 1:
        raise NotYet("memory", HINTS["several" if seen[0].kept < count else "kept"], tried)
    if any(one.kept for one in seen):
        raise NotYet("memory", HINTS["kept"], tried)
    needed, volume = sum(4 * len(row) for row in blocks_and_rows(count, n)[1]), max(one.volume(n) for one in seen)
    if volume > needed:
        ops = {op for one in seen for op, size in one.calls if size}
        why = "reduced rows" if "all_reduce" in ops else "through one" if ops & {"broadcast", "gather"} else "twice"
        raise NotYet("bytes", HINTS[why], f"{volume:,} bytes go round, {needed:,} are enough.", tried)
    if any(one.ahead for one in seen):
        raise NotYet("memory", HINTS["ahead"], tried)


# ---- the norm of everything

NORMS = (  # ranks, numbers of shards by rank (0: none; a None stands among them), replicated tensors
    (4, (2, 2, 2, 2), 0), (4, (2, 2, 2, 2), 2), (3, (2, 2, 2), 1), (4, (3, 1, 2, 0), 1),
)  # fmt: skip


@exercise(judges=("result", "messages", "bytes"), ranks=4)
def global_norm(name: str) -> None:
    """Judge the norm of a gradient of which some parts are sharded and others replicated."""
    trials = []
    for n, counts, copies in NORMS:
        seen = _trial(run_norm, "norm deadlock", name, n, counts, copies)
        tried = f"Tried: {n} ranks with {', '.join(map(str, counts))} sharded gradients and {copies} replicated."
        _judge_norm(seen, n, counts, copies, tried)
        trials.append((seen, tried))
    for seen, tried in trials:  # what is right may still cost too much
        _judge_norm_cost(seen, tried)


def parts_of_norm(rank: int, counts: Sequence[int], copies: int) -> tuple[list[Any], list[Tensor]]:
    """Draw the shards that a rank holds (a parameter without gradient among them), and the replicated gradients."""
    shards: list[Any] = [_random(5 + rank, 3, seed=100 * rank + i) for i in range(counts[rank])]
    return [*shards, None], [_random(7, seed=900 + i) for i in range(copies)]


def run_norm(name: str, n: int, counts: Sequence[int], copies: int) -> Seen | None:
    """Run the learner's norm on this rank; None on ranks that take no part."""
    import torch.distributed as dist

    from utils.ranks import engine

    namespace, seen = engine.namespace(), Seen()
    with world_of(n, namespace) as member:
        if not member:
            return None
        stop = engine.on_call(lambda call: seen.calls.append((call.op, call.payload)))
        try:
            value = namespace[name](*parts_of_norm(dist.get_rank(), counts, copies))
        finally:
            stop()
    seen.returned = float(value)
    return seen


def _judge_norm(seen: list[Seen], n: int, counts: Sequence[int], copies: int, tried: str) -> None:
    parts = [parts_of_norm(rank, counts, copies) for rank in range(n)]
    shards = [sum(float(g.square().sum()) for g in own if g is not None) for own, _ in parts]
    shared, total = sum(float(g.square().sum()) for g in parts[0][1]), sum(shards)
    values, right = [one.returned for one in seen], math.sqrt(total + shared)
    details = (f"By rank you return {', '.join(f'{v:.4g}' for v in values)}; the norm is {right:.4g}.", tried)

    def all_are(*expected: float) -> bool:
        wanted = expected if len(expected) == n else expected * n
        return all(math.isclose(v, e, rel_tol=CLOSE) for v, e in zip(values, wanted, strict=True))

    if all_are(right):
        return
    whole = [math.sqrt(s + shared) for s in shards]
    guesses = (
        ("local norm", whole), ("local norm", [math.sqrt(s) for s in shards]), ("norms added", [sum(whole)]),
        ("norms added", [sum(math.sqrt(s) for s in shards) + math.sqrt(shared)]),
        ("norms added", [math.sqrt(sum(math.sqrt(s) for s in shards) ** 2 + shared)]),
        ("replicas", [math.sqrt(total + n * shared)]), ("four", [math.sqrt(total + n / 4 * shared)]),
        ("no replicas", [math.sqrt(total)]), ("mean", [math.sqrt((total + shared) / n)]),
        ("mean", [math.sqrt(total / n + shared)]), ("largest", [max(whole)]), ("no root", [total + shared]),
    )  # fmt: skip
    for why, expected in guesses:
        if all_are(*expected):
            raise NotYet("messages" if why == "local norm" else "result", HINTS[why], *details)
    same = math.isclose(min(values), max(values), rel_tol=CLOSE)
    raise NotYet("result", HINTS["norm" if same else "ranks differ"], *details)


def _judge_norm_cost(seen: list[Seen], tried: str) -> None:
    most = max(sum(size for _, size in one.calls) for one in seen)
    if any(size > 16 for one in seen for _, size in one.calls):
        raise NotYet("bytes", HINTS["gathers"], f"A rank hands over {most:,} bytes.", tried)
    if (calls := max(len(one.calls) for one in seen)) > 1:
        raise NotYet("messages", HINTS["a message each"], f"Calls on one rank: {calls}.", tried)
