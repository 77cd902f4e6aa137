"""The frame with functions that live on the ranks."""
import pytest

from utils import progress, ranks
from utils.check.verdict import NotYet, exercise


def trial(name):
    """Run the learner's function on this rank."""
    import torch

    from utils.ranks import engine

    tensor = torch.full((2,), float(engine.namespace()["rank"]))
    engine.namespace()[name](tensor)
    return tensor.tolist()


@exercise(judges=("result",), ranks=4)
def add_up(name):
    """Add up over the ranks."""
    held = ranks.call(trial, name)
    if held != [[6.0, 6.0]] * 4:
        return NotYet("result", f"Rank 0 holds {held[0][0]:g}.")
    return None


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def four():
    ranks.start(4)
    yield
    ranks.stop()


def define(body):
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    ranks.run(f"def add_up(tensor):\n{lines}")


def test_ranks_are_not_running():
    ranks.stop()
    verdict = add_up("add_up")
    assert verdict.status == "not attempted"
    assert "ranks.start" in str(verdict)


def test_the_name_is_needed(four):
    assert 'check.add_up("add_up")' in str(add_up(len))
    verdict = add_up("never_defined")
    assert verdict.status == "not attempted"
    assert "%%ranks" in str(verdict)


def test_too_few_ranks(four):
    @exercise(ranks=9)
    def many(name):
        return None

    assert "ranks.start(9)" in str(many("print"))


def test_stub_solution_and_wrong(four):
    define('raise NotImplementedError("add_up")')
    assert add_up("add_up").status == "not attempted"
    define("dist.all_reduce(tensor)")
    assert add_up("add_up").passed
    define("dist.broadcast(tensor, 0)")
    assert add_up("add_up").hint == "Rank 0 holds 0."
    assert [e.resp["status"] for e in progress.attempts("add_up")] == ["passed", "not yet"]


def test_an_error_on_a_rank(four):
    define("dist.all_reduce(tensor)\n1 / 0")
    verdict = add_up("add_up")
    assert (verdict.status, verdict.what) == ("not yet", "error")
    assert "ZeroDivisionError" in verdict.hint
    define("dist.all_reduce(tensor)")
    assert add_up("add_up").passed


def test_a_deadlock(four):
    define("dist.recv(tensor, (rank - 1) % 4)\ndist.send(tensor, (rank + 1) % 4)")
    verdict = add_up("add_up")
    assert (verdict.status, verdict.what) == ("not yet", "deadlock")
    define("dist.all_reduce(tensor)")
    assert add_up("add_up").passed
