"""What cells print and show, and how values travel."""

import os.path

import pytest

from utils import ranks


def printed(capsys, source, on=None):
    capsys.readouterr()
    ranks.run(source, on)
    return capsys.readouterr().out


def test_output_by_rank_in_order_folded(world, capsys):
    assert printed(capsys, "print('hello')") == "ranks 0-3: hello\n"
    assert printed(capsys, "rank") == "rank 0: 0\nrank 1: 1\nrank 2: 2\nrank 3: 3\n"
    assert printed(capsys, "rank % 2") == "ranks 0, 2: 0\nranks 1, 3: 1\n"
    late = "import time\ntime.sleep((3 - rank) / 10)\nprint(rank)\nprint('done')"
    assert printed(capsys, late).splitlines()[:4] == ["rank 0:", "0", "done", "rank 1:"]
    assert printed(capsys, "if rank == 2: print('only me')") == "rank 2: only me\n"
    assert printed(capsys, "x = 1") == ""
    assert printed(capsys, "print('a', end='')\nrank * 0") == "ranks 0-3: a0\n"
    assert printed(capsys, "rank;") == ""


def test_on_some_ranks(world, capsys):
    assert printed(capsys, "rank", on=2) == "rank 2: 2\n"
    assert printed(capsys, "rank", on=[3, 1]) == "rank 1: 1\nrank 3: 3\n"


@pytest.mark.parametrize("on", [4, [0, 7], -1])
def test_on_ranks_that_are_not_there(world, on):
    with pytest.raises(ranks.RanksError, match=r"There is no rank.*there are 4: 0 to 3\."):
        ranks.run("1", on=on)


def test_on_no_ranks(world):
    with pytest.raises(ranks.RanksError, match="No rank is named"):
        ranks.run("1", on=[])


def test_names_of_every_rank(world):
    names = "(torch.__name__, dist.__name__, rank, world_size, str(device))"
    assert ranks.gather(names) == [("torch", "torch.distributed", r, 4, "cpu") for r in range(4)]


@pytest.mark.parametrize("source", ["", "\n\n", "# only a comment", "pass"])
def test_cells_that_do_nothing(world, capsys, source):
    assert printed(capsys, source) == ""


def test_await(world, capsys):
    source = "import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return rank\nawait f()"
    assert printed(capsys, source) == "rank 0: 0\nrank 1: 1\nrank 2: 2\nrank 3: 3\n"
    assert printed(capsys, "await f() * 0") == "ranks 0-3: 0\n"


def test_magics_and_shell(world, capsys):
    assert printed(capsys, "!echo hi").strip() == "ranks 0-3: hi"
    assert "loop" in printed(capsys, "%timeit -n1 -r1 pass", on=0)


def test_standard_error_and_warnings_without_places(world, capsys):
    source = "import sys, warnings\nprint('out')\nprint('err', file=sys.stderr)\nwarnings.warn('careful')"
    assert printed(capsys, source) == "ranks 0-3:\nout\nerr\nUserWarning: careful\n"
    deprecated = "dist.reduce_scatter_tensor(torch.zeros(2), torch.ones(8))"
    assert "/" not in printed(capsys, deprecated)
    assert printed(capsys, "import os\n_ = os.write(2, b'[W1122 gloo noise]')") == ""


def test_what_native_code_and_child_processes_print(world, capsys):
    source = "import os, subprocess\nprint('python')\nsubprocess.run(['echo', 'child'])\n_ = os.write(1, b'native')"
    assert printed(capsys, source) == "ranks 0-3:\npython\nchild\nnative\n"
    assert "cut here, of 1,000,000 bytes" in printed(capsys, "_ = os.write(1, b'x' * 1_000_000)")


def test_long_output_is_cut_with_a_note(world, capsys):
    out = printed(capsys, "for i in range(200_000): print(i, 'x' * 50)", on=1)
    assert out.startswith("rank 1:\n0 xxx")
    assert out.endswith("199999 " + "x" * 50 + "\n")
    assert "characters cut here, of 11,488,890 in 200,000 lines" in out
    assert len(out) < 13_000
    out = printed(capsys, "print('y' * 50_000_000)")
    assert "characters cut here, of 50,000,001 in 1 lines" in out


def test_rich_values(world, capsys, monkeypatch):
    from IPython.testing.globalipapp import get_ipython, start_ipython

    shell = start_ipython() or get_ipython()
    shown = []
    monkeypatch.setattr(shell.display_pub, "publish", lambda data, metadata=None, **_: shown.append((data, metadata)))
    assert "tensor([1., 1.])" in printed(capsys, "torch.ones(2)")
    out = printed(capsys, "import pandas as pd\nprint('before')\npd.DataFrame({'a': [1, 2]})")
    assert out == "ranks 0-3:\nbefore\n"
    assert "<table" in shown[-1][0]["text/html"]
    shown.clear()
    ranks.run("import matplotlib.pyplot as plt\nplt.plot([1, 2 + rank]);")
    assert len(shown) == 4
    assert all("image/png" in data for data, _ in shown)
    shown.clear()
    ranks.run("plt.plot([1, 2])\nplt.show()\nprint('after')")
    assert len(shown) == 1
    from utils.ranks.show import show

    show({0: ["a\n", ({"text/html": "<b>x</b>", "text/plain": "x"}, {"text/html": {"isolated": True}}), "b\n"]})
    assert shown[-1][1] == {"text/html": {"isolated": True}}
    assert capsys.readouterr().out.endswith("rank 0:\na\nb\n")


def test_rich_values_in_a_plain_script(world, capsys):
    from utils.ranks import show

    bundle = ({"text/html": "<b>x</b>", "text/plain": "x"}, {})
    show._shell, shell = lambda: None, show._shell
    try:
        show.show({0: [bundle], 1: [bundle]})
    finally:
        show._shell = shell
    assert capsys.readouterr().out == "ranks 0-1:\nx\n"


def test_addresses_of_shown_objects_are_left_out(world, capsys):
    assert printed(capsys, "object()") == "ranks 0-3: <object>\n"


def test_state_is_kept_between_cells(world):
    ranks.run("import math\ndef f(x):\n    return x + math.pi * 0\ncount = 0")
    ranks.run("count += f(1)")
    ranks.run("count += f(1)")
    assert ranks.gather("count") == [2.0] * 4


def test_gather(world):
    import torch

    assert ranks.gather("rank ** 2") == [0, 1, 4, 9]
    tensors = ranks.gather("torch.arange(3) * rank")
    assert torch.equal(tensors[3], torch.tensor([0, 3, 6]))
    assert ranks.gather("torch.ones(2, requires_grad=True) * 2")[0].tolist() == [2, 2]
    assert ranks.gather(" rank ") == [0, 1, 2, 3]
    collective = "[dist.all_reduce(t := torch.ones(1)), t.item()][1]"
    assert ranks.gather(collective) == [4.0] * 4


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("(lambda: 1)", "the value on ranks 0-3 cannot be brought to the notebook"),
        ("open('/dev/null')", "the value on ranks 0-3 cannot be brought to the notebook"),
        ("Mine()", "the value on ranks 0-3 cannot be brought to the notebook"),
        ("Mine() if rank == 2 else 1", "the value on rank 2 cannot be brought to the notebook"),
        ("1 / 0", "The expression stopped: every rank raised ZeroDivisionError."),
        ("dist.group.WORLD", "cannot be brought to the notebook"),
        ("x y", "The expression cannot be read as Python."),
        ("x = 1", "The expression cannot be read as Python."),
        ("dist.barrier() if rank else 0", "rank 0 never reached the barrier that the others wait in."),
    ],
)
def test_gather_what_cannot_be_had(world, expression, says):
    ranks.run("class Mine:\n    pass")
    with pytest.raises(ranks.RanksError) as failure:
        ranks.gather(expression)
    assert says in str(failure.value)
    assert "Usual cause: " in str(failure.value)
    assert ranks.gather("rank") == [0, 1, 2, 3]


def test_scatter(world):
    ranks.scatter("mine", [{"r": r} for r in range(4)])
    assert ranks.gather("mine['r']") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("x", [1, 2], "2 values for 4 ranks"),
        ("not a name", [1] * 4, "cannot be the name of a variable"),
        ("class", [1] * 4, "cannot be the name of a variable"),
        ("x", [lambda: 1] * 4, "a value cannot be sent to the ranks"),
    ],
)
def test_scatter_what_cannot_be(world, name, values, says):
    with pytest.raises(ranks.RanksError, match=says):
        ranks.scatter(name, values)


def test_call(world):
    assert ranks.call(os.path.basename, "/a/b") == ["b"] * 4
    assert ranks.call(os.path.basename, "/a/b", on=1) == ["b"]
    with pytest.raises(ranks.RanksError, match="a function of an installed module"):
        ranks.call(lambda: 1)
    with pytest.raises(ranks.RanksError, match="every rank raised TypeError"):
        ranks.call(os.path.basename)


def test_call_is_explained_by_the_line_of_the_learners_function(world):
    ranks.run("def exchange():\n    x = torch.ones(1)\n    dist.recv(x, (rank + 1) % 4)")
    with pytest.raises(ranks.RanksError) as failure:
        ranks.call(eval_in_namespace, "exchange()")
    assert "The call stopped: ranks 0-3 wait for each other." in str(failure.value)
    assert "waited in recv from rank 1  (in exchange, line 3 of an earlier cell" in str(failure.value)
    assert failure.value.cause == "order"


def eval_in_namespace(source):
    from utils.ranks import engine

    return eval(source, engine.namespace())


def record_calls(source):
    """Run source on this rank and return (op, payload, shapes, ranks, peer) of each call."""
    from utils.ranks import engine

    seen = []
    end = engine.on_call(lambda c: seen.append((c.op, c.payload, c.shapes, c.ranks, c.peer)))
    try:
        exec(source, engine.namespace())
    finally:
        end()
    return seen


def test_other_rooms_can_listen_to_every_call(world):
    source = """
dist.all_reduce(torch.ones(10))
if rank == 0: dist.send(torch.ones(3, dtype=torch.float64), 1)
if rank == 1: dist.recv(torch.ones(3, dtype=torch.float64), 0)
dist.broadcast(torch.ones(2, 2), 3)
from torch.nn.parallel import DistributedDataParallel as DDP
torch.nn.Linear(1, 1)
"""
    everyone = (0, 1, 2, 3)
    seen = ranks.call(record_calls, source)
    assert seen[0] == [
        ("all_reduce", 40, [(10,)], everyone, None),
        ("send", 24, [(3,)], everyone, 1),
        ("broadcast", 16, [(2, 2)], everyone, 3),
    ]
    assert seen[1][1] == ("recv", 24, [(3,)], everyone, 0)
    assert len(seen[2]) == 2
    ranks.run(
        "from torch.nn.parallel import DistributedDataParallel as DDP\nmodel = DDP(torch.nn.Linear(10, 10, bias=False))"
    )
    backward = ranks.call(record_calls, "model(torch.ones(1, 10)).sum().backward()")
    assert backward[0] == [("all_reduce", 400, [(100,)], everyone, None)]  # issued by DDP's C++
    assert ranks.call(record_calls, "pass") == [[]] * 4


def count_sockets():
    from utils.ranks import engine

    return len(engine.group_sockets())


def test_other_rooms_can_have_the_sockets_of_the_groups(world):
    before = ranks.call(count_sockets)
    assert before == [3] * 4  # one connection to each other rank
    ranks.run("import socket\nmine = socket.create_server(('127.0.0.1', 0))")
    assert ranks.call(count_sockets) == before
    ranks.run("mine.close()\nmore = dist.new_group([0, 1])")
    assert ranks.call(count_sockets) == [4, 4, 3, 3]


def test_a_line_written_over_and_over_is_shown_as_it_stood_last(world, capsys):
    source = "for i in range(5): print(f'\\r{i}/4', end='')\nprint()\nprint('done')"
    assert printed(capsys, source) == "ranks 0-3:\n4/4\ndone\n"


def test_two_threads_of_the_notebook_may_ask(world):
    import threading

    values = []
    other = threading.Thread(target=lambda: values.append(ranks.gather("rank")))
    other.start()
    with pytest.raises(ranks.RanksError, match="rank 0 never reached the barrier"):
        ranks.run("if rank: dist.barrier()")
    other.join()
    assert values == [[0, 1, 2, 3]]
