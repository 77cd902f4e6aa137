"""The ranks that run now, seen from the kernel."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import itertools
import keyword
import os
import pickle
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.ranks import engine, launch, table
from utils.ranks.explain import Case, RanksError, Report, State, names
from utils.ranks.show import Progress, show, spooled
from utils.ranks.watch import Reply, Watch

_world: World | None = None
_forker: launch.Forker | None = None
_folder: Path | None = None
_epochs = itertools.count(1)  # worlds and their groups, never the same number twice
_cells = itertools.count(1)


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
    if launcher == "fork" and not launch.can_fork():
        raise RanksError('launcher="fork" needs Linux. Leave it out, and the other launcher is used.', cause="usage")
    if _world and not fresh and _world.n == n and launcher in ("auto", _world.launcher) and _world.mend():
        print(f"{_ranks(n)} already running; variables are kept. (ranks.start({n}, fresh=True) starts anew.)")
        return
    before = _world.n if _world else 0
    stop()
    print(f"Starting {n} rank{'s' * (n > 1)} ... ", end="", flush=True)
    if launcher == "auto":
        launcher = "fork" if launch.can_fork() else "stock"
    try:
        _world = World(n, launcher)
    except OSError as e:
        where = tempfile.gettempdir()
        text = f"The ranks did not start: {e.strerror or e}. They need a few megabytes in {where}: free some, or set "
        raise RanksError(text + "TMPDIR to another folder and restart the kernel.", cause="start") from e
    print(f"ready.{' The ranks from before, and their variables, are gone.' if before else ''}")


def stop() -> None:
    """End all ranks and the controller; the fork server stays for the next start."""
    global _world
    if _world:
        world, _world = _world, None
        world.close()


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


def _ranks(n: int) -> str:
    return f"{n} ranks are" if n > 1 else "1 rank is"


class World:
    """`n` ranks: engine ids and process ids by rank, and the group they form."""

    def __init__(self, n: int, launcher: str):
        global _folder
        _folder = _folder or Path(tempfile.mkdtemp(prefix="ranks-"))
        self.n, self.launcher, self.folder = n, launcher, _folder
        self.cell = 0
        self.cells: dict[int, tuple[str, int]] = {}
        self.books: dict[int, Reply] = {}
        self.engines: list[int] = [-1] * n
        self.pids: list[int] = [0] * n
        self.table_path = self.folder / f"table-{next(_epochs)}"
        table.reserve(self.table_path, n)
        self.table = table.Table(self.table_path)
        self.forker, fresh = _fork_server(self.folder) if launcher == "fork" else (None, False)
        self.cluster = launch.make_cluster(self.folder, self.forker)
        self.client: Any = None
        try:
            self.cluster.start_controller_sync()
            self.client = self.cluster.connect_client_sync()
            if fresh and self.forker:
                self.forker.wait_ready()
            self.fill(range(n))
            self.join()
        except BaseException:
            self.close()
            raise

    # -- processes ----

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
        jobs = {r: self.client[self.engines[r]].apply_async(os.getpid) for r in ranks}
        for r, job in jobs.items():
            self.pids[r] = job.get(timeout=60)

    def _new_fork_server(self) -> None:
        self.forker, fresh = _fork_server(self.folder)
        self.cluster.engine_launcher_class = launch.launcher_class(self.forker)
        if fresh:
            self.forker.wait_ready()

    def join(self) -> None:
        """Make a fresh group over all ranks; one that does not manage is replaced, and all try again."""
        for _ in range(3):
            epoch = next(_epochs)
            meeting = {"epoch": epoch, "file": str(self.folder / f"group-{epoch}"), "table": str(self.table_path)}
            self.books.clear()
            jobs = {r: self._submit(r, engine.join, r, self.n, meeting) for r in range(self.n)}
            end = time.monotonic() + 60
            while open_jobs := {r: j for r, j in jobs.items() if not j.done()}:
                if time.monotonic() > end or any(self.death(r) for r in open_jobs):
                    break
                concurrent.futures.wait(open_jobs.values(), 0.05)
            late = [r for r, j in jobs.items() if not j.done() or j.exception()]
            if not late:
                return
            for r in late:
                self.kill(r)
            self.replace(late)
        raise RanksError("The ranks could not form a process group. Start them anew: ranks.start(..., fresh=True)")

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
        code: int | None
        if self.forker:
            code = self.forker.exit_status(pid)
        else:
            code = self._stock_exit(pid)
        if code is None:
            return None
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    def _stock_exit(self, pid: int) -> int | None:
        import psutil

        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return None
        except psutil.NoSuchProcess:
            pass
        launchers = [e for s in self.cluster.engines.values() for e in s.launchers.values() if e.pid == pid]
        popen = launchers[0]._popen_process if launchers else None
        if popen is None:
            return 0
        with contextlib.suppress(Exception):
            popen.wait(timeout=1)
        return popen.returncode if popen.returncode is not None else 0

    def unregister(self, r: int) -> None:
        """Tell the controller that an engine is gone, as ipyparallel's nanny would."""
        self.client._send(self.client._query_stream, "unregistration_request", content={"id": self.engines[r]})

    def kill(self, r: int) -> None:
        """Kill the process of a rank."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[r], getattr(signal, "SIGKILL", signal.SIGTERM))

    def interrupt(self, r: int) -> None:
        """Interrupt what a rank runs."""
        if os.name == "nt":
            self.ask([r], "interrupt")
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[r], signal.SIGINT)

    def continue_if_stopped(self, r: int) -> None:
        """Let a process go on that a signal has stopped (SIGSTOP, or Ctrl-Z)."""
        import psutil

        with contextlib.suppress(psutil.Error, OSError, AttributeError):
            if psutil.Process(self.pids[r]).status() == psutil.STATUS_STOPPED:
                os.kill(self.pids[r], signal.SIGCONT)
                print(f"rank {r} had been stopped by a signal (SIGSTOP); it goes on.")

    def check_controller(self) -> None:
        """Raise if the controller is gone; nothing can be asked of the ranks then."""
        import psutil

        controller = self.cluster.controller
        try:
            if psutil.Process(controller.pid).status() != psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            pass
        stop()
        text = "The process that connects the ranks to the notebook is gone, and the ranks with it. Start them again: "
        raise RanksError(f"{text}ranks.start({self.n})", cause="died")

    def close(self) -> None:
        """End the ranks and the controller."""
        if self.client is not None:
            self.client.close(linger=0)
        for pid in filter(None, self.pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        if self.cluster.controller is not None:
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(self.cluster.controller.pid, signal.SIGKILL)
            with contextlib.suppress(Exception):
                self.cluster.stop_cluster_sync()
        with contextlib.suppress(OSError):
            self.table_path.unlink()

    # -- talking ----

    def _submit(self, r: int, function: Callable[..., Any], *args: Any) -> Any:
        return self.client[self.engines[r]].apply_async(function, *args)

    def ask(self, ranks: Iterable[int], what: str, seconds: float = 0.5) -> dict[int, Reply]:
        """Ask ranks over ipyparallel's control channel, which each engine reads in a thread of its own."""
        futures = {}
        for r in ranks:
            if uuid := self.client._engines.get(self.engines[r]):
                futures[r] = self.client._send(
                    self.client._control_stream, "ranks_request", content={"ask": what}, ident=uuid.encode()
                )
        concurrent.futures.wait(list(futures.values()), seconds)
        return {r: f.result()["content"]["answer"] for r, f in futures.items() if f.done()}

    # -- running ----

    def targets(self, on: int | Iterable[int] | None) -> list[int]:
        """Return the ranks meant by `on`."""
        if on is None:
            return list(range(self.n))
        chosen = sorted({on} if isinstance(on, int) else set(on))
        if wrong := [r for r in chosen if r not in range(self.n)]:
            there = f"there are {self.n}: 0 to {self.n - 1}" if self.n > 1 else "there is one: rank 0"
            raise RanksError(f"There is no {names(wrong).replace('ranks', 'rank')}; {there}.", cause="usage")
        if not chosen:
            raise RanksError("No rank is named, so nothing was run.", cause="usage")
        return chosen

    def run(self, source: str, on: int | Iterable[int] | None = None, first_line: int = 1, alone: bool = False) -> None:
        """Run a cell; see `utils.ranks.run`. `alone`: it is all of its cell, so a line of progress can be shown."""
        ranks = self.targets(on)
        spools = {r: self.folder / f"out-{self.engines[r]}" for r in ranks}
        progress = Progress.here(lambda r: _last_line(spools[r])) if alone else None
        replies = self._each(
            engine.run_cell, {r: (source,) for r in ranks}, source, first_line,
            lambda r: (str(spools[r]),), progress,
        )  # fmt: skip
        if progress:
            progress.end()
        show({r: d["output"] if "output" in d else spooled(spools[r]) for r, d in replies.items()})
        self._settle(replies)

    def gather(self, expression: str) -> list[Any]:
        """Return a value by rank."""
        return self._values(engine.evaluate, {r: (expression,) for r in range(self.n)}, expression)

    def scatter(self, name: str, values: Sequence[Any]) -> None:
        """Set a variable by rank."""
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise RanksError(f"ranks.scatter: {name!r} cannot be the name of a variable.", cause="usage")
        if len(values) != self.n:
            text = f"ranks.scatter({name!r}, ...): {len(values)} values for {self.n} ranks; give one for each."
            raise RanksError(text, cause="usage")
        try:
            packed = [pickle.dumps(values[r]) for r in range(self.n)]
        except Exception as e:
            text = f"ranks.scatter({name!r}, ...): a value cannot be sent to the ranks ({type(e).__name__}: {e})."
            raise RanksError(text, cause="pickle") from None
        self._values(engine.assign, {r: (name, packed[r]) for r in range(self.n)}, "")

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], on: int | Iterable[int] | None) -> list[Any]:
        """Call a function by rank."""
        module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
        if module in ("", "__main__", None) or "<" in name:
            text = "ranks.call takes a function of an installed module, which the ranks can import. For code of the "
            raise RanksError(text + "notebook write a %%ranks cell.", cause="usage")
        where = (module, name, pickle.dumps(args))
        return self._values(engine.call, {r: where for r in self.targets(on)}, "")

    def _values(self, function: Callable[..., Any], args: dict[int, tuple[Any, ...]], source: str) -> list[Any]:
        replies = self._each(function, args, source, 1)
        self._settle(replies)
        values = []
        for r in sorted(replies):
            try:
                values.append(pickle.loads(replies[r]["value"]))
            except Exception as e:
                reason = {"status": "raised", "name": type(e).__name__, "message": str(e), "frames": [], "pickle": True}
                self._settle({r: {**replies[q], **reason} for q in replies})
        return values

    def _each(
        self, function: Callable[..., Any], args: dict[int, tuple[Any, ...]], source: str, first_line: int,
        more: Callable[[int], tuple[Any, ...]] = lambda r: (), progress: Progress | None = None,
    ) -> dict[int, Reply]:  # fmt: skip
        """Call a function of `engine` on ranks, watched; each gets its arguments and the number of the cell."""
        self.check_controller()
        self._stop_if_dead()
        self.cell = next(_cells)
        self.cells[self.cell] = (source, first_line)
        jobs = {r: self._submit(r, function, *a, self.cell, *more(r)) for r, a in args.items()}
        self.watch = Watch(self, jobs, progress)
        replies = self.watch.run()
        self.books.update({r: d["book"] for r, d in replies.items() if d.get("book")})
        return replies

    def _stop_if_dead(self) -> None:
        """Replace ranks that died since the last cell, and say so instead of running on without their variables."""
        dead = {r: how for r in range(self.n) if (how := self.death(r))}
        if not dead:
            return
        self.replace(sorted(dead))
        self.join()
        who, how = names(dead), sorted(set(dead.values()))[0]
        text = [f"{who} died since the last cell: {how}.", "This cell did not run.", self._repaired(list(dead), True)]
        raise RanksError("\n".join(text), "died", {r: State("died", message=how) for r, how in dead.items()})

    def mend(self) -> bool:
        """Replace dead ranks quietly; return False if that cannot be done and all must start anew."""
        try:
            self.check_controller()
            self._stop_if_dead()
        except RanksError as e:
            if _world is None:
                return False
            print(e)
        return True

    def _settle(self, replies: Mapping[int, Reply]) -> None:
        """After a cell: if anything went wrong, repair it and raise the explanation."""
        lines = {r: self.table.line(r, self.cell) for r in replies}
        case = Case(self.cell, self.n, replies, self.books, self.cells, bool(self.watch.interrupted), lines)
        report = Report(case)
        outside = [r for r in range(self.n) if r not in replies and self.death(r)]
        lost = sorted([r for r, d in replies.items() if d["status"] == "died"] + outside)
        no_group = any(d.get("group") is False for d in replies.values())
        broken = bool(lost or report.secondary or report.odd or report.left or no_group) or any(
            d.get("freed") for d in replies.values()
        )
        if not report.failed and not broken:
            return
        if lost:
            self.replace(lost)
        if broken:
            self.join()
        if not report.failed:
            print(self._repaired(lost, True))
            return
        raise RanksError(report.text(self._repaired(lost, broken)), report.cause, report.states())

    @staticmethod
    def _repaired(lost: list[int], remade: bool) -> str:
        text = ""
        if lost:
            process = "a fresh process: its variables are" if len(lost) == 1 else "fresh processes: their variables are"
            text = f"{names(lost)} {'was' if len(lost) == 1 else 'were'} replaced by {process} lost.\n"
            text = text[0].upper() + text[1:]
        if remade:
            kept = "the other ranks' variables are kept" if lost else "variables are kept"
            text += f"The process group was made anew; {kept}. Make sub-groups, DDP wrappers and meshes again."
        return text.rstrip("\n")


def _last_line(path: Path) -> str:
    """Return the last line that a rank has printed so far, shortened."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 400))
        lines = file.read().decode(errors="replace").splitlines()
        return lines[-1][:100] if lines else ""
    return ""


_lock = threading.Lock()


def _fork_server(folder: Path) -> tuple[launch.Forker, bool]:
    """Return the fork server, and whether it is new (and so not ready yet)."""
    global _forker
    with _lock:
        if _forker and _forker.alive:
            return _forker, False
        _forker = launch.Forker(folder)
        return _forker, True
