"""Compare what the ranks hold with what one worker holds, tensor by tensor.

Tolerances (float32; measured for 20 steps of the fixtures under SGD and AdamW, sums in another order: losses differ by
up to 9e-7, gradients by 1.1e-5 of their size, parameters by 5e-4 of the way they moved):

    loss        1e-5, of its size
    gradient    1e-3: the root mean square of the difference, over that of the tensor's gradient
    parameter   2e-3: the root mean square of the difference, over that of the way the tensor moved since the start
                (and a ten-thousandth of its size, so that rounding cannot count as a way)
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils import model
from utils.check.piece import Held
from utils.check.reference import Expected, Tensors

LOSS, GRADIENT, PARAMETER = 1e-5, 1e-3, 2e-3
Pieces = Sequence[Mapping[str, Held]]  # by rank


@dataclass(frozen=True)
class Difference:
    """One rank's tensor that is not what it should be: `error` in the units above."""

    rank: int
    name: str  # as the rank calls it
    error: float
    where: str


class Problem(Exception):
    """What was returned cannot be compared; the text is for the learner."""


def whole(name: str, config: model.Config) -> str:
    """Name the reference's parameter for the name that a rank uses."""
    return model.whole_name(name, config)


def checked(what: str, by_rank: Pieces, expected: Tensors, known: Iterable[str],
            config: model.Config) -> None:
    """Look at names, shapes and coverage before any value. Raises Problem."""
    known = set(known)
    covered = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in expected.items()}
    for rank, pieces in enumerate(by_rank):
        for name, piece in pieces.items():
            target = whole(name, config)
            if target not in known:
                raise Problem(_unknown(what, rank, name, known))
            if target not in expected:
                continue  # a gradient of a frozen parameter: nobody uses it
            try:
                part = piece.of(expected[target])
            except IndexError:
                part = expected[target][:0]  # a place with more dimensions than the tensor
            if part.shape != piece.values.shape:
                place = f", and its place {piece.where()} holds {list(part.shape)}" if piece.where() else ""
                hint = "" if piece.where() else ". If it is a piece, say which: check.Piece(tensor, place)"
                raise Problem(
                    f"`{what}()` on rank {rank}: `{name}` has shape {list(piece.values.shape)}; the whole has "
                    f"{list(expected[target].shape)}{place}{hint}."
                )
            piece.of(covered[target])[...] = True
    for name, found in covered.items():
        if not found.any():
            none = " (None counts as nothing)" if what == "gradients" else ""
            raise Problem(f"`{what}()`: no rank returned `{name}`{none}.")
        if not found.all():
            row = (~found).nonzero()[0].tolist()
            raise Problem(f"`{what}()`: the pieces of `{name}` leave gaps, the first at index {row}: a rank's shard is "
                          "missing, or a place is wrong.")


def _unknown(what: str, rank: int, name: str, known: set[str]) -> str:
    for prefix in ("module.", "_orig_mod.", "_fsdp_wrapped_module."):
        if name.startswith(prefix):
            return (f"`{what}()` on rank {rank}: `{name}` is named by a wrapper. Take the names of the model inside it "
                    f"(without `{prefix}`).")
    return (f"`{what}()` on rank {rank}: the reference model has no parameter `{name}`. Names are those of "
            f"`model.GPT(config).named_parameters()`, such as `{min(known)}`; blocks keep their index in the whole.")


def rms(tensor: Tensor) -> float:
    """Give the root mean square; of nothing, 0."""
    return float(tensor.norm()) / math.sqrt(tensor.numel()) if tensor.numel() else 0.0


def units(expected: Expected | None, start: Tensors, after: Tensors | None = None) -> dict[str, float]:
    """Give the size that a difference of each tensor is measured in: of gradients, or of the way parameters moved."""
    if after is not None:
        return {name: rms(after[name] - start[name]) + 1e-4 * rms(start[name]) for name in start}
    assert expected is not None
    floor = 1e-4 * max(rms(g) for g in expected.gradients.values())
    return {name: rms(g) + floor for name, g in expected.gradients.items()}


def errors(
    by_rank: Pieces, expected: Tensors, unit: Mapping[str, float], config: model.Config
) -> list[dict[str, float]]:
    """Measure the difference of every tensor on every rank. Ranks with equal values are measured once."""
    found: list[dict[str, float]] = []
    for rank, pieces in enumerate(by_rank):
        twin = next((r for r in range(rank) if _equal(pieces, by_rank[r])), None)
        found.append(found[twin] if twin is not None else {
            name: rms(piece.values - piece.of(expected[target])) / unit[target]
            for name, piece in pieces.items() if (target := whole(name, config)) in expected
        })
    return found


def _equal(one: Mapping[str, Held], other: Mapping[str, Held]) -> bool:
    return one.keys() == other.keys() and all(
        p.place == other[n].place and torch.equal(p.values, other[n].values) for n, p in one.items())


def differences(measured: Sequence[Mapping[str, float]], by_rank: Pieces, tolerance: float) -> list[Difference]:
    """List what differs by more than the tolerance, by rank and in the order of the model."""
    return [
        Difference(rank, name, error, by_rank[rank][name].where())
        for rank, by_name in enumerate(measured) for name, error in by_name.items()
        if not error <= tolerance  # NaN is a difference too
    ]


def assembled(by_rank: Pieces, like: Tensors, config: model.Config) -> Tensors:
    """Put the pieces of all ranks together; where several hold the same, the first rank's counts."""
    result = {name: torch.zeros(tensor.shape) for name, tensor in like.items()}  # contiguous: flat places are views
    for pieces in reversed(by_rank):
        for name, piece in pieces.items():
            if (target := whole(name, config)) in result:
                piece.of(result[target])[...] = piece.values
    return result


def norm_of(by_rank: Pieces, like: Tensors, config: model.Config) -> float:
    """Give the norm of the gradient that the ranks hold together."""
    from utils.check.reference import total_norm

    return total_norm(assembled(by_rank, like, config))


def factor(
    values: Tensors, expected: Tensors, names: Iterable[str] | None = None, residual: float = 0.01
) -> float | None:
    """Find the one number by which all values are too large, or None if no one number explains them."""
    names = list(expected if names is None else names)
    a = torch.cat([values[n].flatten().double() for n in names])
    b = torch.cat([expected[n].flatten().double() for n in names])
    if not b.any() or not torch.isfinite(a).all():
        return None
    c = float(a @ b / (b @ b))
    return c if c and float((a - c * b).norm()) <= residual * float(a.norm()) else None
