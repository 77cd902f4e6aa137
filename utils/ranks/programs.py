"""The processes that are launched beside the kernel: `python -m utils.ranks.programs fork|controller|engine`.

Each ends, with what it started, when the process that launched it is gone, however that one ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENGINES = "engines"  # file in the ranks' folder: the process ids of the engines


def end_with_parent(action: Callable[[], object]) -> None:
    """Call `action` when the parent is gone, were it only a zombie that nobody has reaped."""
    import psutil

    parent = os.getppid()

    def watch() -> None:
        if os.name == "nt":
            psutil.Process(parent).wait()
        else:
            # A zombie never "exits" for psutil, but its children get a new parent at once.
            while os.getppid() == parent:
                time.sleep(0.5)
        action()

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def controller() -> None:
    """Run ipyparallel's controller; when the kernel is gone, end the engines and the folder too."""
    end_with_parent(_end_all)
    from ipyparallel.controller.app import main

    main()


def _end_all() -> None:
    """Kill the engines, which may be in C code that lets no thread of theirs run, and this process's group."""
    import psutil

    folder = Path(os.environ["RANKS_TMP"])
    with contextlib.suppress(OSError, ValueError):
        for pid in json.loads((folder / ENGINES).read_text()):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if __spec__.name in " ".join(process.cmdline()):  # and not a stranger that got the number since
                    process.kill()
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL) if hasattr(os, "killpg") else os._exit(1)


def engine() -> None:
    """Run one engine of the stock launcher."""
    end_with_parent(lambda: os._exit(1))
    from ipyparallel.engine.app import main

    main()


def fork_server() -> None:
    """Import torch once, then fork an engine for each JSON line on stdin; end with all engines at end of file."""
    import gc

    gc.disable()  # nothing to collect while importing
    import ipyparallel.engine.app  # noqa: F401
    import ipyparallel.engine.kernel  # noqa: F401
    import torch

    # The first optimizer or DDP of a process imports this: 3 s on 4 ranks, and 60 MB on each. Once, here, it is shared.
    import torch._dynamo
    import torch.distributed

    import utils.ranks.calls  # noqa: F401
    import utils.ranks.engine
    import utils.ranks.store  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every page shared with the ranks
    gc.enable()

    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: set[int] = set()
    buffer = b""
    _say(ready=True)
    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
        _reap(children)
        if 0 not in readable:
            continue
        data = os.read(0, 65536)
        if not data:
            _end(children)
        buffer += data
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            _fork(json.loads(line), children)


def _say(**message: Any) -> None:
    os.write(1, (json.dumps(message) + "\n").encode())


def _reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        children.discard(pid)
        _say(gone=pid, status=os.waitstatus_to_exitcode(status))


def _end(children: set[int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(os.environ.get("RANKS_TMP", "/nonexistent"), ignore_errors=True)
    os._exit(0)


def _fork(job: dict[str, Any], children: set[int]) -> None:
    server = os.getpid()
    pid = os.fork()
    if pid:
        children.add(pid)
        _say(forked=pid)
        return
    try:
        _become_engine(job, server)
    finally:
        os._exit(0)


def _become_engine(job: dict[str, Any], server: int) -> None:
    """Turn this forked child into an engine."""
    import random

    if sys.platform == "linux":
        import ctypes

        # PR_SET_PDEATHSIG. Safe because the server has one thread: the signal fires when the forking thread ends.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    random.seed()
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, 64)
    os.environ.update(job["env"])
    if job["cwd"] not in sys.path:
        sys.path.insert(0, job["cwd"])  # modules beside the notebook
    from ipyparallel.engine.app import IPEngine

    IPEngine.launch_instance(argv=job["argv"])


if __name__ == "__main__":
    program = sys.argv.pop(1)
    {"fork": fork_server, "controller": controller, "engine": engine}[program]()
