"""Rank tables: every rank once in each direction, neighbours where traffic is heaviest, experts carved out of data."""

import pytest

from utils import plan

LAYOUTS = [
    plan.Layout(data=2, tensor=2, pipeline=2),
    plan.Layout(data=4, tensor=2, pipeline=2, context=2, expert=4),
    plan.Layout(data=3, tensor=4, pipeline=1, context=2, expert=2),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_rank_is_once_in_each_direction(layout):
    table = plan.ranks(layout)
    for name, groups in table.groups.items():
        assert sorted(rank for group in groups for rank in group) == list(range(layout.gpus)), name
        assert len({len(group) for group in groups}) == 1
    for name in ("data", "tensor", "pipeline", "context"):
        assert len(table[name][0]) == getattr(layout, name)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_two_directions_share_one_rank_at_most(layout):
    table = plan.ranks(layout)
    for rank in range(layout.gpus):
        mine = table.of(rank)
        for a in ("tensor", "context", "data", "pipeline"):
            for b in ("tensor", "context", "data", "pipeline"):
                assert a == b or set(mine[a]) & set(mine[b]) == {rank}
        assert table.place(rank)["tensor"] == rank % layout.tensor


def test_the_order_of_megatron():
    # Megatron-LM, parallel_state.initialize_model_parallel: 16 GPUs, tensor 2, pipeline 4 (its docstring's example).
    table = plan.ranks(plan.Layout(data=2, tensor=2, pipeline=4))
    assert table["data"] == [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14], [13, 15]]
    assert table["tensor"] == [[i, i + 1] for i in range(0, 16, 2)]
    assert table["pipeline"] == [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]


def test_experts_are_carved_out_of_the_replicas():
    table = plan.ranks(plan.Layout(data=4, tensor=2, expert=2))
    assert table["replica"] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert table["expert"] == [[0, 2], [4, 6], [1, 3], [5, 7]]
    assert table["expert_data"] == [[0, 4], [2, 6], [1, 5], [3, 7]]
    assert "expert_data" in str(table)
