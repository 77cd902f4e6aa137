"""Checks of the exercises on tensor parallelism: a cut perceptron, a cut vocabulary, a norm, attention by heads."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.check import tensor_trials as trials
from utils.check.tensor_trials import Case, Seen, off, same, tried
from utils.check.verdict import NotYet, exercise

if TYPE_CHECKING:
    from torch import Tensor

SMALL_CHANGE = 64  # bytes: a few numbers

PERCEPTRON = (
    Case("perceptron", "even: 12 hidden features on 4 ranks", 4, 12),
    Case("perceptron", "uneven: 10 hidden features on 4 ranks", 4, 10),
    Case("perceptron", "fewer ranks: 12 hidden features on 3 ranks", 3, 12),
)
LOSS = (
    Case("loss", "even: 40 symbols on 4 ranks", 4, 40),
    Case("loss", "uneven: 43 symbols on 4 ranks", 4, 43),
    Case("loss", "large: logits of several hundred", 4, 40, large=True),
    Case("loss", "fewer ranks: 40 symbols on 3 ranks", 3, 40),
)
NORM = (
    Case("norm", "even: 8 positions on 4 ranks", 4, 8),
    Case("norm", "uneven: 7 positions on 4 ranks", 4, 7),
    Case("norm", "fewer ranks: 8 positions on 3 ranks", 3, 8),
    Case("norm", "an idle rank: 3 positions on 4 ranks", 4, 3),
)
ATTENTION = (
    Case("attention", "even: 4 heads on 4 ranks", 4, 4, shared=4),
    Case("attention", "shared: 8 query heads, 4 key-value heads, 4 ranks", 4, 8, shared=4),
    Case("attention", "more shared: 8 query heads, 2 key-value heads, 4 ranks", 4, 8, shared=2),
    Case("attention", "uneven: 6 query heads, 3 key-value heads, 4 ranks", 4, 6, shared=3),
    Case("attention", "fewer ranks: 4 heads on 3 ranks", 3, 4, shared=4),
    Case("attention", "an idle rank: 3 heads on 4 ranks", 4, 3, shared=3),
)

HINTS = {
    "type": "Return a tensor.",
    "shape": "The result has another shape than it should.",
    "no way back": "Nothing leads back from the result to the arguments: a collective by itself has no gradient. Use "
                   "`Conjugate.apply(tensor, there, back)`, which says what happens on the way back.",
    # the perceptron
    "stuck": "Not all ranks make the same calls in the same order: every rank must reach every collective.",
    "bias": "The bias of `down` is in the result once for each rank. Every rank holds all of it, so add it after the "
            "sum, once.",
    "summands": "The ranks return different results. Each product with rows of $B$ is a summand: add them up over the "
                "ranks.",
    "mean": "The summands are averaged. They are parts of one sum, not copies of one result: add them up and divide by "
            "nothing.",
    "enter": "The result is right, the gradient of `x` is not: each rank has only what comes back through its own "
             "hidden features. Where `x` enters, the gradients of all ranks must be added up.",
    "leave twice": "The result is right, and gradients are too large by the number of ranks. Where summands leave, the "
                   "gradient passes as it is: every rank already has the whole of it.",
    "bias gradient": "The result is right, the gradient of `down_bias` is not. Add the whole bias, undivided, on every "
                     "rank, after the sum.",
    "twice": "The result is right, but more is sent than needed: one all-reduce of the result forward, one as large as "
             "`x` backward.",
    "perceptron": "The result is not that of `linear(gelu(linear(x, up)), down)` with both biases.",
    # the loss
    "overflow": "The result is not a number when logits are large: $e^{z}$ overflows. Subtract the greatest logit "
                "first; it changes nothing else.",
    "own maximum": "Each rank subtracts its own greatest logit, so the ranks' sums cannot be added up. All need the "
                   "greatest of all ranks: `dist.ReduceOp.MAX`.",
    "own sum": "The sum of exponentials is that of each rank's own symbols. The denominator needs those of all ranks.",
    "foreign targets": "The target's logit is wrong: ranks that do not own the target add a logit of theirs. Let them "
                       "add 0.",
    "first": "This is right only where all pieces are equally large. A rank's first symbol is `first`, not its number "
             "times the size of its piece.",
    "padding": "You divide by all positions. Targets of -100 are not in the sum, so they must not be in the count.",
    "padding in": "Targets of -100 are in the sum. They must add nothing.",
    "gathered": "The result is right, but the logits travel. For each position three numbers are enough: greatest "
                "logit, sum of exponentials, the target's logit.",
    "gradient of sums": "The result is right, the gradient is not. Either the sum of exponentials or the target's "
                        "logit has lost its way back, or the greatest logit still has one: "
                        "`logits.detach().amax(-1)`.",
    "gradient times": "The result is right, and the gradient is too large by the number of ranks. Backward, each rank "
                      "needs the gradient of the sum as it is, without another all-reduce.",
    "copies": "The result is right, but two or more tensors as large as the logits are kept for the backward pass. The "
              "exponentials are enough. A mask as large as the logits is another, and `torch.gather` keeps its input: "
              "pick the target's logit by indexing, `logits[rows, columns]`.",
    "skips": "A rank that owns no target leaves out a call that the others wait in. It has zeros to add, and must add "
             "them.",
    "loss": "The result is not the mean cross-entropy over all targets that count.",
    # the norm
    "unequal": "This fails where positions do not divide by the ranks. Fill up to the longest part for the collective, "
               "and cut off afterwards.",
    "order": "The normalised positions are all there, but not side by side in their order: join the parts along the "
             "dimension of positions.",
    "whole norm": "The result is right, but every rank normalises all positions and keeps them for the backward pass. "
                  "Normalise your own positions, then gather.",
    "own gradient": "The result is right, the gradient of `x` is not: each rank returns what came back on itself for "
                    "its positions. All ranks used them: add up over the ranks, and give each its positions.",
    "parameters": "The gradients of `weight` and `bias` are those of this rank's positions only. They are copies: let "
                  "them enter by `Conjugate` too, and add up on the way back.",
    "divided": "Gradients are too small by the number of ranks: contributions are added up, not averaged.",
    "all-reduce": "The result is right, but backward an all-reduce sends everything to everybody and most is thrown "
                  "away. A reduce-scatter gives each rank its own positions, for half the bytes on a ring.",
    "all-reduce forward": "The result is right, but tensors full of zeros are added up. An all-gather sends each "
                          "position once; this sends twice as much.",
    "idle": "A rank without positions leaves out a call that the others wait in. It has nothing to normalise and must "
            "make every call.",
    "norm": "The result is not the layer norm of all positions, on every rank.",
    # attention
    "own heads": "The ranks return different results: each has the contribution of its own heads. Add them up.",
    "dropped": "The last heads belong to nobody: with `heads // ranks` on each rank the rest is lost. Let some ranks "
               "have one more.",
    "interleaved": "Query heads get the wrong key-value heads. Neighbours share: with 8 query heads and 4 key-value "
                   "heads, query heads 0 and 1 use key-value head 0.",
    "causal": "Positions look at what comes after them: attention here is causal.",
    "scale": "The scores are scaled by another width than that of one head, `len(query) // heads`.",
    "all heads": "The result is right, but every rank computes more heads than its share.",
    "calls": "The result is right, but more is sent than needed: one all-reduce of the result is enough, after all of "
             "this rank's heads.",
    "no heads": "Not all ranks make the same calls. A rank with fewer heads, or none, must make the same: let it add "
                "zeros, in one all-reduce after the loop.",
    "attention": "The result is not attention of the whole.",
}  # fmt: skip


def _usable(case: Case, seen: Sequence[Seen], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise NotYet if a rank returned no tensor, none of the right shape, or none that leads back."""
    for one, shape in zip(seen, shapes, strict=True):
        if one.problem == "type":
            raise NotYet("result", HINTS["type"], f"You return {one.result}.", tried(case))
        if tuple(one.result.shape) != shape:
            got = f"It is {list(one.result.shape)}; right is {list(shape)}."
            raise NotYet("result", HINTS["order" if case.task == "norm" else "shape"], got, tried(case))


def _way_back(case: Case, seen: Sequence[Seen]) -> None:
    if any(one.problem for one in seen):
        raise NotYet("gradient", HINTS["no way back"], tried(case))


@exercise(judges=("result", "gradients", "messages"), ranks=4)
def cut_perceptron(name: str) -> None:
    """Compute a perceptron whose hidden features are cut over the ranks."""
    for case in PERCEPTRON:
        _judge_perceptron(case, trials.trial(name, case, HINTS["stuck"]))


def _judge_perceptron(case: Case, seen: list[Seen]) -> None:
    y, gradients = trials.truth(case)
    n, results, bias = case.n, [one.result for one in seen], case.whole()["down_bias"]
    _usable(case, seen, [tuple(y.shape)] * n)
    if not same(results, [y] * n):
        known = {"bias": y + (n - 1) * bias, "mean": (y - bias) / n + bias, "mean of all": y / n}
        for mistake, value in known.items():
            if same(results, [value] * n):
                raise NotYet("result", HINTS["mean" if mistake.startswith("mean") else mistake], tried(case))
        apart = any(off(one, results[0]) > trials.CLOSE for one in results)
        raise NotYet("result", HINTS["summands" if apart else "perceptron"], tried(case))
    _way_back(case, seen)
    wrong = trials.gradients_off(case, seen, gradients)
    if wrong:
        times = [n * piece for piece in trials.pieces(case, "up", gradients["up"])]
        key = "bias gradient" if wrong == "down_bias" else "enter"
        if same([one.gradients["up"] for one in seen], times):
            key = "leave twice"
        elif same([one.gradients["up"] for one in seen], [piece / n**2 for piece in times]):
            key = "divided"
        raise NotYet("gradient", HINTS[key], f"The first that is off: `{wrong}`.", tried(case))
    if max(one.sent() for one in seen) > 2 * 4 * y.numel() + SMALL_CHANGE:
        raise NotYet("messages", HINTS["twice"], f"{seen[0].sent():,} bytes are handed over.", tried(case))


@exercise(judges=("result", "gradients", "bytes", "memory"), ranks=4)
def cut_loss(name: str) -> None:
    """Compute the mean cross-entropy of logits whose symbols are cut over the ranks."""
    for case in LOSS:
        _judge_loss(case, trials.trial(name, case, HINTS["skips"]))


def _judge_loss(case: Case, seen: list[Seen]) -> None:
    value, gradients = trials.truth(case)
    n, results = case.n, [one.result for one in seen]
    _usable(case, seen, [()] * n)
    if not same(results, [value] * n):
        raise NotYet("result", HINTS[_why_loss(case, results)], f"By rank you return "
                     f"{', '.join(f'{float(r):.4g}' for r in results)}; it is {float(value):.4g}.", tried(case))
    _way_back(case, seen)
    positions = case.whole()["targets"].numel()
    if trials.gradients_off(case, seen, gradients):
        times = [n * piece for piece in trials.pieces(case, "logits", gradients["logits"])]
        key = "gradient times" if same([one.gradients["logits"] for one in seen], times) else "gradient of sums"
        raise NotYet("gradient", HINTS[key], tried(case))
    sent = max(one.sent() for one in seen)
    if sent > 4 * 4 * positions + SMALL_CHANGE:
        raise NotYet("bytes", HINTS["gathered"], f"{sent / positions:.0f} bytes a position are handed over.",
                     tried(case))
    own = 4 * positions * (case.size // n)
    if max(one.kept for one in seen) > 1.5 * own + 24 * positions:
        kept = f"{max(one.kept for one in seen) / own:.1f} times the bytes of this rank's logits are kept."
        raise NotYet("memory", HINTS["copies"], kept, tried(case))


def _why_loss(case: Case, results: Sequence[Tensor]) -> str:
    """Name the mistake that gives these losses."""
    import torch

    whole = case.whole()
    logits, targets = whole["logits"].double(), whole["targets"]
    counts, local = targets >= 0, targets.clamp(min=0)
    right = logits.gather(-1, local[..., None])[..., 0]
    total = logits.logsumexp(-1)
    parts = [logits[..., span] for span in case.spans()]
    if any(not math.isfinite(float(r)) for r in results):
        return "overflow"
    tops = [part.amax(-1) for part in parts]
    sums = torch.stack([(part - top[..., None]).exp().sum(-1) for part, top in zip(parts, tops, strict=True)])

    def mean(losses: Tensor) -> Tensor:
        return (losses * counts).sum() / counts.sum()

    owned = [(targets >= span.start) & (targets < span.stop) for span in case.spans()]
    own_top = sum(top * here for top, here in zip(tops, owned, strict=True))
    foreign = sum(
        part.gather(-1, (local - span.start).clamp(0, part.size(-1) - 1)[..., None])[..., 0]
        for part, span in zip(parts, case.spans(), strict=True)
    )
    top, count = logits.amax(-1), counts.sum()
    known: dict[str, list[list[Tensor]]] = {  # each mistake with its variants: what the ranks would return
        "own maximum": [[mean(sums.sum(0).log() + own_top - right)] * case.n],
        "own sum": [[mean(part.logsumexp(-1) - right) for part in parts]],
        "foreign targets": [[mean(total - foreign + k * top)] * case.n for k in (0, case.n - 1)],
        "padding": [[((total - right) * counts).sum() / counts.numel()] * case.n],
        "padding in": [[(total - right * counts - k * top * ~counts).sum() / by] * case.n
                       for k in (0, 1) for by in (count, counts.numel())],
    }  # fmt: skip
    for mistake, variants in known.items():
        for values in variants:
            if all(off(r, value) <= 1e-3 for r, value in zip(results, values, strict=True)):
                return mistake
    return "first" if case.size % case.n else "loss"


@exercise(judges=("result", "gradients", "messages", "memory"), ranks=4)
def sequence_norm(name: str) -> None:
    """Normalise this rank's positions and hand all of them to everybody."""
    for case in NORM:
        _judge_norm(case, trials.trial(name, case, HINTS["idle" if case.size < case.n else "stuck"], HINTS["unequal"]))


def _judge_norm(case: Case, seen: list[Seen]) -> None:
    y, gradients = trials.truth(case)
    n, results = case.n, [one.result for one in seen]
    _usable(case, seen, [tuple(y.shape)] * n)
    if not same(results, [y] * n):
        parts = [y[:, span] for span in case.spans()]
        mixed = sorted(y.flatten().tolist())
        moved = all(off(r.flatten().sort().values, r.new_tensor(mixed)) < 1e-3 for r in results) and len(parts) > 1
        raise NotYet("result", HINTS["order" if moved else "norm"], tried(case))
    _way_back(case, seen)
    wrong = trials.gradients_off(case, seen, gradients)
    if wrong:
        cut = {key: trials.pieces(case, key, g) for key, g in gradients.items()}
        shrunk = same([one.gradients[wrong] for one in seen], [piece / n for piece in cut[wrong]])
        key = "divided" if shrunk else "own gradient" if wrong == "x" else "parameters"
        raise NotYet("gradient", HINTS[key], f"The first that is off: `{wrong}`.", tried(case))
    own = 4 * y.numel() / n
    if max(one.kept for one in seen) > 1.5 * own + SMALL_CHANGE:
        raise NotYet("memory", HINTS["whole norm"], tried(case))
    for what, calls in (("all-reduce", [c for one in seen for c in one.calls_back]),
                        ("all-reduce forward", [c for one in seen for c in one.calls])):
        if any(op == "all_reduce" and size >= 4 * y.numel() for op, size in calls):
            raise NotYet("messages", HINTS[what], tried(case))


@exercise(judges=("result", "work", "messages"), ranks=4)
def attend_by_heads(name: str) -> None:
    """Compute attention with the heads shared out over the ranks."""
    for case in ATTENTION:
        _judge_attention(case, trials.trial(name, case, HINTS["no heads"]))


def _judge_attention(case: Case, seen: list[Seen]) -> None:
    y, _ = trials.truth(case)
    n, results = case.n, [one.result for one in seen]
    _usable(case, seen, [tuple(y.shape)] * n)
    if not same(results, [y] * n):
        raise NotYet("result", HINTS[_why_attention(case, results)], tried(case))
    head = 2 * 12 * 8 * case.size * 8 * 4 + 4 * 2 * 6 * 6 * 8  # four products of [12, width] x [width, 8], and scores
    most = math.ceil(case.size / n)
    if max(one.flops for one in seen) > 1.2 * most * head:
        share = f"The busiest rank computes about {max(one.flops for one in seen) / head:.0f} heads; {most} are enough."
        raise NotYet("work", HINTS["all heads"], share, tried(case))
    if max(one.sent() for one in seen) > 4 * y.numel() + SMALL_CHANGE:
        raise NotYet("messages", HINTS["calls"], f"{seen[0].sent():,} bytes are handed over.", tried(case))


def _why_attention(case: Case, results: Sequence[Tensor]) -> str:
    """Name the mistake that gives these results."""
    n, heads = case.n, case.size
    if any(off(one, results[0]) > trials.CLOSE for one in results):
        return "own heads"
    known = {
        "dropped": trials.attention(case, without=range(heads // n * n, heads)),
        "interleaved": trials.attention(case, group="interleaved"),
        "causal": trials.attention(case, causal=False),
    }
    for mistake, value in known.items():
        if same(results, [value] * n):
            return mistake
    for width in (8 * heads, 8 * heads / n, heads, 1):
        if same(results, [trials.attention(case, scale=width**-0.5)] * n):
            return "scale"
    return "attention"
