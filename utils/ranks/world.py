"""The ranks that run now, seen from the kernel."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import keyword
import os
import pickle
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from utils.ranks import engine, launch
from utils.ranks.explain import RanksError, State, folded, names
from utils.ranks.show import show

_world: World | None = None
_forker: launch.Forker | None = None
_folder: Path | None = None
_joins = itertools.count(1)


def current() -> World:
    """Return the running world."""
    if _world is None:
        raise RanksError("No ranks are running. Start them first: ranks.start(4)", cause="usage")
    return _world


def start(n: int, *, fresh: bool, launcher: str) -> None:
    """Start n ranks, or keep them; see `utils.ranks.start`."""
    global _world
    if launcher not in ("auto", "fork", "stock"):
        raise RanksError(f'launcher={launcher!r} is not known. Choose "auto", "fork" or "stock".', cause="usage")
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise RanksError(f"ranks.start({n!r}): the number of ranks is a whole number from 1 up.", cause="usage")
    if launcher == "auto":
        launcher = "fork" if launch.can_fork() else "stock"
    if _world and not fresh and (_world.n, _world.launcher) == (n, launcher):
        print(f"{n} ranks are already running; their variables are kept. (fresh=True starts anew.)")
        return
    stop()
    print(f"Starting {n} ranks ... ", end="", flush=True)
    _world = World(n, launcher)
    print("ready.")


def stop() -> None:
    """End all ranks and the controller; the fork server stays for the next start."""
    global _world
    if _world:
        _world.close()
        _world = None


def connect(profile: str | None = None, **options: Any) -> None:
    """Join a running cluster."""
    raise NotImplementedError("ranks.connect is being built")


@atexit.register
def _end() -> None:
    try:
        stop()
    finally:
        if _forker:
            _forker.end()
        if _folder:
            shutil.rmtree(_folder, ignore_errors=True)


class World:
    """`n` ranks: engine ids and process ids by rank, and the group they form."""

    def __init__(self, n: int, launcher: str):
        global _folder
        _folder = _folder or Path(tempfile.mkdtemp(prefix="ranks-"))
        self.n, self.launcher, self.folder = n, launcher, _folder
        self.forker, fresh = _fork_server(self.folder) if launcher == "fork" else (None, False)
        self.cluster = launch.make_cluster(self.folder, self.forker)
        self.cluster.start_controller_sync()
        self.client = self.cluster.connect_client_sync()
        if fresh and self.forker:
            self.forker.wait_ready()
        self.engines: list[int] = [-1] * n
        self.pids: list[int] = [0] * n
        self.fill(range(n))
        self.join()

    def fill(self, ranks: Iterable[int]) -> None:
        """Start an engine for each of these ranks and wait until the controller knows it."""
        ranks, known = list(ranks), set(self.client.ids)
        if self.forker:
            # Ids can be asked for, so that the engine's id is the rank.
            whole = ranks == list(range(len(ranks)))
            for first, count in [(0, len(ranks))] if whole else [(r, 1) for r in ranks]:
                self.cluster.start_engines_sync(n=count, first_id=first)
        else:
            self.cluster.start_engines_sync(n=len(ranks))
        end = time.monotonic() + 60
        while len(new := sorted(set(self.client.ids) - known)) < len(ranks):
            if time.monotonic() > end:
                raise RanksError("The ranks did not start.", cause="start")
            time.sleep(0.01)
        for r, engine_id in zip(ranks, new, strict=True):
            self.engines[r] = engine_id
            self.pids[r] = self.client[engine_id].apply_async(os.getpid).get(timeout=60)

    def join(self) -> None:
        """Make a fresh group over all ranks."""
        path = str(self.folder / f"group-{os.getpid()}-{next(_joins)}")
        jobs = [self.client[self.engines[r]].apply_async(engine.join, r, self.n, path) for r in range(self.n)]
        for job in jobs:
            job.get(timeout=60)

    def close(self) -> None:
        """End the ranks and the controller."""
        self.client.close(linger=0)
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.cluster.controller.pid, signal.SIGKILL)
        self.cluster.stop_cluster_sync()

    def targets(self, on: int | Iterable[int] | None) -> list[int]:
        """Return the ranks meant by `on`."""
        if on is None:
            return list(range(self.n))
        chosen = sorted({on} if isinstance(on, int) else set(on))
        if wrong := [r for r in chosen if r not in range(self.n)]:
            there = f"There are {self.n}: 0 to {self.n - 1}."
            raise RanksError(f"There is no {names(wrong)}. {there}".replace("no ranks", "no rank"), cause="usage")
        return chosen

    def run(self, source: str, on: int | Iterable[int] | None = None, first_line: int = 1, alone: bool = False) -> None:
        """Run a cell; see `utils.ranks.run`."""
        results = self._each(engine.run_cell, {r: (source,) for r in self.targets(on)})
        show(results)
        self._settle(results, source, first_line)

    def gather(self, expression: str) -> list[Any]:
        """Return a value by rank."""
        return self._values(engine.evaluate, {r: (expression,) for r in range(self.n)}, expression)

    def scatter(self, name: str, values: Sequence[Any]) -> None:
        """Set a variable by rank."""
        if not name.isidentifier() or keyword.iskeyword(name):
            raise RanksError(f"ranks.scatter: {name!r} cannot be the name of a variable.", cause="usage")
        if len(values) != self.n:
            text = f"ranks.scatter({name!r}, ...): {len(values)} values for {self.n} ranks; give one for each."
            raise RanksError(text, cause="usage")
        self._values(engine.assign, {r: (name, pickle.dumps(values[r])) for r in range(self.n)}, "")

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], on: int | Iterable[int] | None) -> list[Any]:
        """Call a function by rank."""
        where = (function.__module__, function.__qualname__, pickle.dumps(args))
        return self._values(engine.call, {r: where for r in self.targets(on)}, "")

    def _values(self, function: Callable[..., Any], args: dict[int, tuple[Any, ...]], source: str) -> list[Any]:
        results = self._each(function, args)
        self._settle(results, source, 1)
        return [pickle.loads(results[r]["value"]) for r in sorted(results)]

    def _each(self, function: Callable[..., Any], args: dict[int, tuple[Any, ...]]) -> dict[int, dict[str, Any]]:
        jobs = {r: self.client[self.engines[r]].apply_async(function, *a) for r, a in args.items()}
        return {r: job.get() for r, job in jobs.items()}

    def _settle(self, results: dict[int, dict[str, Any]], source: str, first_line: int) -> None:
        states = {
            r: State(d["status"], d["line"] and d["line"] + first_line - 1, "", d["name"], d["message"])
            for r, d in results.items()
            if d["status"] != "ok"
        }
        if not states:
            return
        lines = ["The cell stopped."]
        for ranks, s in folded(states):
            lines.append(f"{names(ranks)}: raised {s.name}" + (f" at line {s.line}" if s.line else "") + f": {s.message}")
        raise RanksError("\n".join(lines), "raised", states)


def _fork_server(folder: Path) -> tuple[launch.Forker, bool]:
    global _forker
    if _forker and _forker.alive:
        return _forker, False
    _forker = launch.Forker(folder)
    return _forker, True
