"""What runs in every rank: join the world, run cells, answer the watcher.

For other rooms (call these on the ranks, for instance from a function handed to `ranks.call`):

    namespace()         the learner's variables on this rank
    group_sockets()     file descriptors of the TCP sockets that the process groups have opened (for TCP_INFO)
    on_call(callback)   `callback(call)` before every collective and message of this rank, DDP's C++ included; returns
                        a function that ends it. `call` has `op` ("all_reduce", "send", ...), `group`, `ranks`,
                        `number`, `shapes`, `dtype`, `payload` (bytes), `peer`, `tag`: see `utils.ranks.calls.Call`.

torch is imported when the rank joins, so the kernel can import this module for the names of its functions.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib
import os
import pickle
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable
from typing import Any

from utils.ranks import capture, trace
from utils.ranks.table import Table

Reply = dict[str, Any]


class Rank:
    """What this process knows of itself as a rank."""

    number = -1
    cell = 0  # number of the cell that runs, 0 between cells
    before: frozenset[tuple[int, int]] = frozenset()  # sockets that were there before the groups
    freed = False
    was: Reply | None = None  # where it stood when it was freed
    store: Any = None
    table: Table | None = None
    loop: Any = None
    prepared = False


me = Rank


def namespace() -> dict[str, Any]:
    """Return the learner's variables on this rank."""
    from IPython import get_ipython

    return get_ipython().user_ns  # type: ignore[no-any-return]


def on_call(callback: Callable[[Any], None]) -> Callable[[], None]:
    """Call `callback(call)` for each collective and message of this rank, before it is made; return how to end that."""
    from utils.ranks import calls

    return calls.on_call(callback)


def group_sockets() -> list[int]:
    """Return the file descriptors of the connected TCP sockets that the process groups of this rank have opened."""
    found = []
    for fd, _ in _sockets() - me.before:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as s:
            if s.family in (socket.AF_INET, socket.AF_INET6) and s.type == socket.SOCK_STREAM:
                s.getpeername()
                found.append(fd)
    return sorted(found)


def _sockets() -> frozenset[tuple[int, int]]:
    """Return (descriptor, inode) of every socket of this process; none where the platform has no list of them."""
    found = set()
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        with contextlib.suppress(OSError, ValueError):
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found.add((int(name), status.st_ino))
    return frozenset(found)


# -- joining ----


def join(rank: int, world_size: int, meeting: dict[str, Any]) -> Reply:
    """Leave the old world, if any, and make a new one.

    `meeting` has `epoch` (a number that no other world has), `file` (rendezvous on one machine) or `host` and `port`,
    and `table` (path of the shared table).
    """
    import torch
    import torch.distributed as dist

    from utils.ranks import calls, store

    _prepare()
    if dist.is_initialized():
        free()
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
    calls.now.book = None
    me.number, me.before, me.freed, me.was = rank, _sockets(), False, None
    inner = dist.FileStore(meeting["file"], world_size)
    me.store = store.WatchedStore(inner)
    if me.table is None:
        me.table = Table(meeting["table"], rank)
    device = torch.device("cpu")
    dist.init_process_group(
        "gloo", store=me.store, rank=rank, world_size=world_size, timeout=datetime.timedelta(hours=12)
    )
    calls.now.book = calls.Book(rank, meeting["epoch"], me.table)
    namespace().update(torch=torch, dist=dist, rank=rank, world_size=world_size, device=device)
    return {"status": "ok", "pid": os.getpid()}


def _prepare() -> None:
    """Do once in a process what a rank needs before its first world."""
    if me.prepared:
        return
    import torch
    from IPython import get_ipython

    from utils.ranks import calls

    torch.set_num_threads(1)
    interfaces = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") else []
    for name in ("lo", "lo0"):
        if name in interfaces:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    calls.install()
    calls.now.trace = trace.stack
    shell = get_ipython()
    shell.kernel.control_handlers["ranks_request"] = _on_control
    shell.ast_transformers.append(trace.Marker())
    shell.loop_runner = _run_async
    trace.set_marker(lambda line: me.table.mark(me.cell, line) if me.table else None)
    me.prepared = True


# -- answering the watcher ----


def _on_control(stream: Any, ident: Any, parent: Any) -> None:
    """Answer the watcher, in the thread of the control channel, while the main thread computes or waits."""
    from IPython import get_ipython

    ask = parent["content"]["ask"]
    try:
        if ask == "free":
            free()
            answer: Reply = {}
        elif ask == "interrupt":
            os.kill(os.getpid(), signal.SIGINT) if os.name != "nt" else signal.raise_signal(signal.SIGINT)
            answer = {}
        else:
            answer = where()
    except Exception as e:
        answer = {"error": repr(e)}
    session = get_ipython().kernel.session
    session.send(stream, "ranks_reply", content={"status": "ok", "answer": answer}, parent=parent, ident=ident)


def where() -> Reply:
    """Return where the main thread stands: what it waits for, if it waits, and what it has called so far."""
    from utils.ranks import calls

    main = threading.main_thread().ident
    frame = sys._current_frames().get(main)
    frames, via = trace.stack(frame)
    book, store = calls.now.book, me.store
    reply: Reply = {"cell": me.cell, "frames": frames, "freed": me.freed, "wait": None}
    if book is None or not me.cell:
        return reply
    reply["book"] = book.report(me.cell)
    wait: Reply | None = None
    if main in book.waiting:
        serial, call = book.waiting[main]
        wait = {"serial": serial, "sure": True, "call": call.plain(), "op": via or call.op}
    elif main in store.waiting:
        wait = {"serial": f"store {store.waits}", "sure": True, "call": None, "op": via or "new_group"}
    elif frame is not None and _in_torch(frame):
        # C++ waits for calls that it made itself (DDP's reducer in backward): asleep, and a call not complete.
        book.prune()
        open_calls = [c for c, _ in book.pending.values()]
        asleep = _asleep()
        if open_calls and asleep:
            call = min(open_calls, key=lambda c: c.number)
            wait = {"serial": f"{asleep} {frame.f_lasti}", "sure": False, "call": call.plain(), "op": call.op}
    reply["wait"] = wait
    return reply


def _in_torch(frame: Any) -> bool:
    file = frame.f_code.co_filename.replace("\\", "/")
    return "/torch/" in file


def _asleep() -> str:
    """Return a mark of the main thread's sleep, the same as long as it has not run; "" if it runs or may run."""
    if sys.platform == "linux":
        # A thread that is only short of processor time is in state R, not S.
        with open(f"/proc/self/task/{os.getpid()}/status") as file:
            status = dict(line.split(":", 1) for line in file if ":" in line)
        if status["State"].split()[0] != "S":
            return ""
        return status["voluntary_ctxt_switches"].strip() + "/" + status["nonvoluntary_ctxt_switches"].strip()
    import time

    return f"cpu {round(time.process_time() - time.thread_time(), 1)}"


def free() -> None:
    """Let whoever waits here raise: shut down the sockets of the groups, give up the rendezvous."""
    if not me.freed:
        me.was = where()
        me.freed = True
    if me.store is not None:
        me.store.free()
    for fd in group_sockets():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as s:
            s.shutdown(socket.SHUT_RDWR)


# -- running ----


def run_cell(source: str, cell: int, spool: str | None) -> Reply:
    """Run cell number `cell`; what it prints, shows and raises comes back as one dictionary.

    `spool` is a file that gets the text as it is printed.
    """
    from IPython import get_ipython

    shell = get_ipython()
    trace.know(shell.compile.get_code_name(source, source, 0), cell)

    def work() -> Reply:
        with capture.captured(shell, spool) as output, _manners(shell):
            result = None
            try:
                with trace.Interruptible():
                    result = shell.run_cell(source, store_history=False)
                error = result.error_before_exec or result.error_in_exec
            except KeyboardInterrupt as e:
                error = e
            early = bool(result and result.error_before_exec)
        reply: Reply = {"status": "ok", "output": output.close()}
        if error is not None:
            reply.update(_error(error, early))
        return reply

    return _reported(work, cell)


def evaluate(expression: str, cell: int) -> Reply:
    """Return the value of an expression, pickled here so that what cannot be pickled is an answer."""

    def work() -> Any:
        code = compile(expression, file, "eval")
        with trace.Interruptible():
            return eval(code, namespace())

    file = f"<gather {cell}>"
    trace.know(file, cell)
    return _reported(lambda: _pickled(work), cell)


def assign(name: str, value: bytes, cell: int) -> Reply:
    """Set a variable of the learner."""
    return _reported(lambda: _pickled(lambda: namespace().update({name: pickle.loads(value)})), cell)


def call(module: str, function: str, args: bytes, cell: int) -> Reply:
    """Call an importable function."""

    def work() -> Any:
        target: Any = importlib.import_module(module)
        for part in function.split("."):
            target = getattr(target, part)
        with trace.Interruptible():
            return target(*pickle.loads(args))

    return _reported(lambda: _pickled(work), cell)


def _pickled(work: Callable[[], Any]) -> Reply:
    try:
        value = work()
    except BaseException as e:
        return _error(e)
    try:
        return {"status": "ok", "value": pickle.dumps(value)}
    except Exception as e:
        return {**_error(e), "pickle": type(value).__name__}


def _reported(work: Callable[[], Reply], cell: int) -> Reply:
    """Do the work of a cell and add what the watcher needs to know."""
    import torch.distributed as dist

    from utils.ranks import calls

    me.cell = calls.now.cell = cell
    if me.table:
        me.table.mark(cell, 0)
    book = calls.now.book
    try:
        reply = work()
    except MemoryError as e:  # in our own code, while a limit of the learner's is in force
        reply = _error(e)
    finally:
        me.cell = calls.now.cell = 0
    if reply["status"] != "ok":
        gc.collect()
    if book:
        book.prune()
        reply["book"] = book.report(cell)
        reply["mismatch"] = book.mismatch.plain() if book.mismatch else None
        book.mismatch = None
    reply.update(freed=me.freed, was=me.was, group=dist.is_initialized())
    return reply


def _error(error: BaseException, early: bool = False) -> Reply:
    """Return an error as simple values, and let go of its frames: they may hold the tensors memory ran out over."""
    frames, place = trace.of_traceback(error.__traceback__)
    reply: Reply = {
        "status": "raised", "name": type(error).__name__, "frames": frames, "place": place, "early": early,
        "notes": list(getattr(error, "__notes__", [])),
    }  # fmt: skip
    try:
        reply["message"] = str(error)[:4000]
    except Exception:
        reply["message"] = "(an error whose message cannot be shown)"
    if isinstance(error, SyntaxError) and early:
        reply.update(message=error.msg, syntax=(error.lineno, error.offset, error.text))
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__context__
    sys.last_value = sys.last_traceback = sys.last_type = None  # type: ignore[assignment]
    return reply


@contextlib.contextmanager
def _manners(shell: Any) -> Any:
    """Keep from a cell what a rank must not do: ask at the keyboard, end the process, print tracebacks."""
    import builtins

    def no_input(*_: object, **__: object) -> str:
        raise RuntimeError("A rank cannot read from the keyboard: ask in a cell of the notebook, then ranks.scatter.")

    def leave(code: object = None) -> None:
        raise SystemExit(code)

    quiet = {"showtraceback": _silent, "showsyntaxerror": _silent, "showindentationerror": _silent}
    before = builtins.input
    builtins.input = no_input
    shell.user_ns.update(exit=leave, quit=leave)
    for name, value in quiet.items():
        setattr(shell, name, value)
    try:
        yield
    finally:
        builtins.input = before
        for name in quiet:
            delattr(shell, name)


def _silent(*_: object, **__: object) -> None:
    """Show nothing: the kernel explains."""


def _run_async(coroutine: Any) -> Any:
    """Run a cell with `await` to its end, although the engine's own event loop runs in this thread."""
    import asyncio

    outer = asyncio._get_running_loop()
    me.loop = me.loop or asyncio.new_event_loop()
    asyncio._set_running_loop(None)
    try:
        return me.loop.run_until_complete(coroutine)
    finally:
        asyncio._set_running_loop(outer)
