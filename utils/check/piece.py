"""A tensor that a rank holds, and its place in the tensor of the whole model."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Place = tuple[tuple[int, int], ...]  # (start, stop) in each dimension


class ContractError(Exception):
    """What a trainer returned is not what `same_training` can compare; the text is for the learner."""


@dataclass(frozen=True)
class Piece:
    """Say where a tensor belongs in the whole: `Piece(rows, slice(16, 32))`, `Piece(t, (slice(0, 8), slice(4, 8)))`.

    place: a slice for each dimension, those left out are whole; None: the whole tensor. flat=True: the place is one
    slice of the flattened whole, as when all parameters are laid end to end and cut.
    """

    tensor: torch.Tensor
    place: slice | tuple[slice, ...] | None = None
    flat: bool = False


@dataclass(frozen=True)
class Held:
    """A piece with its place settled: plain values, of no gradient and no wrapper. `flat` as in Piece."""

    values: torch.Tensor
    place: Place | None
    flat: bool = False

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """Give the part of a whole tensor that this piece stands for."""
        if self.flat and self.place:
            return whole.flatten()[slice(*self.place[0])]
        return whole if self.place is None else whole[tuple(slice(a, b) for a, b in self.place)]

    def where(self) -> str:
        """Name the place as one would write it."""
        if self.place is None:
            return ""
        return ("flat " if self.flat else "") + "[" + ", ".join(f"{a}:{b}" for a, b in self.place) + "]"


@dataclass(frozen=True)
class Bundle:
    """Many pieces as they travel: one array of all values (float32), and what is needed to take it apart again.

    A tensor by itself costs a millisecond to pack and unpack, and a model has a hundred of them.
    """

    names: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    places: tuple[tuple[Place | None, bool], ...] = ()
    values: Any = None  # numpy array

    @classmethod
    def of(cls, pieces: Mapping[str, Held]) -> Bundle:
        """Pack pieces by name."""
        import numpy as np

        arrays = [piece.values.float().flatten().numpy() for piece in pieces.values()]
        return cls(
            tuple(pieces),
            tuple(tuple(piece.values.shape) for piece in pieces.values()),
            tuple((piece.place, piece.flat) for piece in pieces.values()),
            np.concatenate(arrays) if arrays else np.zeros(0, np.float32),
        )

    def form(self) -> tuple[Any, ...]:
        """Give all but the values: what must be looked at only once, as long as it stays the same."""
        return self.names, self.shapes, self.places

    def pieces(self) -> dict[str, Held]:
        """Take the bundle apart; the tensors share its memory."""
        import torch

        found, start, values = {}, 0, torch.from_numpy(self.values)
        for name, shape, (place, flat) in zip(self.names, self.shapes, self.places, strict=True):
            size = math.prod(shape)
            found[name] = Held(values[start : start + size].view(shape), place, flat)
            start += size
        return found


def pieces(shapes: Mapping[str, Sequence[int]], shard: torch.Tensor, start: int) -> dict[str, Piece]:
    """Name what a shard of a flat row holds, for `parameters()` and `gradients()` of a trainer.

    shapes: of the tensors that lie end to end in the row, by name, in their order. shard: the elements of the row from
    `start` on; what reaches beyond the last tensor is padding.
    """
    found, begin = {}, 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape)
        first, last = max(begin, start), min(end, start + len(shard))
        if first < last:
            found[name] = Piece(shard[first - start : last - start], slice(first - begin, last - begin), flat=True)
        begin = end
    return found


def held(name: str, value: Any) -> Held:
    """Settle a value that a trainer returned: a tensor, a DTensor or a Piece. Raises ContractError."""
    import torch

    piece = value if isinstance(value, Piece) else Piece(value)
    tensor = piece.tensor
    if not isinstance(tensor, torch.Tensor):
        raise ContractError(f"`{name}` is of type {type(tensor).__name__}; return a tensor, a DTensor or a check.Piece")
    if hasattr(tensor, "_local_tensor"):
        return _of_dtensor(name, tensor)
    values = tensor.detach().to("cpu", copy=True).contiguous()
    slices: Sequence[slice] = (piece.place,) if isinstance(piece.place, slice) else piece.place or ()
    if not slices:
        return Held(values, None)
    for s in slices:
        if s.step not in (None, 1) or s.start is None or s.stop is None or not 0 <= s.start <= s.stop:
            raise ContractError(f"`{name}`: a place is made of slices like slice(16, 32), not {s}")
    return Held(values, tuple((s.start, s.stop) for s in slices), piece.flat)


def _of_dtensor(name: str, tensor: Any) -> Held:
    """Settle a DTensor: its shard and the place that its placements give."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    local = tensor._local_tensor
    if any(placement.is_partial() for placement in tensor.placements):
        raise ContractError(f"`{name}` is a DTensor with a Partial placement: the parts are still to be added up")
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    values = getattr(local, "wait", lambda: local)().detach().to("cpu", copy=True).contiguous()
    place = tuple((start, start + length) for start, length in zip(offset, shape, strict=True))
    return Held(values, place)
