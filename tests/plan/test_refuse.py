"""Requests that cannot be are refused with the rule, the numbers, and values that can be: which then are accepted."""

import re

import pytest

from utils import plan

M = plan.LLAMA_8B


def estimate(gpus=8, model=M, **layout):
    return plan.estimate(model, plan.Cluster(gpus), plan.Layout(**layout))


# Request, what the message has to name (rule and numbers), and a request with one of the values it calls nearest.
CASES = [
    (lambda: plan.Cluster(8, "H1000"), ["no GPU 'H1000'", "H100", "A100"], lambda: plan.Cluster(8, "H100")),
    (lambda: plan.Cluster(8, network="carrier pigeon"), ["no network"], lambda: plan.Cluster(8, network="EFA 400")),
    (lambda: plan.Cluster(12), ["whole nodes", "12 / 8", "nearest: 6, 12"], lambda: plan.Cluster(12, gpus_per_node=6)),
    (lambda: plan.Cluster(0), ["gpus", "nearest: 1"], lambda: plan.Cluster(1)),
    (lambda: estimate(data=7), ["= 7, not 8", "data=8"], lambda: estimate(data=8)),
    (lambda: estimate(data=1, tensor=3, pipeline=2), ["= 6, not 8", "gpus=6"], None),
    (lambda: estimate(64, tensor=64), ["64 > 32", "nearest: 32"], lambda: estimate(64, tensor=32, data=2)),
    (lambda: estimate(6, tensor=6), ["32 / 6", "nearest: 4, 8"], lambda: estimate(4, tensor=4)),
    (
        lambda: estimate(3, plan.Model(4, 96, 12, 4, vocab=99), tensor=3),
        ["4 key-value heads", "nearest: 2, 4"],
        lambda: estimate(4, plan.Model(4, 96, 12, 4, vocab=99), tensor=4),
    ),
    (lambda: estimate(64, pipeline=64), ["64 stages", "32 layers", "pipeline=34"], lambda: estimate(32, pipeline=32)),
    (lambda: estimate(7, context=7), ["8192 / 7", "nearest: 4, 8"], lambda: estimate(8, context=8)),
    (lambda: estimate(data=8, expert=2), ["Experts", "1 / 2", "nearest: 1"], lambda: estimate(data=8)),
    (
        lambda: estimate(data=4, tensor=2, expert=8, model=plan.Model(4, 64, 4, experts=8, vocab=99)),
        ["carved out", "4 / 8", "nearest: 4"],
        lambda: estimate(data=4, tensor=2, expert=4, model=plan.Model(4, 64, 4, experts=8, vocab=99)),
    ),
    (
        lambda: estimate(4, pipeline=4, accumulate=6, schedule="interleaved-1f1b"),
        ["6 / 4", "nearest: 3, 6"],
        lambda: estimate(3, pipeline=3, accumulate=6, schedule="interleaved-1f1b"),
    ),
    (
        lambda: plan.Layout(schedule="1f2b"),
        ["no schedule '1f2b'", "nearest: 1f1b"],
        lambda: plan.Layout(schedule="1f1b"),
    ),
    (lambda: plan.Layout(recompute="some"), ["no recompute 'some'", "full"], None),
    (lambda: plan.Layout(pipeline=2, virtual=2), ["one stage a rank", "virtual=1"], lambda: plan.Layout(pipeline=2)),
    (lambda: plan.Layout(zero=4), ["0 to 3", "nearest: 3"], lambda: plan.Layout(zero=3)),
    (lambda: plan.Layout(data=2.5), ["data", "2.5"], None),
    (lambda: plan.Layout(micro_batch=0), ["micro_batch", "nearest: 1"], None),
    (lambda: plan.Model(4, 100, 12), ["100 / 12", "nearest: 10, 20"], lambda: plan.Model(4, 100, 10)),
    (lambda: plan.Model(4, 64, 8, kv_heads=3), ["8 / 3", "nearest: 2, 4"], lambda: plan.Model(4, 64, 8, kv_heads=4)),
    (lambda: plan.Model(4, 64, 8, experts=2, experts_per_token=4), ["4 of 2", "nearest: 2"], None),
    (
        lambda: plan.with_batch(plan.Layout(data=8, micro_batch=2), 100),
        ["100 / 16", "nearest batch: 96, 112"],
        lambda: plan.with_batch(plan.Layout(data=8, micro_batch=2), 96),
    ),
    (lambda: plan.goodput(M, 8, write=0), ["write"], lambda: plan.goodput(M, 8, write=1e9)),
    (lambda: plan.ranks(plan.Layout(data=4, expert=3)), ["4 / 3", "nearest: 2, 4"], None),
    (lambda: plan.ranks(plan.Layout(data=4))["tensors"], ["no direction", "tensor"], None),
]


@pytest.mark.parametrize(("request_", "named", "possible"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_refused_with_reasons_and_a_way_out(request_, named, possible):
    with pytest.raises(plan.PlanError) as refused:
        request_()
    for text in named:
        assert text in str(refused.value)
    if possible:
        possible()


def test_a_batch_that_no_layout_splits():
    with pytest.raises(plan.PlanError) as refused:
        plan.search(plan.Model(2, 64, 2, vocab=99, sequence=64), plan.Cluster(64), global_batch=1, context=(1,))
    near = re.search(r"nearest batch: (\d+)", str(refused.value))
    assert near
    found = plan.search(plan.Model(2, 64, 2, vocab=99, sequence=64), plan.Cluster(64), int(near[1]), context=(1,))
    assert len(found)
