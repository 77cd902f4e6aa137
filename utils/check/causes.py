"""Name the usual cause of a difference, from its pattern. Each function answers (cause, words) or None."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils import model
from utils.check.judge import Difference, Pieces, assembled, factor, rms, whole
from utils.check.piece import Held
from utils.check.reference import Expected, Reference, Tensors, total_norm

Cause = tuple[str, str]


@dataclass(frozen=True)
class Scene:
    """All that is known at the step where something is off."""

    reference: Reference
    expected: Expected
    tokens: Tensor
    targets: Tensor
    gradients: Pieces
    parameters: Pieces
    losses: Sequence[float | None]
    previous: Tensors  # gradients of the step before, if there was one

    @property
    def config(self) -> model.Config:
        return self.reference.config

    @property
    def ranks(self) -> int:
        return len(self.gradients)


def near(value: float, other: float, tolerance: float = 0.01) -> bool:
    """Tell whether two numbers are equal up to a share."""
    return abs(value - other) <= tolerance * abs(other)


# ------------------------------------------------------------------------------------------- before the first step


def of_the_start(pieces: Pieces, off: Sequence[Difference], reference: Reference, seeds: Sequence[int]) -> Cause:
    """Explain parameters that differ before anything was trained."""
    config, ranks = reference.config, sorted({d.rank for d in off})
    own = all(_same(pieces[r], model.GPT(config, seeds[r]), config) for r in ranks if seeds[r] != seeds[0])
    if own and any(seeds[r] != seeds[0] for r in ranks):
        return "seeds", (
            "The ranks that differ hold the values of their own seed: nothing was brought from rank 0. Let rank 0 "
            "broadcast its parameters (or its seed, where a rank builds only a part) before the first step."
        )
    return "start", (
        "Build from the seed that is handed in: `model.GPT(config, seed)`, or `model.Part(config, blocks, ..., "
        "seed=seed)` with the blocks' indices in the whole."
    )


def _same(pieces: Mapping[str, Held], network: model.GPT, config: model.Config) -> bool:
    values = dict(network.named_parameters())
    return all(torch.allclose(p.values, p.of(values[whole(n, config)].detach())) for n, p in pieces.items())


# ------------------------------------------------------------------------------------------------------- gradients


def of_gradients(scene: Scene, off: Sequence[Difference]) -> Cause:
    """Explain gradients that are off, the most telling pattern first."""
    for look in (_constant, _tied, _not_zeroed, _unsynchronised, _another_loss, _clipped_apart, _some_constant,
                 _some_ranks):
        if found := look(scene, off):
            return found
    return "unknown", "The pattern is none of the usual ones. Look at how the batch is split and what is added up."


def _constant(scene: Scene, off: Sequence[Difference]) -> Cause | None:
    """All tensors on all ranks are too large by one and the same factor."""
    expected = scene.expected.gradients
    c = factor(assembled(scene.gradients, expected, scene.config), expected)
    if c is None or near(c, 1.0, 0.001) or _disagree(scene):
        return None
    if near(c, -1.0):
        return "sign", "Every gradient has the wrong sign."
    n, size, counted = scene.ranks, len(scene.tokens), int((scene.targets != -100).sum())
    head = f"Every gradient is {_times(c)}"
    if scene.config.clip is not None and near(c, scene.config.clip / scene.expected.norm, 0.001):
        return "clip", (f"{head}: together they have the norm config.clip = {scene.config.clip:g}. These are the "
                        "clipped ones; return from `gradients()` copies that were taken before clipping.")
    parts = any(not set(held) & set(scene.gradients[0]) for held in scene.gradients[1:])  # ranks hold no copies
    if near(c, n) and not parts:
        return "sum", (f"{head}: that is the number of ranks. The gradients of the ranks were added up; the loss is a "
                       "mean, so divide by the number of ranks (or weigh each rank by its share of the tokens). AdamW "
                       "and clipping forgive such a factor, and hide it.")
    if near(c, 1 / n):
        return "twice", (f"{head}: one over the number of ranks. Something was divided by it once too often (by a mean "
                         "over the ranks and by hand).")
    for m in range(2, size + 1):
        if near(c, m, 0.002) or near(c, 1 / m, 0.002):
            how = "Divide the loss of each by their number." if c > 1 else "It was divided by their number twice."
            return "micro-batches", f"{head}. Is {m} the number of your micro-batches? {how}"
    if near(c, counted):
        return "tokens", f"{head}: the number of targets. The loss is their sum; divide by how many there are in all."
    if near(c, counted / scene.targets.numel()):
        return "masked", (f"{head}: the share of positions that have a target. It was divided by all positions, those "
                          "with target -100 included; divide by the number of targets that count.")
    return "factor", f"{head}, all alike: a factor is missing or too many where the loss or the gradients are scaled."


def _times(c: float) -> str:
    return f"{c:.3g} times what it should be" if c >= 1 or c < 0 else f"1/{1 / c:.3g} of what it should be"


def _disagree(scene: Scene) -> bool:
    """Tell whether ranks that hold the same tensor hold different values of it."""
    held: dict[tuple[str, str], Tensor] = {}
    for pieces in scene.gradients:
        for name, piece in pieces.items():
            target = whole(name, scene.config)
            if target not in scene.expected.gradients:
                continue
            first = held.setdefault((name, piece.where()), piece.values)
            if rms(first - piece.values) > 1e-3 * (rms(first) + 1e-12):
                return True
    return False


def _tied(scene: Scene, off: Sequence[Difference]) -> Cause | None:
    """Only the tied weight is off."""
    if not scene.config.tied or {whole(d.name, scene.config) for d in off} != {"token.weight"}:
        return None
    expected, names = scene.expected.gradients["token.weight"], sorted({d.name for d in off})
    if len({d.name for d in off}) == 1 and len({n for p in scene.gradients for n in p
                                                if whole(n, scene.config) == "token.weight"}) == 1:
        first = next(p["token.weight"] for p in scene.gradients if "token.weight" in p)
        c = factor({"w": first.values}, {"w": first.of(expected)})
        more = f" Its gradient is {_times(c)}: was it handled twice, once under each name?" if c else ""
        return "tied", f"Only the tied weight (`token.weight`, which is also the output weight) is off.{more}"
    copies = [next(p[name] for p in scene.gradients if name in p) for name in names]
    if len(copies) == 2 and rms(copies[0].values + copies[1].values - expected) <= 0.01 * rms(expected):
        return "tied", (
            "Only the tied weight is off: each part holds the gradient of its own use, the embedding's and the "
            "output's. It is one weight used twice: add the two up and give both ranks the sum, before the step."
        )
    return "tied", "Only the tied weight is off. It is used twice, so its gradient is the sum of both uses, everywhere."


def _not_zeroed(scene: Scene, off: Sequence[Difference]) -> Cause | None:
    """The gradients of the step before are still in those of this one."""
    if not scene.previous:
        return None
    mine, right = assembled(scene.gradients, scene.expected.gradients, scene.config), scene.expected.gradients
    c = factor({n: mine[n] - right[n] for n in right}, scene.previous)
    if c is None:
        return None
    return "not zeroed", ("The gradients of the step before are still in them: set them to zero (zero_grad) before "
                          "each step.")


def _unsynchronised(scene: Scene, off: Sequence[Difference]) -> Cause | None:
    """Ranks that hold the same tensor hold different gradients of it."""
    if not _disagree(scene):
        return None
    expected = scene.expected.gradients
    names = [n for n in expected if sum(n in pieces for pieces in scene.gradients) == scene.ranks]
    if names:
        total = {n: torch.stack([p[n].values for p in scene.gradients]).sum(0) for n in names
                 if all(p[n].place is None for p in scene.gradients)}
        c = factor(total, expected, total) if total else None
        if c is not None and near(c, scene.ranks, 0.02):
            return "unsynchronised", ("The ranks disagree, and their mean is right: each holds the gradient of its own "
                                      "share. Average the gradients over the ranks before the step.")
        if c is not None and near(c, 1.0, 0.02):
            return "unsynchronised", ("The ranks disagree, and their sum is right: each holds its own contribution. "
                                      "Add the gradients up over the ranks before the step.")
    return "disagree", ("The ranks disagree with each other: what they hold of the same tensor must be equal. Does "
                        "each rank see the sum over all ranks, and is it taken before the gradients are read?")


def _another_loss(scene: Scene, off: Sequence[Difference]) -> Cause | None:
    """The gradient is that of another loss: try the usual ones."""
    mine = assembled(scene.gradients, scene.expected.gradients, scene.config)
    for cause, words, loss_of in _losses(scene):
        other = scene.reference.gradients_of(scene.expected.before, loss_of)
        c = factor(mine, other, residual=0.005)
        if c is not None and near(c, 1.0):
            return cause, words
    return None


def _clipped_apart(scene: Scene, off: Sequence[Difference]) -> Cause | None:
    """Each rank clips the gradient of its own share, and the clipped ones are added up or averaged."""
    clip = scene.config.clip
    if clip is None:
        return None
    total, before = int((scene.targets != -100).sum()), scene.expected.before
    shares: list[tuple[int, Tensors]] = []
    for tokens, targets in zip(*(t.tensor_split(scene.ranks) for t in (scene.tokens, scene.targets)), strict=True):
        def summed(network: model.GPT, tokens: Tensor = tokens, targets: Tensor = targets) -> Tensor:
            return model.loss(network(tokens), targets, reduction="sum")
        shares.append((int((targets != -100).sum()), scene.reference.gradients_of(before, summed)))
    mine = assembled(scene.gradients, scene.expected.gradients, scene.config)
    for divide, weigh in ((lambda _: total, lambda _: 1.0), (lambda count: count, lambda _: 1 / scene.ranks),
                          (lambda count: count, lambda count: count / total)):
        other = {n: torch.zeros_like(g) for n, g in scene.expected.gradients.items()}
        for count, gradients in shares:
            own = {n: g / max(divide(count), 1) for n, g in gradients.items()}
            scale = weigh(count) * min(1.0, clip / (total_norm(own) + 1e-6))
            other = {n: other[n] + scale * own[n] for n in other}
        c = factor(mine, other, residual=0.005)
        if c is not None and near(c, 1.0):
            return "clip", ("Right without clipping, wrong with it: each rank clips the gradient of its own share, and "
                            "the clipped ones are combined. Combine the gradients first, then clip the whole.")
    return None


def _losses(scene: Scene) -> list[tuple[str, str, Callable[[model.GPT], Tensor]]]:
    """List the losses that wrong trainers descend, with the mistake that each stands for."""
    tokens, targets, n = scene.tokens, scene.targets, scene.ranks

    def mean(rows: slice | Tensor) -> Callable[[model.GPT], Tensor]:
        return lambda network: model.loss(network(tokens[rows]), targets[rows])

    def shares(count: int, by_sequences: bool) -> Callable[[model.GPT], Tensor]:
        parts = list(zip(tokens.tensor_split(count), targets.tensor_split(count), strict=True))
        weights = [len(a) / len(tokens) if by_sequences else 1 / count for a, _ in parts]
        return lambda network: torch.stack(
            [w * model.loss(network(a), b) for w, (a, b) in zip(weights, parts, strict=True)]).sum()

    found = []
    masked = bool((targets == -100).any())
    cure = "count the targets of all ranks and divide the sum of all losses by that" if masked else (
        "weigh each by its number of sequences")
    for count in dict.fromkeys([n, *range(2, min(9, len(tokens) + 1))]):
        parts = "ranks' shares" if count == n else f"{count} parts of the batch (micro-batches?)"
        why = "hold unequal numbers of targets (-100 does not count)" if masked else "are not of equal size"
        found.append(("mean of means", f"The gradient is that of the mean of the means of {parts}. They {why}, so this "
                      f"is not the mean over all: {cure}.", shares(count, False)))
        if masked:
            found.append(("tokens", f"The gradient weighs {parts} by their sequences; but they hold unequal numbers of "
                          f"targets (-100 does not count): {cure}.", shares(count, True)))
    kept = len(tokens) - len(tokens) % n
    if kept != len(tokens):
        found.append(("remainder", f"The gradient is that of the first {kept} of {len(tokens)} sequences: the rest of "
                      "the division by the ranks is lost. Let shares differ in size (`torch.tensor_split`).",
                      mean(slice(kept))))
    for rank, rows in enumerate(torch.arange(len(tokens)).tensor_split(n)):
        found.append(("one share", f"The gradient is that of rank {rank}'s share alone: the shares of the other ranks "
                      "are not in it, or all ranks train on the same share.", mean(rows)))
    return found


def _some_constant(scene: Scene, off: Sequence[Difference]) -> Cause | None:
    """Some tensors are right, and the others are off by one factor."""
    expected = scene.expected.gradients
    names = list(dict.fromkeys(whole(d.name, scene.config) for d in off))
    c = factor(assembled(scene.gradients, expected, scene.config), expected, names)
    if c is None or len(names) == len(expected) or near(c, 1.0, 0.001):
        return None
    return "some", f"{_listed(names)} {_are(names)} {_times(c)}, all else is right: what is different about them?"


def _some_ranks(scene: Scene, off: Sequence[Difference]) -> Cause | None:
    """Some ranks are right, and others are not; or some tensors."""
    ranks = sorted({d.rank for d in off})
    names = list(dict.fromkeys(whole(d.name, scene.config) for d in off))
    if len(ranks) < scene.ranks:
        who = ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))
        return "some", f"Only {who} of {scene.ranks} differ{'s' * (len(ranks) == 1)}; what the others hold is right."
    if len(names) < len(scene.expected.gradients):
        return "some", f"Only {_listed(names)} {_are(names)} off; all else is right."
    return None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


# ---------------------------------------------------------------------------------------- parameters and the loss


def of_parameters(scene: Scene, off: Sequence[Difference]) -> Cause:
    """Explain parameters that are off although the gradients are right."""
    config, expected = scene.config, scene.expected
    names = list(dict.fromkeys(whole(d.name, config) for d in off))
    mine = assembled(scene.parameters, expected.after, config)
    moved = {n: mine[n] - expected.before[n] for n in expected.after}
    right = {n: expected.after[n] - expected.before[n] for n in expected.after}
    if set(names) <= set(config.frozen):
        return "frozen", (f"{_listed(names)} {_are(names)} frozen and moved. A frozen parameter has no gradient "
                          "(None, not zeros: with zeros AdamW still decays it) and stays as it was.")
    if len({d.rank for d in off}) < scene.ranks and _apart(scene):
        return "disagree", ("The gradients are right, and the ranks do not end with the same parameters: does every "
                            "rank take the step, with all that it holds?")
    if not any(rms(m) for m in moved.values()):
        return "no step", "The gradients are right and no parameter moved: is the optimizer's step missing?"
    trained = [n for n in right if n not in config.frozen]
    if config.clip is not None and (found := _clipping(scene, moved, right, trained)):
        return found
    c = factor(moved, right, trained)
    if c is not None and not near(c, 1.0, 0.002):
        return "step size", (f"The gradients are right, and every parameter moved {_times(c)}. One step, with "
                             "`model.optimizer(optimizer, ...)` as it is?")
    if _apart(scene):
        return "disagree", "The gradients are right, and each rank makes another step of them: the ranks drift apart."
    if len(names) < len(trained):
        return "some", f"The gradients are right, and only {_listed(names)} moved otherwise: are all in the optimizer?"
    return "update", ("The gradients are right, and the step made of them is not: look at what happens between them "
                      "(clipping, the optimizer and its settings, zeroed gradients, steps taken twice).")


def _apart(scene: Scene) -> bool:
    held: dict[tuple[str, str], Tensor] = {}
    for pieces in scene.parameters:
        for name, piece in pieces.items():
            if rms(held.setdefault((name, piece.where()), piece.values) - piece.values) > 1e-6:
                return True
    return False


def _clipping(scene: Scene, moved: Tensors, right: Tensors, trained: Sequence[str]) -> Cause | None:
    """Compare how far each tensor moved with how far clipping should have let it: plain SGD shows the factor."""
    if scene.reference.optimizer_name != "sgd":
        return None
    assert scene.config.clip is not None
    # What is allowed: clip / norm; without clipping a tensor moves norm / clip times as far.
    shrink = scene.expected.norm / scene.config.clip
    by_name = {n: factor({n: moved[n]}, {n: right[n]}) for n in trained}
    known = [c for c in by_name.values() if c is not None]
    if len(known) < len(trained) // 2:
        return None
    if all(near(c, shrink, 0.02) for c in known):
        return "clip", (f"Nothing was clipped: every parameter moved {shrink:.3g} times as far as config.clip = "
                        f"{scene.config.clip:g} allows.")
    parts = []
    for rank, pieces in enumerate(scene.parameters):
        factors = [c for n in pieces if (c := by_name.get(whole(n, scene.config))) is not None]
        if factors:
            parts.append((rank, sorted(factors)[len(factors) // 2]))
    if any(c > 1.002 for _, c in parts) and all(c > 0.998 for c in known):
        listed = ", ".join(f"rank {rank} by {c:.3g}" for rank, c in parts)
        return "clip", (f"Parameters move too far (factor by which: {listed}): each rank clips by the norm of what it "
                        "holds. Clip by the norm of the whole gradient: add the squares up over the ranks (shared "
                        "tensors once), then take the root.")
    return "clip", "The gradients are right before clipping, and the parameters are not after it. Clip the whole, once."


def of_loss(scene: Scene) -> Cause:
    """Explain a loss that is off although the gradients are right."""
    values = [loss for loss in scene.losses if loss is not None]
    expected = scene.expected.loss
    counts = [float((t != -100).sum()) for t in scene.targets.tensor_split(scene.ranks)]
    if len(values) == scene.ranks and len({round(v, 6) for v in values}) > 1:
        weighted = sum(v * c for v, c in zip(values, counts, strict=True)) / sum(counts)
        if near(weighted, expected, 1e-4) or near(sum(values) / len(values), expected, 1e-4):
            return "own loss", ("Each rank returns the loss of its own share. Return that of the whole batch: their "
                                "mean, weighed by the number of targets.")
        if near(sum(values), expected, 1e-4):
            return "own loss", "Each rank returns its contribution to the loss. Return their sum."
        return "own loss", "The ranks return different losses. Return that of the whole batch on each (or None)."
    ratio = values[0] / expected
    for m in range(2, max(scene.ranks, len(scene.tokens)) + 1):
        if near(ratio, m, 0.001) or near(ratio, 1 / m, 0.001):
            return "loss factor", (f"The gradients are right, and the loss is {_times(ratio)}: add up what was "
                                   "divided, or divide what was added up, for the number you return as well.")
    return "loss", "The gradients are right, the loss is not: return the mean over all targets of the batch, in nats."
