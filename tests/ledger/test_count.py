"""What is sent on real ranks, counted by operation, rank and wire."""
import sys

import pytest

from utils import ledger, ranks

MB = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def four():
    ranks.start(4)
    ranks.run("big = torch.ones(1_000_000)")  # 4 MB
    yield
    ranks.stop()


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts bytes by socket")


def test_all_reduce_calls_and_payload():
    count = ledger.count("dist.all_reduce(big)\ndist.all_reduce(big[:10])")
    assert count.calls == {"all_reduce": [2] * 4}
    assert count.payload == {"all_reduce": [4 * MB + 40] * 4}
    assert count.ranks == [0, 1, 2, 3]


@needs_linux
def test_all_reduce_on_the_wire_is_the_rings():
    count = ledger.count("dist.all_reduce(big)")
    for sent in count.wire:
        assert sent / (4 * MB) == pytest.approx(2 * 3 / 4, rel=0.01)
    assert sum(count.received) == sum(count.wire)


@needs_linux
def test_nothing_sent_is_nothing_counted():
    count = ledger.count("big * 2")
    assert (count.calls, count.wire) == ({}, [0] * 4)


@needs_linux
def test_messages_by_rank():
    count = ledger.count("dist.send(big, 1) if rank == 0 else dist.recv(big, 0) if rank == 1 else None")
    assert count.calls == {"recv": [0, 1, 0, 0], "send": [1, 0, 0, 0]}
    assert count.payload["send"] == [4 * MB, 0, 0, 0]
    assert count.log[0][0].peer == 1
    assert count.wire[0] == pytest.approx(4 * MB, rel=0.01)
    assert count.wire[2] == 0


def test_what_ddp_sends_in_cpp_is_counted():
    ranks.run("""
from torch.nn.parallel import DistributedDataParallel
wrapped = DistributedDataParallel(torch.nn.Linear(1000, 1000))
def step():
    wrapped(torch.ones(2, 1000)).sum().backward()
step()""")
    count = ledger.count("step()")
    assert count.payload["all_reduce"] == [1001 * 1000 * 4] * 4
    if count.wire:
        assert count.wire[0] / (1001 * 1000 * 4) == pytest.approx(1.5, rel=0.01)


@needs_linux
def test_groups_made_meanwhile_count():
    count = ledger.count("pair = dist.new_group([0, 1])\nif rank < 2: dist.all_reduce(big, group=pair)")
    assert count.calls["all_reduce"] == [1, 1, 0, 0]
    assert count.wire[0] == pytest.approx(4 * MB, rel=0.01)  # 2 (N-1)/N = 1 for two ranks
    assert count.wire[2] < 100_000


def test_some_ranks_alone():
    count = ledger.count("dist.send(big[:1], 2) if rank == 1 else dist.recv(big[:1], 1)", on=[1, 2])
    assert count.ranks == [1, 2]
    assert count.calls == {"recv": [0, 1], "send": [1, 0]}


def test_a_failure_is_explained_and_the_next_count_is_right():
    with pytest.raises(ranks.RanksError, match="ZeroDivisionError"):
        ledger.count("dist.all_reduce(big)\n1 / 0")
    assert ledger.count("dist.barrier()").calls == {"barrier": [1] * 4}


def test_values_are_not_shown(capsys):
    ledger.count("rank")
    assert capsys.readouterr().out == ""


def test_tables():
    count = ledger.count("dist.all_reduce(big)")
    lines = repr(count).splitlines()
    assert lines[1].split() == ["operation", "calls", "payload", "on", "the", "wire"]
    assert "4 MB" in repr(count)
    assert "<table>" in count._repr_mimebundle_()["text/html"]


def test_a_platform_without_counters_says_so(monkeypatch):
    from utils.ledger import _count, _wire

    monkeypatch.setattr(_wire.sys, "platform", "darwin")
    assert "darwin" in _wire.why_not()
    seen = [_count.Seen(no_wire=_wire.why_not())]
    count = _count.gathered(seen)
    assert count.wire is None
    assert "darwin" in repr(count)
