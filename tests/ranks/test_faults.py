"""Every failure is explained: rank, line, usual cause; and the next cell works, with the survivors' variables."""

import threading

import pytest

from utils import ranks

REMADE = "The process group was made anew; variables are kept. Make sub-groups, DDP wrappers and meshes again."

# name: (cell, cause, ranks that are lost, what the explanation says)
FAULTS = {
    "one rank raises": (
        "x = torch.ones(3)\nif rank == 1:\n    1 / 0\ndist.all_reduce(x)",
        "raised", [],
        "The cell stopped: rank 1 raised ZeroDivisionError.\n"
        "ranks 0, 2-3: waited in all_reduce at line 4: dist.all_reduce(x)\n"
        "rank 1: raised ZeroDivisionError at line 3: 1 / 0\n"
        "    division by zero\n"
        "Usual cause: something that only this rank has or does",
    ),
    "one rank raises, in a function": (
        "def step(t):\n    if rank == 2:\n        raise ValueError(2)\n    dist.all_reduce(t)\n\nstep(torch.ones(1))",
        "raised", [],
        "rank 2: raised ValueError at line 3: raise ValueError(2)  (in step, called at line 6)",
    ),
    "other collectives": (
        "x = torch.ones(3)\nif rank == 2:\n    dist.broadcast(x, 0)\nelse:\n    dist.all_reduce(x)",
        "mismatch", [],
        "The cell stopped: the ranks called different operations where all must call the same.\n"
        "ranks 0-1, 3: called all_reduce float32 [3] at line 5: dist.all_reduce(x)\n"
        "rank 2: called broadcast float32 [3] from rank 0 at line 3: dist.broadcast(x, 0)\n"
        "Usual cause: a collective inside `if rank == ...`",
    ),
    "other shapes": (
        "x = torch.ones(3 + (rank == 2))\ndist.all_reduce(x)",
        "mismatch", [],
        "The cell stopped: the ranks called all_reduce with tensors that do not agree.\n"
        "ranks 0-1, 3: called all_reduce float32 [3] at line 2: dist.all_reduce(x)\n"
        "rank 2: called all_reduce float32 [4] at line 2: dist.all_reduce(x)\n"
        "Usual cause: shards of unequal size",
    ),
    "other types": (
        "x = torch.ones(3, dtype=torch.float64 if rank == 2 else torch.float32)\ndist.all_reduce(x)",
        "mismatch", [],
        "rank 2: called all_reduce float64 [3] at line 2: dist.all_reduce(x)",
    ),
    "other roots": (
        "x = torch.ones(3)\ndist.broadcast(x, src=rank // 2)",
        "mismatch", [],
        "The cell stopped: the ranks called broadcast with different roots.\n"
        "ranks 0-1: called broadcast float32 [3] from rank 0 at line 2",
    ),
    "other gathers": (
        "x = torch.ones(2 + rank % 2)\ndist.all_gather([torch.zeros(2) for _ in range(4)], x)"
        " if rank % 2 == 0 else dist.all_gather([torch.zeros(3) for _ in range(4)], x)",
        "mismatch", [],
        "ranks 0, 2: called all_gather float32 [2] at line 2",
    ),
    "one rank never joins": (
        "x = torch.ones(3)\nif rank != 2:\n    dist.all_reduce(x)",
        "skipped", [],
        "The cell stopped: rank 2 never reached the all_reduce that the others wait in.\n"
        "ranks 0-1, 3: waited in all_reduce at line 3: dist.all_reduce(x)\n"
        "rank 2: finished the cell\n"
        "Usual cause: a collective inside `if rank == ...`, or in a loop that takes fewer turns on one rank.",
    ),
    "one rank never waits for its backward": (
        "from torch.nn.parallel import DistributedDataParallel as DDP\nmodel = DDP(torch.nn.Linear(4, 4))\n"
        "loss = model(torch.ones(2, 4)).sum()\nif rank != 3:\n    loss.backward()",
        "skipped", [],
        "ranks 0-2: waited in all_reduce at line 5: loss.backward()",
    ),
    "one rank never makes the group": (
        "if rank != 1:\n    group = dist.new_group([0, 1, 2])",
        "skipped", [],
        "waited in new_group at line 2: group = dist.new_group([0, 1, 2])",
    ),
    "groups that only their members make": (
        "if rank < 2:\n    dist.barrier(group=dist.new_group([0, 1]))",
        "mismatch", [],
        "The cell stopped: the ranks made groups that do not fit together.",
    ),
    "an asynchronous wait in vain": (
        "x = torch.ones(3)\nif rank == 0:\n    work = dist.all_reduce(x, async_op=True)\n    work.wait()",
        "skipped", [],
        "The cell stopped: ranks 1-3 never reached the all_reduce that rank 0 waits in.\n"
        "rank 0: waited in all_reduce at line 4: work.wait()",
    ),
    "both receive first": (
        "x = torch.ones(3)\nif rank < 2:\n    dist.recv(x, 1 - rank)\n    dist.send(x, 1 - rank)",
        "order", [],
        "The cell stopped: ranks 0-1 wait for each other.\n"
        "rank 0: waited in recv from rank 1 at line 3: dist.recv(x, 1 - rank)\n"
        "rank 1: waited in recv from rank 0 at line 3: dist.recv(x, 1 - rank)\n"
        "ranks 2-3: finished the cell\n"
        "Usual cause: each waits for another to act first.",
    ),
    "all send first in a ring": (
        "x = torch.ones(3)\ndist.send(x, (rank + 1) % 4)\ndist.recv(x, (rank - 1) % 4)",
        "order", [],
        "The cell stopped: ranks 0-3 wait for each other.",
    ),
    "two groups in opposite order": (
        "a, b = dist.new_group([0, 1]), dist.new_group([0, 1])\nx = torch.ones(3)\nif rank == 0:\n"
        "    dist.all_reduce(x, group=a)\n    dist.all_reduce(x, group=b)\nif rank == 1:\n"
        "    dist.all_reduce(x, group=b)\n    dist.all_reduce(x, group=a)",
        "order", [],
        "rank 1: waited in all_reduce at line 7: dist.all_reduce(x, group=b)",
    ),
    "send without recv": (
        "x = torch.ones(3)\nif rank == 0:\n    dist.send(x, 1)",
        "unmatched", [],
        "The cell stopped: rank 0 sends to rank 1, which never receives it.\n"
        "rank 0: waited in send to rank 1 at line 3: dist.send(x, 1)\n"
        "ranks 1-3: finished the cell\n"
        "Usual cause: a send without its recv",
    ),
    "isend without recv": (
        "x = torch.ones(3)\nif rank == 0:\n    request = dist.isend(x, 1)",
        "unmatched", [],
        "The cell stopped: rank 0 sends to rank 1, which never receives it.\n"
        "rank 0: began isend at line 3: request = dist.isend(x, 1)",
    ),
    "recv without send": (
        "x = torch.ones(3)\nif rank == 3:\n    dist.recv(x, 0)",
        "unmatched", [],
        "The cell stopped: rank 3 receives from rank 0, which never sends.",
    ),
    "recv from anyone, and nobody sends": (
        "x = torch.ones(3)\nif rank == 3:\n    dist.recv(x)",
        "unmatched", [],
        "The cell stopped: rank 3 receives from anyone, and nobody sends.",
    ),
    "different tags": (
        "x = torch.ones(3)\nif rank == 0:\n    dist.send(x, 1, tag=1)\nif rank == 1:\n    dist.recv(x, 0, tag=2)",
        "unmatched", [],
        "The cell stopped: rank 0 sends to rank 1 with tag 1, but rank 1 receives with tag 2.",
    ),
    "a message that does not fit": (
        "x = torch.ones(3 + rank)\nif rank == 0:\n    dist.send(x, 1)\nif rank == 1:\n    dist.recv(x, 0)",
        "mismatch", [],
        "rank 1: called recv from rank 0: float32 of 4 elements at line 5: dist.recv(x, 0)",
    ),
    "an unfinished asynchronous collective": (
        "x = torch.ones(3)\nif rank == 0:\n    work = dist.all_reduce(x, async_op=True)",
        "unmatched", [],
        "The cell stopped: rank 0 began all_reduce, which ranks 1-3 never called.\n"
        "rank 0: began all_reduce at line 3: work = dist.all_reduce(x, async_op=True)",
    ),
    "a rank is killed": (
        "import os, signal\nx = torch.ones(3)\nif rank == 1:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "dist.all_reduce(x)",
        "died", [1],
        "The cell stopped: rank 1 died: its process was killed by SIGKILL.\n"
        "ranks 0, 2-3: waited in all_reduce at line 5: dist.all_reduce(x)\n"
        "rank 1: died at line 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Usual cause: the system killed the process because memory ran out",
    ),
    "two ranks leave": (
        "import os\nif rank > 1:\n    os._exit(3)",
        "died", [2, 3],
        "The cell stopped: ranks 2-3 died: its process ended with exit code 3.\n"
        "ranks 0-1: finished the cell\n"
        "ranks 2-3: died at line 3: os._exit(3)\n"
        "Usual cause: `os._exit` in the cell, or native code that ended the process.\n"
        "Ranks 2-3 were replaced by fresh processes: their variables are lost.\n"
        "The process group was made anew; the other ranks' variables are kept.",
    ),
    "native code crashes": (
        "import os\nif rank == 3:\n    os.abort()\ndist.barrier()",
        "died", [3],
        "rank 3: died at line 3: os.abort()",
    ),
    "sys.exit": (
        "import sys\nif rank == 1:\n    sys.exit(3)\ndist.barrier()",
        "raised", [],
        "rank 1: raised SystemExit at line 3: sys.exit(3)\n    3\nUsual cause: a script's `exit()`.",
    ),
    "exit()": ("exit()", "raised", [], "The cell stopped: every rank raised SystemExit."),
    "memory runs out": (
        "import resource\nlimits = resource.getrlimit(resource.RLIMIT_DATA)\nif rank == 1:\n"
        "    resource.setrlimit(resource.RLIMIT_DATA, (900_000_000, limits[1]))\n"
        "big = torch.ones(300_000_000 if rank == 1 else 3)\ndist.all_reduce(torch.ones(1))",
        "memory", [],
        "The cell stopped: rank 1 ran out of memory.\n"
        "ranks 0, 2-3: waited in all_reduce at line 6: dist.all_reduce(torch.ones(1))\n"
        "rank 1: raised RuntimeError at line 5: big = torch.ones(300_000_000 if rank == 1 else 3)\n"
        "    DefaultCPUAllocator: can't allocate memory",
    ),
    "memory runs out in Python": (
        "import resource\nlimits = resource.getrlimit(resource.RLIMIT_DATA)\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (900_000_000, limits[1]))\nbig = bytearray(1_500_000_000)",
        "memory", [],
        "The cell stopped: ranks 0-3 ran out of memory.\nranks 0-3: raised MemoryError at line 4",
    ),
    "syntax error": (
        "x = torch.ones(3)\nif rank == 1\n    x = 2",
        "syntax", [],
        "The cell cannot be read as Python.\n"
        "ranks 0-3: line 2: expected ':'\n"
        "    if rank == 1\n"
        "                ^\n"
        "Usual cause: a bracket, colon or quotation mark",
    ),
    "an unknown name": (
        "x = torch.ones(3)\ny = nothing + x",
        "raised", [],
        "The cell stopped: every rank raised NameError.\n"
        "ranks 0-3: raised NameError at line 2: y = nothing + x\n"
        "    name 'nothing' is not defined\n"
        "Usual cause: a name that no %%ranks cell has made on this rank.",
    ),
    "input": ("input('name')", "raised", [], "A rank cannot read from the keyboard"),
    "a group that is gone": (
        "dist.destroy_process_group()\ndist.barrier()",
        "raised", [],
        "The cell stopped: every rank raised ValueError.",
    ),
    "the wait is caught": (
        "try:\n    if rank != 2:\n        dist.all_reduce(torch.ones(3))\nexcept RuntimeError:\n    pass",
        "skipped", [],
        "The cell stopped: rank 2 never reached the all_reduce that the others wait in.",
    ),
    "a ring that is not closed": (
        "x, y = torch.ones(3), torch.zeros(3)\nwork = dist.isend(x, (rank + 1) % 4)\n"
        "dist.recv(y, rank - 1)\nwork.wait()",
        "raised", [],
        "rank 0: raised ValueError at line 3: dist.recv(y, rank - 1)\n"
        "    recv: there is no rank -1 among 4 (0 to 3). In a ring count modulo the number of ranks: (rank - 1) % n.",
    ),
    "a ring that goes on after its end": (
        "x, y = torch.ones(3), torch.zeros(3)\nif rank: dist.recv(y, rank - 1)\ndist.send(x, rank + 1)",
        "raised", [],
        "send: there is no rank 4 among 4 (0 to 3). In a ring count modulo the number of ranks: (rank + 1) % n.",
    ),
    "a message to itself": (
        "work = dist.isend(torch.ones(3), rank)",
        "raised", [],
        "    rank 0 calls send with itself: copy what stays on its rank",
    ),
    "a message that is waited for twice": (
        "x = torch.ones(3)\nif rank == 0:\n    work = dist.isend(x, 1)\n    work.wait()\n    work.wait()\n"
        "if rank == 1:\n    dist.recv(x, 0)",
        "raised", [],
        "rank 0: raised RuntimeError at line 5: work.wait()\n    this message is over: its wait() has returned before.",
    ),
    "a rank that differs and one that raises": (
        "x = torch.ones(3)\nif rank == 0:\n    dist.barrier()\nif rank == 1:\n    int('x')\ndist.all_reduce(x)",
        "mismatch", [],
        "rank 0: called barrier at line 3: dist.barrier()\nrank 1: raised ValueError at line 5",
    ),
}  # fmt: skip


def works(lost=()):
    """The next cell works: collectives, messages, and the variables of all but the lost ranks."""
    ranks.run(
        "y = torch.ones(2) * rank\ndist.all_reduce(y)\nassert y.tolist() == [6, 6]\n"
        "if rank: dist.recv(y, rank - 1)\nif rank < 3: dist.send(y, rank + 1)"
    )
    expected = [None if r in lost else 40 + r for r in range(4)]
    assert ranks.gather("globals().get('keep')") == expected


@pytest.mark.parametrize("name", FAULTS)
def test_fault(launcher, name):
    cell, cause, lost, says = FAULTS[name]
    ranks.run("keep = 40 + rank")
    with pytest.raises(ranks.RanksError) as failure:
        ranks.run(cell)
    text = str(failure.value)
    assert says in text
    assert failure.value.cause == cause
    assert set(failure.value.states) == {0, 1, 2, 3}
    assert "Usual cause: " in text
    if cause not in ("raised", "syntax", "memory"):
        assert "The process group was made anew" in text
    if "memory" in name:
        ranks.run("resource.setrlimit(resource.RLIMIT_DATA, limits)")
    works(lost)


def test_the_same_text_every_time(launcher):
    for name in ("one rank raises", "other shapes", "one rank never joins", "a rank is killed"):
        texts = set()
        for _ in range(3):
            with pytest.raises(ranks.RanksError) as failure:
                ranks.run(FAULTS[name][0])
            texts.add(str(failure.value))
        assert len(texts) == 1


def test_a_line_after_empty_lines_counts_as_the_editor_shows_it(launcher):
    with pytest.raises(ranks.RanksError, match="at line 4: 1 / 0"):
        ranks.run("\n\nx = 1\n1 / 0")


def test_the_line_of_a_function_of_an_earlier_cell(launcher):
    ranks.run("def average(t):\n    dist.all_reduce(t)\n    t /= world_size")
    with pytest.raises(ranks.RanksError) as failure:
        ranks.run("x = torch.ones(2)\nif rank:\n    average(x)")
    where = "waited in all_reduce at line 3: average(x)  (in average, line 2 of an earlier cell: dist.all_reduce(t))"
    assert where in str(failure.value)
    assert failure.value.states[1].line == 3


def test_a_cell_on_some_ranks_that_waits_for_the_others(launcher):
    with pytest.raises(ranks.RanksError) as failure:
        ranks.run("dist.barrier()", on=[0, 2])
    assert "ranks 1, 3 did not run the barrier that the others wait in." in str(failure.value)
    assert "ranks 1, 3: did not run this cell" in str(failure.value)
    assert failure.value.states[1].status == "absent"
    ranks.run("dist.barrier()")


def test_what_a_killed_rank_had_printed(launcher, capsys):
    with pytest.raises(ranks.RanksError):
        ranks.run("print('so far', rank)\nimport os\nif rank == 1:\n    os._exit(1)")
    assert "rank 1: so far 1\n" in capsys.readouterr().out


def test_a_rank_that_died_between_cells(launcher):
    ranks.run("keep = 40 + rank")
    ranks.run("import os, threading\nthreading.Timer(0.2, lambda: os._exit(1)).start()", on=3)
    from utils.ranks import session

    while not session.current().death(3):
        pass
    with pytest.raises(ranks.RanksError) as failure:
        ranks.run("ran = True")
    assert str(failure.value).startswith("Since the last cell rank 3 died: its process ended with exit code 1.")
    assert ranks.gather("'ran' in globals()") == [False] * 4
    works([3])


def test_an_endless_loop_is_interrupted(launcher, capsys):
    ranks.run("keep = 40 + rank")
    _interrupt_after(1.5)
    with pytest.raises(ranks.RanksError) as failure:
        ranks.run("print('begun')\nif rank < 2:\n    while True:\n        pass\nif rank == 2:\n    dist.barrier()")
    assert failure.value.cause == "interrupted"
    assert str(failure.value).startswith("You interrupted the cell.\nrank")
    assert ": was interrupted at line " in str(failure.value)
    assert "rank 2: waited in barrier at line 6" in str(failure.value)
    assert "rank 3: finished the cell" in str(failure.value)
    assert capsys.readouterr().out == "ranks 0-3: begun\n"
    works()


@pytest.mark.parametrize(("failures", "lost"), [(1, []), (2, [1])])
def test_a_rank_that_could_not_join_at_once(launcher, monkeypatch, failures, lost):
    """The first time (a late interrupt, say) it keeps its variables; then it is replaced, and this is said."""
    from utils.ranks import session

    ranks.run("keep = 40 + rank")
    world = session.current()
    told, join = [{1: "KeyboardInterrupt"}] * failures, world._try
    monkeypatch.setattr(world, "_try", lambda meeting: told.pop() if told else join(meeting))
    with pytest.raises(ranks.RanksError) as failure:
        ranks.run(FAULTS["one rank never joins"][0])
    assert ("Rank 1 was replaced by a fresh process: its variables are lost." in str(failure.value)) == bool(lost)
    works(lost)


def test_a_rank_that_does_not_react_to_an_interrupt(launcher):
    ranks.run("keep = 40 + rank")
    _interrupt_after(1.5)
    with pytest.raises(ranks.RanksError) as failure:
        ranks.run("if rank == 1:\n    sum(range(10**12))")
    assert "rank 1: died at line 2: sum(range(10**12))" in str(failure.value)
    assert failure.value.cause == "interrupted"
    works([1])


def test_a_stopped_rank_goes_on(launcher, capsys):
    ranks.run("import os, signal\nif rank == 2:\n    os.kill(os.getpid(), signal.SIGSTOP)\ndist.barrier()")
    assert "rank 2 had been stopped by a signal (SIGSTOP); it goes on." in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["1 / 0", "os.kill(os.getpid(), 9)"])
def test_what_the_others_do_meanwhile_is_stopped(launcher, fault):
    ranks.run("keep = 40 + rank")
    with pytest.raises(ranks.RanksError) as failure:
        ranks.run(f"import os, time\nif rank == 1:\n    {fault}\nif rank > 1:\n    time.sleep(100)")
    text = str(failure.value)
    assert f"at line 3: {fault}" in text
    assert "ranks 2-3: was stopped at line 5: time.sleep(100)" in text
    assert failure.value.cause == ("raised" if fault == "1 / 0" else "died")
    assert failure.value.states[2].status == "stopped"
    works([] if fault == "1 / 0" else [1])


def test_a_connection_of_the_learners_own_is_not_taken_for_the_groups(launcher):
    with pytest.raises(ranks.RanksError, match="rank 2 raised ConnectionResetError"):
        ranks.run("if rank == 2:\n    raise ConnectionResetError('Connection reset by peer')")


def _interrupt_after(seconds):
    import signal

    threading.Timer(seconds, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)).start()
