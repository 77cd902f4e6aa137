"""Time: physical bounds of every term, and that the parts add up."""

from dataclasses import replace
from itertools import product

import pytest

from utils import plan, schedule
from utils.plan import compute, network
from utils.plan import time as clock
from utils.plan.coefficients import NAMES
from utils.plan.fit import MOST, SHARES

FIT = plan.fitted()
GPUS = list(plan.GPUS.values())


def layouts():
    """Give layouts of every kind for a Llama 8B on 16 GPUs."""
    for tensor, pipeline, context, zero in product((1, 2, 4), (1, 2, 4), (1, 2), (0, 1, 2, 3)):
        rest = 16 // tensor // pipeline // context
        if rest and not (zero == 3 and pipeline > 1):
            for recompute in ("none", "alternate", "full"):
                yield plan.Layout(rest, tensor, pipeline, context, 1, zero, 1, 8, recompute=recompute)


ALL = list(layouts())


@pytest.mark.parametrize("software", plan.SOFTWARE.values(), ids=lambda s: s.name)
def test_no_layout_is_faster_than_physics(software):
    model = plan.LLAMA_8B
    for gpu in (plan.A100, plan.H100):
        cluster = plan.Cluster(16, gpu)
        for lay in ALL[:: 3 if software is plan.MEGATRON else 11]:
            e = plan.estimate(model, cluster, lay, software)
            tokens = lay.global_batch * model.sequence
            # Every operation at peak speed, shared evenly; causal attention.
            assert e.step_seconds >= tokens * 3 * model.forward_flops(causal=True) / gpu.peak / 16
            assert 0 < e.mfu < 1
            assert e.mfu <= e.hfu
            assert all(seconds >= -1e-9 for seconds in e.time.terms.values()), (lay, e.time.terms)
            assert e.step_seconds == pytest.approx(sum(e.time.terms.values()))


def test_shares_are_below_one():
    assert all(0 < getattr(FIT, name) <= MOST for name in SHARES)
    assert all(getattr(FIT, name) >= 0 for name in NAMES)
    assert len(NAMES) <= 15  # thirteen for time, two for memory


@pytest.mark.parametrize("gpu", GPUS, ids=lambda g: g.name)
def test_a_product_takes_at_least_its_operations_and_its_bytes(gpu):
    for m, n, k in product((1, 64, 4096), (64, 8192), (128, 16384)):
        seconds = compute.product(m, n, k, gpu, FIT)
        assert seconds >= 2 * m * n * k / gpu.peak
        assert seconds >= 2 * (m * n + n * k + m * k) / gpu.memory_bandwidth
    sizes = [2 * n**3 / compute.product(n, n, n, gpu, FIT) / gpu.peak for n in (128, 512, 2048, 8192, 32768)]
    assert sizes == sorted(sizes)
    assert sizes[-1] <= FIT.matmul(gpu.peak)


@pytest.mark.parametrize("kind", network.WIRE)
def test_a_collective_takes_at_least_its_wire_and_grows(kind):
    for gpus, per_node in ((2, 2), (8, 8), (64, 8), (512, 1)):
        cluster, group = plan.Cluster(4096), network.Group(gpus, per_node)
        before = 0.0
        for size in (1e3, 1e6, 1e9):
            seconds = network.collective(kind, size, cluster, group, FIT)
            widest = cluster.gpu.link if gpus == per_node else min(cluster.gpu.link, per_node * cluster.net.per_gpu)
            assert seconds >= network.WIRE[kind] * (gpus - 1) / gpus * size / widest
            assert seconds > before
            before = seconds
    assert network.collective(kind, 1e9, cluster, network.Group(1, 1), FIT) == 0


def test_between_nodes_is_slower_than_inside():
    cluster = plan.Cluster(64)
    inside, outside = (network.collective("all_reduce", 1e8, cluster, network.Group(8, n), FIT) for n in (8, 1))
    assert outside > inside


def test_placement_puts_tensor_ranks_inside_the_node():
    groups = network.groups(plan.Cluster(64), plan.Layout(data=4, tensor=4, pipeline=4))
    assert groups["tensor"] == network.Group(4, 4)
    assert groups["data"] == network.Group(4, 2)
    assert groups["pipeline"] == network.Group(4, 1)
    assert network.groups(plan.Cluster(64), plan.Layout(data=4, tensor=16))["tensor"].nodes == 2


# HF Ultra-Scale Playbook, pp_comm_bandwidth: GB/s of an all-reduce of 256 MB on nodes of 8 H100.
@pytest.mark.parametrize(("nodes", "measured"), [(1, 436), (4, 160), (16, 85), (64, 33)])
def test_an_all_reduce_of_256_mb_is_within_a_factor_of_two(nodes, measured):
    cluster = plan.Cluster(8 * nodes, plan.H100, network=plan.EFA_400)
    size = 256 * 2**20
    seconds = network.collective("all_reduce", size, cluster, network.Group(8 * nodes, 8), FIT)
    ranks = 8 * nodes
    assert 0.5 < 2 * (ranks - 1) / ranks * size / seconds / 1e9 / measured < 2


def test_the_networks_numbers_are_those_that_were_fitted():
    efa = plan.record()["efa"]
    assert plan.EFA_400.latency == pytest.approx(efa["latency"], rel=0.01)
    assert plan.EFA_400.congestion == pytest.approx(efa["congestion"], rel=0.01)


@pytest.mark.parametrize(("name", "v"), [("1f1b", 1), ("interleaved-1f1b", 2), ("gpipe", 1), ("zb-h1", 1), ("zb-v", 2)])
@pytest.mark.parametrize("uneven", [0.0, 0.5])
def test_a_few_rounds_stand_for_the_whole_simulation(name, v, uneven):
    p, m = 4, 32
    lay = plan.Layout(pipeline=p, accumulate=m, schedule=name, virtual=v)
    costs = [(1 + uneven * (s % 3 == 1), 2 + uneven * (s % 2)) for s in range(p * v)]
    halves = [b / 2 for _, b in costs]
    built = schedule.build(name, p * v, m, v if v > 1 else None)
    whole = schedule.simulate(built, [f for f, _ in costs], halves, halves, transfer=0.1).total
    shortened = clock.simulated(costs, lay, 0.1)
    assert shortened == pytest.approx(whole, rel=0.01)
    assert clock.pipeline_bound(costs, lay, 0.1) <= shortened * (1 + 1e-9)


def test_1f1b_of_equal_stages_takes_what_the_formula_says():
    p, m = 4, 16
    lay = plan.Layout(pipeline=p, accumulate=m)
    costs = [(1.0, 2.0)] * p
    assert clock.simulated(costs, lay, 0.0) == pytest.approx((p - 1 + m) * 3)
    assert clock.pipeline_bound(costs, lay, 0.0) == pytest.approx((p - 1 + m) * 3)
    assert clock.pipeline_guess(costs, lay, 0.0) == pytest.approx((p - 1 + m) * 3)


def test_the_bound_is_a_bound():
    model, cluster = plan.LLAMA_8B, plan.Cluster(16)
    more = [replace(lay, schedule="interleaved-1f1b", virtual=2) for lay in ALL if lay.pipeline > 1]
    for lay in (ALL + more)[::2]:
        times = [clock.step(model, lay, cluster, plan.MEGATRON, FIT, how).total for how in (None, True)]
        assert times[0] <= times[1] * (1 + 1e-9), lay


def test_interleaving_shortens_the_bubble_and_full_recomputation_costs_a_forward():
    model, cluster = plan.LLAMA_8B, plan.Cluster(8)
    lay = plan.Layout(pipeline=8, accumulate=8)
    plain = plan.estimate(model, cluster, lay)
    folded = plan.estimate(model, cluster, replace(lay, schedule="interleaved-1f1b", virtual=4))
    assert folded.time["bubble"] < plain.time["bubble"] / 2
    full = plan.estimate(model, cluster, replace(lay, recompute="full"))
    assert full.time["recompute"] > 0
    assert full.hfu / full.mfu == pytest.approx(4 / 3, rel=0.05)  # the head is not recomputed
    assert full.memory_bytes < plain.memory_bytes


def test_zero_3_moves_half_as_much_again():
    # arXiv:1910.02054, section 7: 2 psi for ZeRO-1 and 2, 3 psi for ZeRO-3. A slow network shows all of it.
    slow = replace(plan.INFINIBAND_200, per_gpu=1e6, latency=0.0)
    cluster = plan.Cluster(16, plan.A100, gpus_per_node=1, network=slow)
    sw = replace(plan.MEGATRON, reduce_bytes=2)
    model = plan.Model(4, 1024, 8, vocab=256, sequence=256)
    one, three = (plan.estimate(model, cluster, plan.Layout(16, zero=z), sw).time["data"] for z in (1, 3))
    assert three / one == pytest.approx(1.5, rel=0.05)


def test_the_one_times_the_planner_and_the_published_run_agree():
    # arXiv:2205.05198, Table 5: 175B on 64 A100, 13.75 s; the planner was not fitted on it.
    lay = plan.Layout(
        tensor=8, pipeline=8, virtual=3, schedule="interleaved-1f1b", accumulate=64, recompute="selective", zero=0
    )
    e = plan.estimate(plan.GPT_175B, plan.Cluster(64, plan.A100), lay, plan.MEGATRON_2022)
    assert e.step_seconds == pytest.approx(13.75, rel=0.1)
    assert e.mfu == pytest.approx(0.514, rel=0.1)
    assert e.fits
