"""Checks of the exercises on sharded data parallelism: flat shards, a ZeRO-1 step, gather-use-free, the global norm."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.check import sharded_trials as trials
from utils.check.sharded_mistakes import HINTS
from utils.check.verdict import NotYet, exercise

if TYPE_CHECKING:
    from torch import Tensor

CLOSE = 1e-4  # relative distance below which two results are the same


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
        tensors = [trials.draw(*shape, seed=9 + i) + 3 for i, shape in enumerate(shapes)]
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
        seen = trials.trial(trials.run_steps, "step deadlock", name, n, length, steps)
        tried = f"Tried: {steps} step{'s' * (steps > 1)} with a row of {length} elements on {n} ranks."
        _judge_step(seen, n, length, steps, tried)


def _judge_step(seen: list[trials.Seen], n: int, length: int, steps: int, tried: str) -> None:
    import torch

    start, right = trials.draw(length, seed=1), trials.descend(n, length, steps)
    first = [one.tensors[0] for one in seen]
    if not any(_off(row, expected) for one in seen for row, expected in zip(one.tensors, right, strict=True)):
        return _judge_step_cost(seen, n, length, steps, tried)
    if all(row.equal(start) for row in first):
        raise NotYet("result", HINTS["not in place"], tried)
    if not any(_off(row, right[0]) for row in first):
        raise NotYet("result", HINTS["forgets"], tried)
    own = [torch.cat([part[rank] for rank, part in enumerate(rows.chunk(n, 1))])
           for rows in (torch.stack(first), torch.stack([trials.draw(length, seed=r + 2) for r in range(n)]))]
    moved, mean = (start - own[0]) / trials.RATE, (start - right[0]) / trials.RATE
    if any(_off(row, first[0]) for row in first) and not _off(own[0], right[0]):
        raise NotYet("result", HINTS["not gathered"], tried)
    for factor, why in ((n, "summed"), (n / 4, "four"), (1 / n, "divided twice")):
        if factor != 1 and not _off(moved, factor * mean):
            raise NotYet("result", HINTS[why], tried)
    if not _off(moved, own[1]) or not _off(moved, own[1] / n):
        raise NotYet("result", HINTS["own gradient"], tried)
    for k in range(1, n):  # another part of the gradient, or another part of the row
        moved_on = [torch.cat(rows.chunk(n)[k:] + rows.chunk(n)[:k]) for rows in (mean, start)]
        if not (_off(first[0], start - trials.RATE * moved_on[0]) and _off(first[0], moved_on[1] - trials.RATE * mean)):
            raise NotYet("result", HINTS["other shard"], tried)
    raise NotYet("result", HINTS["step"], f"Rank 0: {[round(x, 3) for x in first[0].tolist()[:6]]} ..., one worker: "
                 f"{[round(x, 3) for x in right[0].tolist()[:6]]} ...", tried)


def _judge_step_cost(seen: list[trials.Seen], n: int, length: int, steps: int, tried: str) -> None:
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
        seen = trials.trial(trials.run_blocks, "run deadlock", name, n, count, sizes)
        tried = f"Tried: {count} blocks on {n} ranks, {', '.join(map(str, sizes))} sequences by rank."
        _judge_run(seen, n, count, sizes, tried)


def _judge_run(seen: list[trials.Seen], n: int, count: int, sizes: Sequence[int], tried: str) -> None:
    width = 16 + 2 * (n == 3)
    if any(bool(one.tensors[0].any()) for one in seen):
        raise NotYet("result", HINTS["changed"], tried)
    sent = any(size for one in seen for _, size in one.calls)
    for rank, one in enumerate(seen):
        x = trials.inputs(rank, sizes, width)
        expected = trials.forward(count, n, x)
        if hasattr(one.returned, "shape") and not _off(one.returned, expected):
            continue
        if not sent:
            raise NotYet("result", HINTS["own shard"], tried)
        if hasattr(one.returned, "shape") and not _off(one.returned, trials.forward(count, n, x, last_goes_back=True)):
            raise NotYet("result", HINTS["mixed"], tried)
        raise NotYet("result", HINTS["places"], f"The output of rank {rank} is not that of the whole blocks.", tried)
    if max(one.most for one in seen) > 1:
        raise NotYet("memory", HINTS["several" if seen[0].kept < count else "kept"], tried)
    if any(one.kept for one in seen):
        raise NotYet("memory", HINTS["kept"], tried)
    needed = sum(4 * len(row) for row in trials.blocks_and_rows(count, n)[1])
    volume = max(one.volume(n) for one in seen)
    if volume > needed:
        ops = {op for one in seen for op, size in one.calls if size}
        why = "reduced rows" if "all_reduce" in ops else "through one" if ops & {"broadcast", "gather"} else "twice"
        raise NotYet("bytes", HINTS[why], f"{volume:,} bytes go round, {needed:,} are enough.", tried)
    if any(one.ahead for one in seen):
        raise NotYet("memory", HINTS["ahead"], tried)


# ---- the norm of everything


@exercise(judges=("result", "messages", "bytes"), ranks=4)
def global_norm(name: str) -> None:
    """Judge the norm of a gradient of which some parts are sharded and others replicated."""
    done = []
    for n, counts, copies in trials.NORMS:
        seen = trials.trial(trials.run_norm, "norm deadlock", name, n, counts, copies)
        tried = f"Tried: {n} ranks with {', '.join(map(str, counts))} sharded gradients and {copies} replicated."
        _judge_norm(seen, n, counts, copies, tried)
        done.append((seen, tried))
    for seen, tried in done:  # what is right may still cost too much
        _judge_norm_cost(seen, tried)


def _judge_norm(seen: list[trials.Seen], n: int, counts: Sequence[int], copies: int, tried: str) -> None:
    parts = [trials.parts_of_norm(rank, counts, copies) for rank in range(n)]
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


def _judge_norm_cost(seen: list[trials.Seen], tried: str) -> None:
    most = max(sum(size for _, size in one.calls) for one in seen)
    if any(size > 16 for one in seen for _, size in one.calls):
        raise NotYet("bytes", HINTS["gathers"], f"A rank hands over {most:,} bytes.", tried)
    if (calls := max(len(one.calls) for one in seen)) > 1:
        raise NotYet("messages", HINTS["a message each"], f"Calls on one rank: {calls}.", tried)
