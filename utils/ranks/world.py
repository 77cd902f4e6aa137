"""The ranks that run now, seen from the kernel: their processes, and the process group they form.

`World` is what all worlds share: talking to the engines of an ipyparallel client. `OwnWorld` starts and ends its
processes; `utils.ranks.joined.JoinedWorld` uses those of a cluster that somebody else has started.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.ranks import engine, launch, table
from utils.ranks.capture import clean
from utils.ranks.explain import RanksError, names
from utils.ranks.programs import ENGINES
from utils.ranks.watch import Reply

epochs = itertools.count(1)  # worlds and their groups, never the same number twice in a kernel
NO_ANSWER = "no answer"
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class World:
    """`n` ranks: the engine of each, what each has called, and the cells they ran."""

    client: Any = None
    shared = True  # whether all ranks see the disk of this machine

    def __init__(self, n: int, launcher: str, folder: Path, gpu: bool):
        self.n, self.launcher, self.folder, self.gpu = n, launcher, folder, gpu
        self.engines: list[int] = [-1] * n
        self.pids: list[int] = [0] * n
        self.books: dict[int, Reply] = {}
        self.cells: dict[int, tuple[str, int]] = {}  # by number: source, and the number of its first line
        self.table: table.Table | None = None
        self.turn = threading.RLock()  # one cell at a time, whichever thread of the notebook asks

    # -- talking ----

    def submit(self, r: int, function: Callable[..., Any], *args: Any) -> Any:
        """Let a rank call a function when it is free; return the future of its value."""
        return self.client[self.engines[r]].apply_async(function, *args)

    def ask(self, ranks: Iterable[int], what: str, seconds: float = 0.5, **more: Any) -> dict[int, Reply]:
        """Ask ranks over ipyparallel's control channel, which each engine reads in a thread of its own.

        Returns the answers that come within `seconds`.
        """
        futures = {}
        for r in ranks:
            if uuid := self.client._engines.get(self.engines[r]):
                content = {"ask": what, **more}
                futures[r] = self.client._send(
                    self.client._control_stream, "ranks_request", content=content, ident=uuid.encode()
                )
        concurrent.futures.wait(list(futures.values()), seconds)
        replies = {r: f.result()["content"] for r, f in futures.items() if f.done() and not f.exception()}
        return {r: content["answer"] for r, content in replies.items() if "answer" in content}

    # -- the group ----

    def join(self) -> set[int]:
        """Make a fresh group over all ranks, replacing those that do not manage; return which were replaced."""
        why = ""
        replaced: set[int] = set()
        for attempt in range(3):
            self.books.clear()
            failed = self._try(self.meeting())
            if not failed:
                return replaced
            why = next(iter(failed.values()))
            # At first only what is dead or silent: another's failure, or an interrupt that came late, passes.
            lost = {r: how for r, how in failed.items() if attempt or how == NO_ANSWER or self.death(r)}
            if lost:
                self.cannot_join(lost)
                replaced |= set(lost)
        text = f"The ranks could not form a process group ({why}). Start them anew: "
        raise RanksError(text + f"ranks.start({self.n}, fresh=True)", cause="start")

    def _try(self, meeting: Reply) -> dict[int, str]:
        """Let all ranks join; return those that did not manage, and why."""
        jobs = {r: self.submit(r, engine.join, r, self.n, meeting) for r in range(self.n)}
        end = time.monotonic() + 60
        while open_jobs := {r: j for r, j in jobs.items() if not j.done()}:
            if time.monotonic() > end or any(self.death(r) for r in open_jobs):
                break
            if any(j.done() and j.exception() for j in jobs.values()):
                self.ask(open_jobs, "free")
            concurrent.futures.wait(open_jobs.values(), 0.05)
        failed = {r: clean(str(j.exception())) for r, j in jobs.items() if j.done() and j.exception()}
        return {**failed, **{r: self.death(r) or NO_ANSWER for r, j in jobs.items() if not j.done()}}

    def cannot_join(self, failed: Mapping[int, str]) -> None:
        """Do what can be done about ranks that could not join."""
        for r in failed:
            self.kill(r)
        self.replace(sorted(failed))

    def check_gpus(self, local: list[int]) -> None:
        """Raise if a rank is to have a GPU and its machine has none for it; `local` numbers ranks within a machine."""
        self.local = local
        if not self.gpu:
            return
        there = [self.submit(r, engine.gpus).get(timeout=60) for r in range(self.n)]
        if short := [r for r in range(self.n) if local[r] >= there[r]]:
            text = f"gpu=True needs a GPU for each rank; there is none for {names(short)}."
            raise RanksError(text, cause="start")

    def meeting(self) -> Reply:
        """Return how the ranks of a new group find each other: see `engine.join`."""
        epoch = next(epochs)
        return {
            "epoch": epoch,
            "file": str(self.folder / f"group-{epoch}"),
            "table": str(self.table_path),
            **self.devices(),
        }

    def devices(self) -> Reply:
        """Return which GPU each rank has, if they have any."""
        return {"gpu": self.local} if self.gpu else {}

    def make_table(self) -> None:
        """Make the table that all ranks share."""
        self.table_path = self.folder / f"table-{next(epochs)}"
        table.reserve(self.table_path, self.n)
        self.table = table.Table(self.table_path)

    def line(self, r: int, cell: int) -> int | None:
        """Return the line of a cell that a rank had reached, dead or alive, as far as it is known."""
        return self.table.line(r, cell) if self.table else None

    # -- processes, which the two kinds of world see to differently ----

    def death(self, r: int) -> str | None:
        """Return how the process of a rank ended, or None while it lives."""
        raise NotImplementedError

    def replace(self, ranks: list[int]) -> None:
        """Start fresh processes for dead ranks."""
        raise NotImplementedError

    def kill(self, r: int) -> None:
        """Kill the process of a rank."""
        raise NotImplementedError

    def interrupt(self, r: int) -> None:
        """Interrupt what a rank runs."""
        raise NotImplementedError

    def unregister(self, r: int) -> None:
        """Tell the controller that an engine is gone, as ipyparallel's nanny would."""
        self.client._send(self.client._query_stream, "unregistration_request", content={"id": self.engines[r]})

    def continue_if_stopped(self, r: int) -> None:
        """Let a process go on that a signal has stopped (SIGSTOP, or Ctrl-Z)."""
        import psutil

        with contextlib.suppress(psutil.Error, OSError, AttributeError):
            if self.pids[r] and psutil.Process(self.pids[r]).status() == psutil.STATUS_STOPPED:
                os.kill(self.pids[r], signal.SIGCONT)
                print(f"rank {r} had been stopped by a signal (SIGSTOP); it goes on.")

    def lost(self) -> str:
        """Return why nothing can be asked of the ranks any more, or ""."""
        return ""

    def close(self) -> None:
        """End what was started here."""
        raise NotImplementedError


class OwnWorld(World):
    """Ranks that were started by `ranks.start`."""

    def __init__(self, n: int, launcher: str, folder: Path, gpu: bool = False):
        super().__init__(n, launcher, folder, gpu)
        self.make_table()
        self.forker: launch.Forker | None = None
        fresh = False
        if launcher == "fork":
            self.forker, fresh = fork_server(folder)
        self.cluster = launch.make_cluster(folder, self.forker)
        try:
            self.cluster.start_controller_sync()
            self.client = self.cluster.connect_client_sync()
            if fresh and self.forker:
                self.forker.wait_ready()
            self.fill(range(n))
            self.check_gpus(list(range(n)))
            self.join()
        except BaseException:
            self.close()
            raise

    def fill(self, ranks: Iterable[int]) -> None:
        """Start an engine for each of these ranks and wait until the controller knows it."""
        ranks, known = list(ranks), set(self.client.ids)
        if self.launcher == "fork":
            if not self.forker or not self.forker.alive:
                self._new_fork_server()
            # Ids can be asked for, so that the engine's id is the rank.
            whole = ranks == list(range(len(ranks)))
            for first, count in [(0, len(ranks))] if whole else [(r, 1) for r in ranks]:
                self.cluster.start_engines_sync(n=count, first_id=first)
        else:
            self.cluster.start_engines_sync(n=len(ranks))
        end = time.monotonic() + 120
        while len(new := sorted(set(self.client.ids) - known)) < len(ranks):
            if time.monotonic() > end:
                raise RanksError(f"{names(ranks)} did not start within two minutes.", cause="start")
            time.sleep(0.005)
        for r, engine_id in zip(ranks, new, strict=True):
            self.engines[r] = engine_id
            self.books.pop(r, None)
        jobs = {r: self.submit(r, os.getpid) for r in ranks}
        for r, job in jobs.items():
            self.pids[r] = job.get(timeout=60)
        (self.folder / ENGINES).write_text(json.dumps(self.pids))

    def _new_fork_server(self) -> None:
        self.forker, fresh = fork_server(self.folder)
        self.cluster.engine_launcher_class = launch.launcher_class(self.forker)
        if fresh:
            self.forker.wait_ready()

    def replace(self, ranks: list[int]) -> None:
        """Start fresh processes for dead ranks."""
        end = time.monotonic() + 20
        for r in ranks:
            while not self.death(r) and time.monotonic() < end:
                time.sleep(0.01)
            self.unregister(r)
        while any(self.engines[r] in self.client.ids for r in ranks) and time.monotonic() < end:
            time.sleep(0.01)
        self.fill(ranks)

    def death(self, r: int) -> str | None:
        """Return how the process of a rank ended, or None while it lives."""
        pid = self.pids[r]
        if not pid:
            return None
        code = self.forker.exit_status(pid) if self.forker else self._stock_exit(pid)
        if code is None:
            return None
        return (
            f"its process was killed by {signal.Signals(-code).name}" if code < 0
            else f"its process ended with exit code {code}"
        )  # fmt: skip

    def _stock_exit(self, pid: int) -> int | None:
        """Return how an engine of the stock launcher ended, None while it lives."""
        if alive(pid):
            return None
        engines = (e for s in self.cluster.engines.values() for e in s.launchers.values())
        launcher = next((e for e in engines if e.pid == pid), None)
        if launcher is None:
            return 0
        launcher._wait_thread.join(1)
        return launcher.exit_code or 0

    def kill(self, r: int) -> None:
        """Kill the process of a rank."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[r], KILL)

    def interrupt(self, r: int) -> None:
        """Interrupt what a rank runs."""
        if os.name == "nt":
            self.ask([r], "interrupt")
            return
        with contextlib.suppress(ProcessLookupError):  # reaches also a rank whose main thread keeps the GIL
            os.kill(self.pids[r], signal.SIGINT)

    def lost(self) -> str:
        """Return why nothing can be asked of the ranks any more, or ""."""
        if alive(self.cluster.controller.pid):
            return ""
        return (
            "The process that connects the ranks to the notebook is gone, and the ranks with it.\n"
            f"Start them again: ranks.start({self.n})"
        )

    def close(self) -> None:
        """End the ranks and the controller; the fork server stays for the next start."""
        if self.client is not None:
            self.client.close(linger=0)
        for pid in filter(None, self.pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, KILL)
        if self.cluster.controller is not None:
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(self.cluster.controller.pid, KILL)
            with contextlib.suppress(Exception):
                self.cluster.stop_cluster_sync()
        with contextlib.suppress(OSError):
            self.table_path.unlink()


def alive(pid: int) -> bool:
    """Tell whether a process of this machine runs."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


_forker: launch.Forker | None = None
_lock = threading.Lock()


def fork_server(folder: Path) -> tuple[launch.Forker, bool]:
    """Return the kernel's fork server, and whether it is new (and so not ready yet)."""
    global _forker
    with _lock:
        fresh = _forker is None or not _forker.alive
        if _forker is None or fresh:
            _forker = launch.Forker(folder)
        return _forker, fresh


def end_fork_server() -> None:
    """End the fork server and all that it forked."""
    if _forker:
        _forker.end()
