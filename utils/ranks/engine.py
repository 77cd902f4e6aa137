"""What runs in every rank: join the world, run cells, answer the watcher."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import socket
import stat
import sys
from types import SimpleNamespace
from typing import Any

_state = SimpleNamespace(before=frozenset(), cell=None, freed=False, prepared=False)


def namespace() -> dict[str, Any]:
    """Return the learner's variables on this rank."""
    from IPython import get_ipython

    return get_ipython().user_ns


def group_sockets() -> list[int]:
    """Return the file descriptors of the TCP sockets that the process groups of this rank have opened."""
    found = []
    for fd, _ in _sockets() - _state.before:
        try:
            with socket.socket(fileno=os.dup(fd)) as s:
                if s.family in (socket.AF_INET, socket.AF_INET6) and s.type == socket.SOCK_STREAM:
                    s.getpeername()
                    found.append(fd)
        except OSError:
            continue
    return sorted(found)


def _sockets() -> set[tuple[int, int]]:
    """Return (descriptor, inode) of every socket of this process."""
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")):
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.add((fd, status.st_ino))
    return found


def join(rank: int, world_size: int, path: str) -> int:
    """Leave the old world, if any, and make a new one over the fresh file `path`."""
    import datetime

    import torch
    import torch.distributed as dist

    if not _state.prepared:
        _state.prepared = True
        torch.set_num_threads(1)
        interfaces = [name for _, name in socket.if_nameindex()]
        for name in ("lo", "lo0"):
            if name in interfaces:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    if dist.is_initialized():
        dist.destroy_process_group()
    _state.before, _state.freed = _sockets(), False
    store = dist.FileStore(path, world_size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=world_size, timeout=datetime.timedelta(hours=2)
    )
    namespace().update(torch=torch, dist=dist, rank=rank, world_size=world_size, device=torch.device("cpu"))
    return os.getpid()


def run_cell(source: str) -> dict[str, Any]:
    """Run one cell; what it prints, shows and raises comes back as one dictionary."""
    from IPython import get_ipython
    from IPython.utils.capture import capture_output

    shell = get_ipython()
    file = shell.compile.get_code_name(source, source, 0)
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with shell.display_trap, capture_output() as captured:
            result = shell.run_cell(source, store_history=False)
    finally:
        signal.signal(signal.SIGINT, old)
    text = captured.stdout + captured.stderr
    if len(text) > 20_000:
        text = f"{text[:2000]}\n... {len(text):,} characters in all, cut here\n"
    shown = [o._repr_mimebundle_() if hasattr(o, "_repr_mimebundle_") else o.data for o in captured.outputs]
    reply: dict[str, Any] = {"status": "ok", "text": text, "shown": [b[0] if isinstance(b, tuple) else b for b in shown]}
    error = result.error_before_exec or result.error_in_exec
    if error is not None:
        line, trace = getattr(error, "lineno", None), error.__traceback__
        while trace:
            if trace.tb_frame.f_code.co_filename == file:
                line = trace.tb_lineno
            trace = trace.tb_next
        reply.update(status="raised", name=type(error).__name__, message=str(error), line=line)
    return reply


def evaluate(expression: str) -> dict[str, Any]:
    """Return the value of an expression, pickled here so that what cannot be pickled is an answer."""
    return _guarded(lambda: eval(compile(expression, "<gather>", "eval"), namespace()))


def assign(name: str, value: bytes) -> dict[str, Any]:
    """Set a variable of the learner."""
    return _guarded(lambda: namespace().update({name: pickle.loads(value)}))


def call(module: str, function: str, args: bytes) -> dict[str, Any]:
    """Call an importable function."""
    return _guarded(lambda: getattr(importlib.import_module(module), function)(*pickle.loads(args)))


def _guarded(work: Any) -> dict[str, Any]:
    try:
        return {"status": "ok", "value": pickle.dumps(work())}
    except BaseException as e:
        return {"status": "raised", "name": type(e).__name__, "message": str(e), "line": None}
