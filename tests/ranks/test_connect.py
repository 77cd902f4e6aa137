"""Ranks on a cluster that somebody else has started, as a user would: `ipcluster start`, in another process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ipyparallel
import pytest

from utils import ranks
from utils.ranks import joined, session


class Cluster:
    """`ipcluster` with a profile of its own."""

    def __init__(self, folder: Path, n: int):
        self.n, self.options = n, {"profile_dir": str(folder / "profile"), "cluster_id": "theirs"}
        program = [str(Path(sys.executable).with_name("ipcluster")), "start", f"--n={n}", "--cluster-id=theirs"]
        with open(folder / "log", "w") as log:
            self.process = subprocess.Popen(
                [*program, f"--profile-dir={folder / 'profile'}"], stdout=log, stderr=log, cwd=folder
            )
        end = time.monotonic() + 120
        while len(self.ids()) < n:
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.5)

    def ids(self) -> list[int]:
        """Return the ids of the engines that are registered."""
        try:
            with ipyparallel.Client(**self.options, timeout=5) as client:
                return list(client.ids)
        except Exception:
            return []

    def end(self) -> None:
        """End it as Ctrl-C would."""
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster of three engines."""
    running = Cluster(tmp_path_factory.mktemp("cluster"), 3)
    yield running
    ranks.stop()
    running.end()


def works():
    ranks.run("x = torch.ones(3) * rank\ndist.all_reduce(x)\nassert x.tolist() == [3, 3, 3]")
    assert ranks.gather("(rank, world_size)") == [(0, 3), (1, 3), (2, 3)]


def test_ranks_on_a_cluster(cluster, capsys):
    ranks.connect(**cluster.options)
    assert capsys.readouterr().out == "3 ranks are ready, one on each engine of the cluster.\n"
    works()
    ranks.run("kept = rank")
    with pytest.raises(ranks.RanksError, match="ranks 1-2 never reached the barrier that rank 0 waits in"):
        ranks.run("if rank == 0:\n    dist.barrier()")
    with pytest.raises(ranks.RanksError, match="tensors that do not agree"):
        ranks.run("dist.all_reduce(torch.ones(1 + rank))")
    works()
    assert ranks.gather("kept") == [0, 1, 2]
    ranks.stop()
    assert len(cluster.ids()) == 3  # theirs: left running, with its variables
    with ipyparallel.Client(**cluster.options) as client:
        ranks.connect(client)
        assert ranks.gather("kept") == [0, 1, 2]
        ranks.stop()
        assert len(client.ids) == 3


def test_ranks_on_another_machine(cluster, monkeypatch):
    # No disk is shared then: the table of calls is in the store that rank 0 serves.
    monkeypatch.setattr(joined.socket, "gethostname", lambda: "elsewhere")
    ranks.connect(**cluster.options)
    assert session.current().table is None
    works()
    for source, says in {
        "dist.all_reduce(torch.ones(1 + rank))": "rank 2: called all_reduce float32 [3] at line 1",
        "if rank:\n    dist.barrier()": "rank 0 never reached the barrier that the others wait in",
        "x = torch.ones(3 + rank)\nif rank == 0: dist.send(x, 1)\nif rank == 1: dist.recv(x, 0)": "does not fit",
    }.items():
        with pytest.raises(ranks.RanksError) as failure:
            ranks.run(source)
        assert says in str(failure.value)
        works()
    ranks.run("for i in range(300):\n    dist.all_reduce(torch.ones(1))")
    ranks.stop()


def test_the_network_device(cluster):
    ranks.connect(interface="lo", **cluster.options)
    works()
    with pytest.raises(ranks.RanksError, match="there is no network device 'wire0' here, only .*lo"):
        ranks.connect(interface="wire0", **cluster.options)


def test_an_engine_that_lacks_the_course(cluster, monkeypatch):
    monkeypatch.setattr(joined, "PROBE", joined.PROBE.replace('"psutil", ', '"psutil", "not_installed_anywhere", '))
    with pytest.raises(ranks.RanksError, match=r"cannot import not_installed_anywhere. Install the course there"):
        ranks.connect(**cluster.options)


def test_an_interrupt_reaches_the_engines(cluster):
    import signal
    import threading

    ranks.connect(**cluster.options)
    main = threading.main_thread().ident
    threading.Timer(2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(ranks.RanksError, match="You interrupted the cell"):
        ranks.run("while True:\n    pass")
    works()


def test_no_cluster_there(tmp_path):
    with pytest.raises(ranks.RanksError, match="(?s)No cluster answers .*ipcluster start"):
        ranks.connect(profile_dir=str(tmp_path), timeout=1)


def test_an_engine_dies(cluster):  # the last test: the cluster is smaller afterwards
    ranks.connect(**cluster.options)
    ranks.run("kept = rank")
    with pytest.raises(ranks.RanksError) as failure:
        ranks.run("import os\nif rank == 1:\n    os._exit(1)\ndist.barrier()")
    text = str(failure.value)
    assert text.startswith(
        "The cell stopped: rank 1 died: its engine is gone.\nranks 0, 2: waited in barrier at line 4"
    )
    assert "rank 1: died at line 3: os._exit(1)" in text
    assert text.endswith(
        "Only the cluster can start the engine of rank 1 again. 2 of 3 are left, with their variables: "
        "ranks.connect(...) makes a world of them."
    )
    with pytest.raises(ranks.RanksError, match="Only the cluster can start the engine of rank 1 again"):
        ranks.run("1")
    end = time.monotonic() + 60
    while len(cluster.ids()) > 2 and time.monotonic() < end:
        time.sleep(0.2)
    ranks.connect(**cluster.options)
    assert ranks.gather("(rank, world_size, kept)") == [(0, 2, 0), (1, 2, 2)]
    assert os.path.isdir(cluster.options["profile_dir"])
