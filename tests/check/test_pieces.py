"""Shards of a flat row, named piece by piece."""
import pytest
import torch

from utils import check

SHAPES = {"a": (2, 3), "b": (), "c": (5,), "d": (2, 2)}  # 6 + 1 + 5 + 4 elements


@pytest.mark.parametrize("size", [1, 3, 4, 7, 16, 20])
def test_shards_of_any_size_cover_every_element_once(size):
    row = torch.arange(16.0)
    padded = torch.cat([row, torch.full((-16 % size,), -1.0)])
    found = {name: [] for name in SHAPES}
    for rank, shard in enumerate(padded.split(size)):
        for name, piece in check.pieces(SHAPES, shard, rank * size).items():
            assert piece.flat
            assert len(piece.tensor) == piece.place.stop - piece.place.start
            found[name] += zip(range(piece.place.start, piece.place.stop), piece.tensor.tolist(), strict=True)
    begins = {"a": 0, "b": 6, "c": 7, "d": 12}
    for name, pairs in found.items():
        count = torch.Size(SHAPES[name]).numel()
        assert pairs == [(index, float(begins[name] + index)) for index in range(count)]


def test_a_shard_of_padding_holds_nothing():
    assert check.pieces(SHAPES, torch.zeros(4), 16) == {}


def test_pieces_are_views():
    shard = torch.zeros(8)
    check.pieces(SHAPES, shard, 0)["a"].tensor.add_(1)
    assert shard.tolist() == [1.0] * 6 + [0.0] * 2
