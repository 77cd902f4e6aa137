"""Failures: the published rates and sizes, and that the interval is the best one."""

import pytest

from utils import plan
from utils.plan.goodput import checkpoint_bytes, failure_seconds


def test_published_figures():
    # Llama 3: 419 interruptions in 54 days on 16,384 GPUs. BLOOM: a checkpoint of 2.3 TB. SC'21: 13.8 TB at 273 GB/s.
    assert failure_seconds(16384) / 3600 == pytest.approx(54 * 24 / 419)
    assert failure_seconds(16384) / failure_seconds(131072) == 8
    assert checkpoint_bytes(plan.BLOOM_176B) == pytest.approx(2.3e12, rel=0.08)
    assert checkpoint_bytes(plan.GPT_1T) == pytest.approx(13.8e12, rel=0.03)


@pytest.mark.parametrize(("save", "between"), [(10.0, 1e4), (60.0, 1e4), (300.0, 2e4)])
def test_no_interval_beats_dalys(save, between):
    def share(interval):
        return plan.Goodput(save, between, 0.0, interval).share

    best = max((i for i in range(50, 20000, 50)), key=share)
    assert share(plan.daly(save, between)) >= share(best) - 2e-3
    assert share(plan.young(save, between)) >= share(best) - 1e-2
    assert plan.daly(save, between) == pytest.approx(plan.young(save, between), rel=0.15)


def test_shares_are_shares():
    for gpus in (8, 1024, 16384, 100_000):
        g = plan.goodput(plan.LLAMA_405B, gpus, write=1e12)
        assert 0 <= g.share <= 1
        assert 0 <= g.losing <= 1
    shares = [plan.goodput(plan.LLAMA_405B, gpus, write=1e12).share for gpus in (8, 1024, 16384, 100_000)]
    assert shares == sorted(shares, reverse=True)
    assert plan.goodput(plan.LLAMA_405B, 16384, write=1e12).share > 0.9  # "over 90 %", arXiv:2407.21783, section 3.3.4
    assert plan.daly(300, 100) == 100
