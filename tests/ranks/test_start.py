"""Starting, keeping, stopping: what is said, what is kept, what is left."""

import getpass
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from utils import ranks
from utils.ranks import engine, session


@pytest.fixture(autouse=True)
def _stopped():
    ranks.stop()
    yield
    ranks.stop()


def test_the_import_is_light():
    code = (
        "import sys; from utils import ranks; print([m for m in ('torch', 'ipyparallel', 'zmq') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_every_way_to_start(capsys):
    def said(*args, **kwargs):
        ranks.start(*args, **kwargs)
        return capsys.readouterr().out

    assert said(2) == "Starting 2 ranks ... ready.\n"
    ranks.run("kept = rank")
    assert said(2) == (
        "2 ranks are already running; variables are kept. (ranks.start(2, fresh=True) starts anew.)\n"
    )  # fmt: skip
    assert ranks.gather("kept") == [0, 1]
    gone = " The ranks from before are gone, and their variables.\n"
    assert said(3) == "Starting 3 ranks ... ready." + gone
    assert ranks.gather("(rank, world_size, 'kept' in globals())") == [(0, 3, False), (1, 3, False), (2, 3, False)]
    ranks.run("kept = rank")
    assert said(3, fresh=True) == "Starting 3 ranks ... ready." + gone
    assert ranks.gather("'kept' in globals()") == [False] * 3
    ranks.stop()
    ranks.stop()
    assert said(1) == "Starting 1 rank ... ready.\n"
    assert ranks.gather("dist.get_world_size()") == [1]
    assert said(2, launcher="stock") == "Starting 2 ranks ... ready." + gone
    assert said(2) == "2 ranks are already running; variables are kept. (ranks.start(2, fresh=True) starts anew.)\n"
    assert said(2, launcher="fork") == "Starting 2 ranks ... ready." + gone


def test_stop_leaves_no_process():
    ranks.start(2)
    world = session.current()
    processes = [psutil.Process(pid) for pid in world.pids]
    processes += [psutil.Process(world.cluster.controller.pid)]
    ranks.stop()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


@pytest.mark.parametrize("n", [0, -1, 2.5, "4", True])
def test_not_a_number_of_ranks(n):
    with pytest.raises(ranks.RanksError, match="whole number from 1 up"):
        ranks.start(n)


def test_not_a_launcher():
    with pytest.raises(ranks.RanksError, match='Choose "auto", "fork" or "stock"'):
        ranks.start(2, launcher="mpi")


@pytest.mark.parametrize("launcher", ["fork", "stock"])
def test_the_ranks_stand_where_the_notebook_stands(tmp_path, monkeypatch, launcher):
    (tmp_path / "beside.py").write_text("value = 7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET_IN_THE_NOTEBOOK", "yes")
    ranks.start(2, launcher=launcher)
    ranks.run("import os, beside")
    assert (
        ranks.gather("(os.getcwd(), os.environ['SET_IN_THE_NOTEBOOK'], beside.value)")
        == [(str(tmp_path), "yes", 7)] * 2
    )


def test_more_ranks_than_gpus(monkeypatch):
    monkeypatch.setattr(engine, "gpus", _one)
    with pytest.raises(ranks.RanksError, match=r"gpu=True needs a GPU for each rank; there is none for rank 1\."):
        ranks.start(2, gpu=True)
    ranks.start(2)
    assert ranks.gather("str(device)") == ["cpu", "cpu"]


def _one():
    return 1


def test_before_the_start():
    for use in (lambda: ranks.run("1"), lambda: ranks.gather("1"), lambda: ranks.scatter("x", [1])):
        with pytest.raises(ranks.RanksError, match=r"Start them first: ranks.start\(4\)"):
            use()


def test_the_controller_is_killed(capsys):
    ranks.start(2)
    psutil.Process(session.current().cluster.controller.pid).kill()
    with pytest.raises(ranks.RanksError, match=r"Start them again: ranks.start\(2\)"):
        ranks.run("1")
    ranks.start(2)
    assert ranks.gather("rank") == [0, 1]


def test_the_controller_is_killed_while_a_cell_runs():
    ranks.start(2)
    pid = session.current().cluster.controller.pid
    with pytest.raises(ranks.RanksError, match="is gone, and the ranks with it"):
        ranks.run(f"import os, signal, time\nif rank == 0:\n    os.kill({pid}, signal.SIGKILL)\ntime.sleep(60)")
    ranks.start(2)
    assert ranks.gather("rank") == [0, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server is Linux's")
def test_the_fork_server_is_killed(capsys):
    ranks.start(2, launcher="fork")
    session.current().forker.process.kill()
    with pytest.raises(ranks.RanksError, match="ranks 0-1 died"):
        ranks.run("import time\ntime.sleep(60)")
    assert ranks.gather("rank") == [0, 1]  # a new server, new ranks


def test_a_world_with_a_dead_rank_is_mended_by_start(capsys):
    ranks.start(2)
    ranks.run("kept = rank")
    world = session.current()
    psutil.Process(world.pids[1]).kill()
    while not world.death(1):
        pass
    capsys.readouterr()
    ranks.start(2)
    assert "Rank 1 was replaced by a fresh process: its variables are lost." in capsys.readouterr().out
    assert ranks.gather("globals().get('kept')") == [0, None]


def test_a_temporary_folder_without_room(tmp_path):
    code = (
        "import resource, signal; from utils import ranks\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n    ranks.start(2)\nexcept ranks.RanksError as e:\n    print(e)\n"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert out.startswith("Starting 2 ranks ... The ranks did not start: File too large.\nThey keep a few megabytes in")
    assert f"{tmp_path}: make room there, or set the environment variable TMPDIR" in out


def test_the_temporary_folder_was_removed(capsys):
    ranks.start(2)
    ranks.stop()
    import shutil

    shutil.rmtree(session.folder())
    ranks.start(2, launcher="stock")
    assert ranks.gather("rank") == [0, 1]


def test_nothing_is_written_elsewhere(tmp_path):
    code = "from utils import ranks\nranks.start(2)\nranks.run('print(rank)')\n"
    home, temporary, work = tmp_path / "home", tmp_path / "tmp", tmp_path / "work"
    for folder in (home, temporary, work):
        folder.mkdir()
    env = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "IPYTHONDIR": str(home / ".ipython")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=work, capture_output=True)
    left = [p.name for p in temporary.iterdir() if p.name != "torchinductor_" + getpass.getuser()]  # torch's own
    assert left == []
    assert sorted(p.name for p in work.iterdir()) == []
    assert [p for p in home.rglob("*") if "ipcontroller" in p.name or "ipengine" in p.name] == []


def test_the_kernel_computes_with_one_thread():
    import torch

    ranks.start(2)
    assert torch.get_num_threads() == 1
    assert ranks.gather("torch.get_num_threads()") == [1, 1]
    assert Path(tempfile.gettempdir()).is_dir()
