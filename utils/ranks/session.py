"""The one world of this kernel: start, keep, stop."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.ranks import cells, launch, world
from utils.ranks.explain import RanksError

_world: world.World | None = None
_folder: Path | None = None


def current() -> world.World:
    """Return the running world."""
    if _world is None:
        raise RanksError("No ranks are running. Start them first: ranks.start(4)", cause="usage")
    if text := _world.lost():
        stop()
        raise RanksError(text, cause="died")
    return _world


def start(n: int, *, fresh: bool, launcher: str, gpu: bool) -> None:
    """Start n ranks, or keep them; see `utils.ranks.start`."""
    global _world
    _check(n, launcher)
    if _keep(n, fresh, launcher, gpu):
        print(f"{_count(n)} already running; variables are kept. (ranks.start({n}, fresh=True) starts anew.)")
        return
    before = _world is not None
    stop()
    print(f"Starting {n} rank{'s' * (n > 1)} ... ", end="", flush=True)
    if launcher == "auto":
        launcher = "fork" if launch.can_fork() else "stock"
    try:
        with _importing():
            _world = world.OwnWorld(n, launcher, folder(), gpu)
    except OSError as e:
        where = os.environ.get("TMPDIR") or tempfile.gettempdir()
        raise RanksError(
            f"The ranks did not start: {e.strerror or e}.\nThey keep a few megabytes in {where}: make room there, or "
            "set the environment variable TMPDIR to another folder and restart the kernel.", cause="start",
        ) from None  # fmt: skip
    one_thread()
    print("ready." + " The ranks from before are gone, and their variables." * before)


def _check(n: int, launcher: str) -> None:
    if launcher not in ("auto", "fork", "stock"):
        raise RanksError(f'launcher={launcher!r} is not known. Choose "auto", "fork" or "stock".', cause="usage")
    if launcher == "fork" and not launch.can_fork():
        raise RanksError('launcher="fork" needs Linux. Leave it out, and the other launcher is used.', cause="usage")
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise RanksError(f"ranks.start({n!r}): the number of ranks is a whole number from 1 up.", cause="usage")


def _keep(n: int, fresh: bool, launcher: str, gpu: bool) -> bool:
    """Tell whether the running world serves, mending it if a rank has died."""
    if _world is None or fresh or (_world.n, _world.gpu) != (n, gpu):
        return False
    if launcher not in ("auto", _world.launcher) or _world.lost():
        return False
    try:
        cells.replace_dead(_world)
    except RanksError as e:
        print(e)
    return True


def _count(n: int) -> str:
    return f"{n} ranks are" if n > 1 else "1 rank is"


def connect(client: Any, options: dict[str, Any], interface: str | None, gpu: bool) -> None:
    """Join a running cluster; see `utils.ranks.connect`."""
    global _world
    from utils.ranks.joined import JoinedWorld

    stop()
    _world = JoinedWorld(client, options, interface, folder(), gpu)
    one_thread()
    print(f"{_count(_world.n)} ready, one on each engine of the cluster{_world.places()}.")


def stop() -> None:
    """End all ranks and the controller; the fork server stays for the next start."""
    global _world
    if _world:
        ending, _world = _world, None
        ending.close()


def folder() -> Path:
    """Return the temporary folder of this kernel's ranks."""
    global _folder
    if _folder is None or not _folder.is_dir():
        _folder = Path(tempfile.mkdtemp(prefix="ranks-"))
    return _folder


def one_thread() -> None:
    """Let the kernel compute with one thread, as every rank does: more of them get in each other's way."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "torch" in sys.modules:
        with contextlib.suppress(AttributeError):  # torch only half imported
            sys.modules["torch"].set_num_threads(1)


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Meanwhile import what the first optimizer of a process imports, 2 s, if the kernel is going to compute itself.

    It ends with the block: an import in a thread must not meet the learner's.
    """
    if "torch" not in sys.modules or "torch._dynamo" in sys.modules:
        yield
        return
    thread = threading.Thread(target=importlib.import_module, args=("torch._dynamo",), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@atexit.register
def _end() -> None:
    try:
        stop()
    finally:
        world.end_fork_server()
        if _folder:
            shutil.rmtree(_folder, ignore_errors=True)
