"""Ranks beside the other ways to run several processes: time until ready, time of a cell, memory.

Every figure comes from a process of its own, `python -m utils.bench.ranks HOW N`, which starts N ranks in its way,
prints one line of JSON and ends. A "cell" is one small all-reduce on all ranks.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.bench import Row

HOWS = ("ranks", "stock", "%%px", "mp.spawn", "torchrun")
REPEAT = 40
HUNDRED = "x = torch.ones(3)\nfor i in range(100):\n    dist.all_reduce(x)"
CELL = "x = torch.ones(3)\ndist.all_reduce(x)"
MEET = (
    "import torch, torch.distributed as dist; torch.set_num_threads(1); "
    "dist.init_process_group('gloo', init_method='file://{path}', rank={rank}, world_size={n}); "
    "dist.all_reduce(torch.ones(3))"
)


def rows() -> Iterator[Row]:
    """Measure all ways at 4 and 8 ranks."""
    four = {how: _measured(how, 4) for how in HOWS}
    again = {how: _measured(how, 4) for how in HOWS}
    for how, figures in four.items():  # the better of two: a neighbour's work only ever adds
        for key in ("ready", "again", "cell", "empty", "hundred"):
            figures[key] = min((f[key] for f in (figures, again[how]) if f.get(key)), default=None)

    def row(what: str, key: str, unit: float, budget: str = "", most: float | None = None, of: Any = four) -> Row:
        words = {0.001: "ms", 1: "s", 1e6: "MB"}[unit]
        values = {how: f"{f[key] / unit:.{1 if unit == 1 else 0}f} {words}" for how, f in of.items() if f.get(key)}
        return Row(what, values, budget, of["ranks"][key] <= most if most else None)

    limit = max(5.0, 0.6 * four["mp.spawn"]["ready"])
    yield row("4 ranks ready", "ready", 1, "5 s, or 0.6 of mp.spawn", limit)
    yield row("4 ranks ready, again", "again", 1)
    yield row("a cell with one small all-reduce", "cell", 0.001, "30 ms", 0.030)
    yield row("a cell that does nothing", "empty", 0.001)
    yield row("a cell with a hundred small all-reduces", "hundred", 0.001)
    yield row("a collective that one rank skips, explained", "explained", 1, "5 s", 5)
    yield row("memory (PSS) of all processes, 4 ranks", "memory", 1e6)
    eight = {how: _measured(how, 8) for how in HOWS}
    yield row("memory (PSS) of all processes, 8 ranks", "memory", 1e6, "900 MB", 900e6, eight)


def _measured(how: str, n: int) -> dict[str, Any]:
    """Return the figures of one way in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "utils.bench.ranks", how, str(n)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{how} with {n} processes failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _timed(function: Any, repeat: int = 1) -> float:
    """Return the median time of a call in seconds."""
    times = []
    for _ in range(repeat):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _memory() -> int:
    """Return the bytes this process and all below it use, shared ones counted once (PSS; elsewhere than Linux, RSS)."""
    import psutil

    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            info = process.memory_full_info()
            total += getattr(info, "pss", info.rss)
    return total


def _ranks(n: int, launcher: str) -> dict[str, Any]:
    from utils import ranks

    figures: dict[str, Any] = {"ready": _timed(lambda: ranks.start(n, launcher=launcher))}
    ranks.run(CELL)
    figures["memory"] = _memory()
    figures["cell"] = _timed(lambda: ranks.run(CELL), REPEAT)
    figures["empty"] = _timed(lambda: ranks.run("pass"), REPEAT)
    figures["hundred"] = _timed(lambda: ranks.run(HUNDRED), 5)

    def skip() -> None:
        with contextlib.suppress(ranks.RanksError):
            ranks.run("if rank:\n    dist.barrier()")

    figures["explained"] = _timed(skip)
    ranks.stop()
    figures["again"] = _timed(lambda: ranks.start(n, launcher=launcher))
    ranks.stop()
    return figures


def _px(n: int) -> dict[str, Any]:
    """Plain ipyparallel, as its documentation starts it, with a process group made by hand."""
    import ipyparallel

    def start() -> Any:
        with tempfile.NamedTemporaryFile() as file:
            path = file.name
        client = ipyparallel.Cluster(n=n, log_level=40).start_and_connect_sync()
        jobs = [client[i].execute(MEET.format(path=path, rank=i, n=n)) for i in range(n)]
        for job in jobs:
            job.get()
        return client

    def stop(client: Any) -> None:
        client.cluster.stop_cluster_sync()
        client.close()

    begun = time.perf_counter()
    client = start()
    figures: dict[str, Any] = {"ready": time.perf_counter() - begun, "memory": _memory()}
    figures["cell"] = _timed(lambda: client[:].execute(CELL, block=True), REPEAT)
    figures["empty"] = _timed(lambda: client[:].execute("pass", block=True), REPEAT)
    figures["hundred"] = _timed(lambda: client[:].execute(HUNDRED, block=True), 5)
    stop(client)
    begun = time.perf_counter()
    client = start()
    figures["again"] = time.perf_counter() - begun
    stop(client)
    return figures


def _meet(rank: int, n: int, path: str, ready: Any = None, leave: Any = None) -> None:
    exec(MEET.format(path=path, rank=rank, n=n))
    if ready:
        ready.put(rank)
        leave.wait()


def _spawn(n: int) -> dict[str, Any]:
    """`torch.multiprocessing.spawn`: every cell starts its processes anew, because none outlives the call."""
    import torch.multiprocessing as multiprocessing

    folder = tempfile.mkdtemp()
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Queue(), context.Event()
    begun = time.perf_counter()
    running = multiprocessing.spawn(_meet, (n, f"{folder}/first", ready, leave), nprocs=n, join=False)
    for _ in range(n):
        ready.get()
    figures: dict[str, Any] = {"ready": time.perf_counter() - begun, "memory": _memory()}
    leave.set()
    running.join()
    figures["cell"] = _timed(lambda: multiprocessing.spawn(_meet, (n, f"{folder}/second"), nprocs=n))
    return figures


def _torchrun(n: int) -> dict[str, Any]:
    """`torchrun` of a script: a cell is the script from start to end."""
    script = Path(tempfile.mkdtemp()) / "script.py"
    script.write_text(
        "import os, sys, torch, torch.distributed as dist\ntorch.set_num_threads(1)\ndist.init_process_group('gloo')\n"
        "dist.all_reduce(torch.ones(3))\nif dist.get_rank() == 0:\n    print('ready', flush=True)\n"
        "if sys.argv[1:]:\n    import time; time.sleep(4)\n"
        "dist.barrier()\ndist.destroy_process_group()\n"  # who leaves at once breaks the others' connections
    )
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n}", "--standalone", str(script)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    with subprocess.Popen([*command, "stay"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as process:
        assert process.stdout
        process.stdout.readline()
        figures = {"ready": time.perf_counter() - begun, "memory": _memory()}
    figures["cell"] = _timed(lambda: subprocess.run(command, capture_output=True, check=True, env=env))
    return figures


def main() -> None:
    """Measure one way: `python -m utils.bench.ranks HOW N`."""
    how, n = sys.argv[1], int(sys.argv[2])
    ways = {"ranks": lambda: _ranks(n, "auto"), "stock": lambda: _ranks(n, "stock"), "%%px": lambda: _px(n)}
    ways |= {"mp.spawn": lambda: _spawn(n), "torchrun": lambda: _torchrun(n)}
    with contextlib.redirect_stdout(io.StringIO()):
        figures = ways[how]()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
