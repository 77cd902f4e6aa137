"""The search: prunes nothing that would have won, ranks, and says what killed the others."""

from dataclasses import replace

import pytest

from utils import plan
from utils.plan.search import SPACE, candidates

SMALL = plan.Model(8, 1024, 8, 4, 4096, True, 32000, 1024, name="small")
MIXTURE = plan.Model(4, 512, 8, vocab=8000, sequence=512, experts=4, experts_per_token=2)
EVERY = {"schedule": ("1f1b", "interleaved-1f1b", "gpipe", "zb-h1", "zb-v"), "context": (1, 2)}


@pytest.mark.parametrize(
    ("model", "gpus", "batch", "software"),
    [(SMALL, 4, 8, plan.MEGATRON), (SMALL, 16, 16, plan.NANOTRON), (MIXTURE, 4, 8, plan.MEGATRON_2021)],
    ids=["small", "two nodes", "mixture"],
)
def test_equal_to_the_exhaustive_search(model, gpus, batch, software):
    cluster = plan.Cluster(gpus, plan.A100)
    space = {**EVERY, "micro_batch": (1, 4), "zero": (0, 3), "virtual": (2,)}
    quick = plan.search(model, cluster, batch, keep=8, software=software, **space)
    every = plan.search(model, cluster, batch, keep=8, software=software, exhaustive=True, **space)
    assert [e.layout for e in quick.best] == [e.layout for e in every.best]
    assert quick.simulated < every.simulated
    assert quick.tried == every.tried
    assert sum(quick.killed.values()) + len(quick) == quick.tried


def test_what_is_kept_fits_is_valid_and_is_ranked():
    found = plan.search(plan.LLAMA_8B, plan.Cluster(16), 32, virtual=(1, 2))
    seconds = [e.step_seconds for e in found.best]
    assert seconds == sorted(seconds)
    for e in found.best:
        assert e.fits
        assert e.layout.global_batch == 32
        plan.check(plan.LLAMA_8B, e.cluster, e.layout)
    assert any("memory" in reason for reason in found.killed)
    assert any("time" in reason for reason in found.killed)
    assert "tok/s/GPU" in str(found)


def test_a_model_that_fits_nowhere_says_how_near_it_came():
    found = plan.search(plan.LLAMA_405B, plan.Cluster(16), 16)
    assert not len(found)
    assert found.nearly
    assert min(b for _, b in found.nearly) > 80 * 2**30
    assert "Nothing fits" in str(found)


def test_every_candidate_is_a_layout_of_the_cluster():
    for model in (plan.LLAMA_8B, replace(MIXTURE, name="mixture")):
        for lay in candidates(model, plan.Cluster(32), 64, SPACE):
            assert lay.gpus == 32
            assert lay.global_batch == 64
            assert lay.tensor <= 8


def test_a_larger_gpu_allows_less_splitting():
    small, large = (
        plan.search(plan.LLAMA_8B, plan.Cluster(8, gpu), 8, keep=1, zero=(0,), micro_batch=(1,), virtual=(1,))[0].layout
        for gpu in (plan.A100_40, plan.H200)
    )
    assert large.tensor * large.pipeline <= small.tensor * small.pipeline
