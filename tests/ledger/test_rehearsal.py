"""A rehearsal counts the calls of one process among ranks that are only pretended."""
import pytest
import torch
import torch.distributed as dist

from utils import ledger


@pytest.fixture
def fake():
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield
    dist.destroy_process_group()


def test_elements_are_those_of_the_larger_side(fake):
    with ledger.Rehearsal() as seen:
        dist.all_gather_single(torch.empty(24), torch.ones(3))
        dist.reduce_scatter_single(torch.empty(2), torch.ones(16))
        dist.all_reduce(torch.ones(5))
        torch.ones(7) + 1
    assert seen.elements == {"all_gather_single": [24], "reduce_scatter_single": [16], "all_reduce": [5]}
    assert seen.calls == 3


def test_functional_collectives_are_counted_once(fake):
    from torch.distributed import _functional_collectives as functional

    with ledger.Rehearsal() as seen:
        functional.all_gather_single(torch.ones(3), 0, dist.group.WORLD).sum()
        functional.all_reduce(torch.ones(5), "sum", dist.group.WORLD).sum()
    assert seen.elements == {"all_gather_single": [24], "all_reduce": [5]}
