"""Checks of the exercises on data parallelism: training as one worker, a sharded sampler, gradient accumulation."""
from __future__ import annotations

import contextlib
import math
import operator
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from utils.check import gradients
from utils.check.gradients import Case, Seen, tried
from utils.check.verdict import NotYet, exercise

SMALL_CHANGE = 64  # bytes a step, for counts and the loss
GATHERS = ("all_gather", "all_gather_single", "gather")
PADDING = 256  # bytes: where parameters are padded until their length can be divided by the number of ranks

TRAINING = (
    Case("train_as_one", "4 ranks, equal shards", 4, ((2, 2, 2, 2),)),
    Case("train_as_one", "4 ranks, shards of 3, 3, 2 and 2 sequences", 4, ((3, 3, 2, 2),)),
    Case("train_as_one", "4 ranks, unequal numbers of target tokens", 4, ((3, 2, 2, 1),), ragged=True),
    Case("train_as_one", "3 ranks, shards of 3, 2 and 2 sequences", 3, ((3, 2, 2),), ragged=True),
    Case("train_as_one", "4 ranks, a frozen parameter", 4, ((2, 2, 2, 2),), frozen=True),
    Case("train_as_one", "4 ranks, three steps", 4, ((2, 2, 2, 2), (3, 3, 2, 2), (2, 2, 2, 1)), ragged=True),
    Case("train_as_one", "4 ranks, none of the second step's sequences on rank 3", 4,
         ((2, 2, 1, 1), (2, 1, 1, 0), (2, 2, 2, 2)), ragged=True),
)  # fmt: skip
ACCUMULATION = (
    Case("accumulate", "4 ranks, three equal micro-batches on each", 4, ((2, 2, 2),) * 4),
    Case("accumulate", "4 ranks, micro-batches of unequal token counts", 4, ((2, 1, 3),) * 4, ragged=True),
    Case("accumulate", "3 ranks, three micro-batches on each", 3, ((2, 2, 2),) * 3, ragged=True),
    Case("accumulate", "4 ranks, a micro-batch of rank 1 has only targets of -100", 4, ((2, 2), (1, 2), (2, 1), (1, 1)),
         ragged=True),
    Case("accumulate", "4 ranks with 3, 2, 1 and no micro-batches", 4, ((2, 2, 2), (1, 3), (2,), ()), ragged=True),
)

HINTS = {
    "no messages": "The gradients never travel: each rank trains on its own shard, and the ranks drift apart. Every "
                   "gradient needs an all-reduce before the step.",
    "no broadcast": "The ranks share one training, but they began with different parameters and never agree. Before "
                    "the first step every rank needs the parameters of rank 0.",
    "ranks differ": "The ranks end with different parameters although gradients travel. Does every rank step with the "
                    "same gradient, and was every parameter shared at the start?",
    "frozen not shared": f"The ranks agree in all but `{gradients.FROZEN}`, which has `requires_grad=False`. Frozen "
                         "parameters are shared at the start too: they are part of the model that rank 0 began with.",
    "steps": "One step is right, several in a row are not. Is the gradient of the step before cleared, and is the "
             "number of tokens counted anew in each step?",
    "frozen": f"`{gradients.FROZEN}` has `requires_grad=False`, yet it is not what rank 0 began with. Frozen "
              "parameters are shared at the start and left alone after it.",
    "local loss": "The parameters are right, but each rank returns another loss, that of its own shard. Return the "
                  "mean over all target tokens of all ranks, the same on every rank.",
    "broadcast again": "The result is right, but the parameters are broadcast more than once. They are shared before "
                       "the first step; after it, equal steps keep them equal.",
    "shared": "The result is right, but sharing the first parameters takes more than it needs. One broadcast from rank "
              "0 brings each of them to all.",
    "gathered": "The result is right, but gathering brings every rank's gradient to every rank, N - 1 times the "
                "gradients. An all-reduce adds up on the way and needs less than twice them.",
    "too many bytes": "The result is right, but more is sent than needed: each gradient travels once a step.",
    "no messages to accumulate": "The gradients never travel: each rank keeps those of its own micro-batches. They "
                                 "need one all-reduce, after the last micro-batch.",
    "ranks differ in gradients": "The ranks hold different gradients at the end. Does every rank divide by the same "
                                 "number, the target tokens of all ranks?",
    "every micro-batch": "The result is right, but gradients are synchronised after every micro-batch. Once, after the "
                         "last one, is enough.",
    "broadcast in vain": "The result is right, but parameters are broadcast. The copies are equal already, so nothing "
                         "but the gradients and a few numbers has to travel.",
    "graphs": "The activations of several micro-batches are held at once, which accumulation is there to avoid. Call "
              "`backward()` in the loop, for each micro-batch: it frees what its forward pass has kept.",
    "not a list": "Return a list of whole numbers: the samples, in the order in which the rank reads them.",
    "everything everywhere": "Every rank reads the whole data set. That is the work of one worker, done N times.",
    "other orders": "A sample is read twice and another by nobody. Do all ranks cut the same order? The seed of the "
                    "shuffle must not depend on the rank.",
    "padding": "A sample is read twice: this fills up the shards until all are equally long, as PyTorch's "
               "DistributedSampler does. Here every sample is read exactly once.",
    "dropped": "What does not divide evenly is read by nobody. Let some ranks have one sample more.",
    "missing": "Some samples are read by nobody. Is the number of ranks written into your code?",
    "unbalanced": "The rank with most samples keeps all others waiting: let sizes differ by at most one.",
    "no shuffle": "Nothing is shuffled: every epoch reads the samples in the order of the data set.",
    "same epochs": "All epochs have the same order, as with a sampler whose `set_epoch` is never called. The seed of "
                   "the shuffle must depend on the epoch.",
    "repeats": "Some epochs have the order of an earlier one. Every epoch needs a shuffle of its own: let the seed "
               "depend on the epoch itself.",
    "turned": "The order is turned or stepped through, not shuffled: most samples follow the one that they always "
              "follow. Draw a permutation, such as `torch.randperm(samples, generator=...)`.",
    "own shard only": "Each rank reads the same samples in every epoch, only in another order. Shuffle all samples "
                      "first, then cut.",
    "seed": "Another `seed` gives the same order. Two runs with different seeds should read differently.",
    "global random": "The order depends on the global random state. That differs from rank to rank in real training, "
                     "and shards would overlap. Use a generator of your own, seeded by seed and epoch.",
    "sets global": "The function sets the global random state, so dropout and everything else random starts over in "
                   "each epoch. Use a generator of your own, such as `torch.Generator().manual_seed(...)`.",
}  # fmt: skip


# ---- train as one


@exercise(judges=("result", "messages", "bytes"), ranks=4)
def train_as_one(name: str) -> None:
    """Train on all ranks as one worker would, whatever the shards."""
    for case in TRAINING:
        _judge_training(case, gradients.trial(name, case))


def _judge_training(case: Case, seen: list[Seen]) -> None:
    network, pieces = case.network(), case.pieces()
    trained = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    gradient_bytes = sum(network.get_parameter(key).nbytes for key in trained)
    _same_on_all(case, seen, gradient_bytes)
    start = gradients.vector({key: network.get_parameter(key) for key in trained})
    steps = [gradients.parts_of(network, [[shards[0]] for shards in pieces])]
    losses = [_descend(network, steps[0], trained)]
    for step in range(1, len(case.sizes)):
        steps.append(gradients.parts_of(network, [[shards[step]] for shards in pieces]))
        losses.append(_descend(network, steps[-1], trained))
    ended = gradients.vector({key: seen[0].tensors[key] for key in trained})
    expected = gradients.vector({key: network.get_parameter(key) for key in trained})
    if float((ended - expected).norm()) > gradients.CLOSE * float((expected - start).norm()):
        if len(steps) > 1:
            raise NotYet("result", HINTS["steps"], tried(case))
        raise gradients.explained((start - ended) / gradients.RATE, steps[0], case)
    if case.frozen and not seen[0].tensors[gradients.FROZEN].equal(case.network().get_parameter(gradients.FROZEN)):
        raise NotYet("result", HINTS["frozen"], tried(case))
    _judge_losses(case, seen, losses)
    parameter_bytes = sum(parameter.nbytes for parameter in network.parameters())
    for one in seen:
        _judge_bytes(case, one, gradient_bytes, parameter_bytes)


def _descend(network: Any, parts: Sequence[Sequence[gradients.Piece]], trained: Sequence[str]) -> float:
    """Take the step of one worker by plain gradient descent; return its loss."""
    import torch

    gradient, loss = gradients.truth(parts)
    sizes = [network.get_parameter(key).numel() for key in trained]
    with torch.no_grad():
        for key, piece in zip(trained, gradient.split(sizes), strict=True):
            parameter = network.get_parameter(key)
            parameter -= gradients.RATE * piece.reshape(parameter.shape).to(parameter.dtype)
    return loss


def _same_on_all(case: Case, seen: Sequence[Seen], gradient_bytes: int) -> None:
    """Look for ranks that disagree with each other after training."""
    ends = [gradients.vector(one.tensors) for one in seen]
    apart = max(float((end - ends[0]).abs().max()) for end in ends)
    if apart <= 1e-5:
        return
    details = (f"Largest distance between two ranks: {apart:.2g}.", tried(case))
    trained = [gradients.vector({k: t for k, t in one.tensors.items() if k != gradients.FROZEN}) for one in seen]
    if case.frozen and all(float((end - trained[0]).abs().max()) <= 1e-5 for end in trained):
        raise NotYet("result", HINTS["frozen not shared"], *details)
    if seen[0].sent_except("broadcast") < 0.9 * gradient_bytes:
        raise NotYet("messages", HINTS["no messages"], *details)
    shared = any(op in ("broadcast", "scatter", "all_gather", "all_gather_single") for op, _ in seen[0].calls)
    raise NotYet("result", HINTS["ranks differ" if shared else "no broadcast"], *details)


def _judge_losses(case: Case, seen: Sequence[Seen], expected: Sequence[float]) -> None:
    lists = [one.returned for one in seen]
    if not all(isinstance(values, list) and len(values) == len(expected) for values in lists):
        got = f"Rank 0 returned {lists[0]!r:.60}"
        raise NotYet("result", f"Return a list with one loss a step, {len(expected)} here.", got, tried(case))
    if all(math.isclose(a, b, rel_tol=1e-3) for values in lists for a, b in zip(values, expected, strict=True)):
        return
    if any(not math.isclose(values[0], lists[0][0], rel_tol=1e-3) for values in lists):
        raise NotYet("result", HINTS["local loss"], tried(case))
    raise NotYet("result", f"The parameters are right, the losses are not: {lists[0][0]:.4f} in the first step, where "
                 f"the mean over all target tokens is {expected[0]:.4f}.", tried(case))


def _judge_bytes(case: Case, seen: Seen, gradient_bytes: int, parameter_bytes: int) -> None:
    """Weigh what one rank sends before the first forward pass, and after it, as a ring of ranks would send it."""
    steps, broadcast = len(case.sizes), seen.sent("broadcast")
    needed = f"{gradient_bytes:,} bytes of gradients a step, {parameter_bytes:,} of parameters once."
    sharing, training = seen.calls[: seen.before], seen.calls[seen.before or 0 :]
    too_much = gradients.on_a_ring(training, case.n) > steps * 2 * (gradient_bytes + SMALL_CHANGE + PADDING)
    again = sum(size for op, size in training if op == "broadcast") >= 0.9 * parameter_bytes
    if sum(size for op, size in sharing if op == "broadcast") > 1.9 * parameter_bytes or (too_much and again):
        raise NotYet("bytes", HINTS["broadcast again"], f"{broadcast:,} bytes are broadcast.", needed, tried(case))
    if sum(size for op, size in training if op in GATHERS) >= 0.9 * steps * gradient_bytes:
        raise NotYet("bytes", HINTS["gathered"], tried(case))
    sent = sum(size for op, size in seen.calls if op not in ("broadcast", "recv"))
    details = (f"{sent:,} bytes are handed over in {steps} step{'s' * (steps > 1)}.", needed, tried(case))
    if too_much:
        raise NotYet("bytes", HINTS["too many bytes"], *details)
    if gradients.on_a_ring(sharing, case.n) > 2 * parameter_bytes + 2 * SMALL_CHANGE + PADDING:
        raise NotYet("bytes", HINTS["shared"], *details)


# ---- accumulate once


@exercise(judges=("result", "messages", "bytes", "memory"), ranks=4)
def accumulate_once(name: str) -> None:
    """Accumulate gradients over micro-batches and synchronise once."""
    for case in ACCUMULATION:
        _judge_accumulation(case, gradients.trial(name, case))


def _judge_accumulation(case: Case, seen: list[Seen]) -> None:
    network = case.network()
    parts = gradients.parts_of(network, case.pieces())
    true, loss = gradients.truth(parts)
    gradient_bytes = sum(parameter.nbytes for parameter in network.parameters())
    found, sent = [gradients.vector(one.tensors) for one in seen], seen[0].sent_except("recv")
    if max(float((one - found[0]).norm()) for one in found) > gradients.CLOSE * float(found[0].norm()):
        if sent < 0.9 * gradient_bytes:
            raise NotYet("messages", HINTS["no messages to accumulate"], tried(case))
        raise NotYet("result", HINTS["ranks differ in gradients"], tried(case))
    if float((found[0] - true).norm()) > gradients.CLOSE * float(true.norm()):
        raise gradients.explained(found[0], parts, case)
    values = [one.returned for one in seen]
    if not all(isinstance(value, (int, float)) and math.isclose(value, loss, rel_tol=1e-3) for value in values):
        hint = "The gradients are right, the returned loss is not: return the mean over all target tokens of all ranks."
        raise NotYet("result", hint, f"By rank you return {values!r:.80}; it is {loss:.4f}.", tried(case))
    for one in seen:
        if gradients.on_a_ring(one.calls, case.n) > 2 * (gradient_bytes + SMALL_CHANGE + PADDING):
            details = f"{sent:,} bytes are handed over, {sent / gradient_bytes:.1f} times the gradients."
            if one.sent(*GATHERS) >= 0.9 * gradient_bytes:
                key = "gathered"
            else:
                key = "broadcast in vain" if one.sent("broadcast") >= 0.9 * gradient_bytes else "every micro-batch"
            raise NotYet("bytes", HINTS[key], details, tried(case))
    largest = max(size for sizes in case.sizes for size in sizes)
    if max(one.alive for one in seen) > 1 or max(one.largest for one in seen) > largest:
        raise NotYet("memory", HINTS["graphs"], tried(case))


# ---- shards: a plain function

SIZES = ((10, 4), (13, 3), (12, 4), (64, 8), (3, 4), (0, 2), (101, 7), (5, 1))  # samples, ranks


@exercise(judges=("result",))
def epoch_shard(function: Any) -> None:
    """Judge the shards of a sampler over several sizes and epochs."""
    _judge_randomness(function)
    for samples, n in SIZES:
        _judge_shards(samples, [_shard(function, samples, rank, n) for rank in range(n)])
    _judge_order(function)


def _shard(function: Any, samples: int, rank: int, n: int, epoch: int = 0, seed: int = 0) -> list[int]:
    value = function(samples, rank, n, epoch, seed)
    listed = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(listed, (list, tuple, range)):
        with contextlib.suppress(TypeError, ValueError):
            return [operator.index(one) for one in listed]  # NumPy's and PyTorch's whole numbers are whole numbers too
    raise NotYet("result", HINTS["not a list"], f"Got {value!r:.80}.")


def _judge_shards(samples: int, shards: list[list[int]]) -> None:
    """Look for samples that are missing, foreign or read twice, and for shards of unequal length."""
    n, everything = len(shards), list(range(samples))
    read = sorted(one for shard in shards for one in shard)
    details = f"Tried: {samples} samples on {n} ranks; by rank you return {repr(shards)[1:-1]:.160}."
    sizes = [len(shard) for shard in shards]
    if read == everything:
        if max(sizes) - min(sizes) > 1:
            raise NotYet("result", HINTS["unbalanced"], f"Sizes by rank: {sizes}.", details)
        return
    missing, foreign = set(everything) - set(read), set(read) - set(everything)
    repeated = len(read) > len(set(read))
    if foreign:
        hint = f"There is no sample {min(foreign)}: {samples} samples have the numbers 0 to {samples - 1}."
    elif n > 1 and all(sorted(shard) == everything for shard in shards):
        hint = HINTS["everything everywhere"]
    elif repeated:
        hint = HINTS["other orders" if missing else "padding"]
    else:
        hint = HINTS["dropped" if len(read) == samples // n * n else "missing"]
    raise NotYet("result", hint, details)


def _judge_order(function: Any) -> None:
    """Look at how the order changes with epoch and seed."""
    samples, n = 64, 4
    epochs = [[_shard(function, samples, rank, n, epoch) for rank in range(n)] for epoch in range(6)]
    for shards in epochs:
        _judge_shards(samples, shards)
    for before, after in zip(epochs, epochs[1:], strict=False):
        if before == after:
            in_order = all(shard == sorted(shard) for shard in before)
            raise NotYet("result", HINTS["no shuffle" if in_order else "same epochs"])
        if [set(shard) for shard in before] == [set(shard) for shard in after]:
            raise NotYet("result", HINTS["own shard only"])
    repeated = [epoch for epoch, shards in enumerate(epochs) if shards in epochs[:epoch]]
    if repeated:
        first = epochs.index(epochs[repeated[0]])
        raise NotYet("result", HINTS["repeats"], f"Epoch {repeated[0]} has the order of epoch {first}.")
    if any(_most_common_step(shards) > 0.25 for shards in epochs):
        raise NotYet("result", HINTS["turned"])
    if [_shard(function, samples, rank, n, 0, seed=1) for rank in range(n)] == epochs[0]:
        raise NotYet("result", HINTS["seed"])


def _most_common_step(shards: Sequence[Sequence[int]]) -> float:
    """Return the share of the most common difference between one sample and the next: little in a shuffle.

    Shards may be dealt like cards or cut from the order in one piece, so look at both.
    """
    dealt = [one for row in zip(*shards, strict=True) for one in row]
    cut = [one for shard in shards for one in shard]
    steps = [Counter((b - a) % len(order) for a, b in zip(order, order[1:], strict=False)) for order in (dealt, cut)]
    return max(max(counter.values()) / (len(dealt) - 1) for counter in steps)


def _judge_randomness(function: Any) -> None:
    """Look at what the global random states do to the shards, and the shards to them."""
    import numpy as np
    import torch

    def shards_after(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        return [_shard(function, 20, rank, 4, 1) for rank in range(4)]

    def states() -> list[Any]:
        name, keys, *rest = np.random.get_state(legacy=True)
        return [torch.get_rng_state().tolist(), random.getstate(), (name, tuple(keys), *rest)]

    def restore(to: list[Any]) -> None:
        torch.set_rng_state(torch.tensor(to[0], dtype=torch.uint8))
        random.setstate(to[1])
        np.random.set_state(to[2])

    before = states()
    try:
        if shards_after(1) != shards_after(2):
            raise NotYet("result", HINTS["global random"])
        restore(before)
        _shard(function, 20, 0, 4, 1)
        if states() != before:
            raise NotYet("result", HINTS["sets global"])
    finally:
        restore(before)
