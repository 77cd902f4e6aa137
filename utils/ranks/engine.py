"""What every rank is: its place in the world, its process groups, and its answers to the watcher.

For other rooms (call these on the ranks, for instance from a function handed to `ranks.call`):

    namespace()         the learner's variables on this rank
    group_sockets()     file descriptors of the TCP sockets that the process groups have opened (for TCP_INFO)
    on_call(callback)   `callback(call)` before every collective and message of this rank, DDP's C++ included; returns
                        a function that ends it. `call` has `op` ("all_reduce", "send", ...), `group`, `ranks`,
                        `number`, `shapes`, `dtype`, `payload` (bytes), `peer`, `tag`: see `utils.ranks.calls.Call`.

torch is imported when the rank joins, so the kernel can import this module for the names of its functions.
What runs cells is in `execute`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from utils.ranks import trace
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
    host: Any = None  # the TCP store that rank 0 of a connected world serves
    ports: set[int] = set()  # of such stores
    table: Any = None
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
            tcp = s.family in (socket.AF_INET, socket.AF_INET6) and s.type == socket.SOCK_STREAM
            # The store of a connected world is no group's: those who meet next are on it already.
            if tcp and not {s.getsockname()[1], s.getpeername()[1]} & me.ports:
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
    """Leave the old world, if any, and make a new one; give the learner's variables their names.

    `meeting` has `epoch` (a number that no other world has); `file` for a rendezvous on one machine, or `host` and
    `port` of the store that rank 0 serves; `table`, the path of the shared table, or None where ranks share no disk;
    and perhaps `gpu`, by rank the number of its GPU.
    """
    import torch
    import torch.distributed as dist

    from utils.ranks import calls, store

    prepare()
    leave()
    me.number, me.freed, me.was = rank, False, None
    me.ports.add(meeting.get("port", 0))
    if "file" in meeting:
        inner: Any = dist.FileStore(meeting["file"], world_size)
    else:
        inner = dist.PrefixStore(str(meeting["epoch"]), _tcp_store(meeting))
    me.table = Table(meeting["table"], rank) if meeting["table"] else store.StoreTable(_tcp_store(meeting), rank)
    me.store = store.WatchedStore(inner)
    me.before = _sockets()
    device = torch.device("cuda", meeting["gpu"][rank]) if "gpu" in meeting else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # The watcher ends waits in vain, so the group's own limit must never be what ends a long one.
    patience = datetime.timedelta(hours=12)
    dist.init_process_group(backend, store=me.store, rank=rank, world_size=world_size, timeout=patience)
    calls.now.book = calls.Book(rank, meeting["epoch"], me.table)
    namespace().update(torch=torch, dist=dist, rank=rank, world_size=world_size, device=device)
    return {"status": "ok", "pid": os.getpid()}


def _tcp_store(meeting: dict[str, Any]) -> Any:
    import torch.distributed as dist

    patience = datetime.timedelta(seconds=60)
    return dist.TCPStore(meeting["host"], meeting["port"], is_master=False, timeout=patience)


def reach(interface: str | None, other: str | None) -> Reply:
    """Choose the network device for the groups; return the address of this machine on it.

    `interface` names it; without a name it is the one that leads to the machine `other`, or loopback if there is none.
    """
    import psutil

    if interface is None and other is None:
        os.environ.pop("GLOO_SOCKET_IFNAME", None)
        prepare()
        _use_loopback()
        return {"host": "127.0.0.1"}
    addresses = {
        a.address: name for name, all in psutil.net_if_addrs().items() for a in all if a.family == socket.AF_INET
    }
    if interface is None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect((other, 9))  # sends nothing: asks the system for the way
            host = s.getsockname()[0]
        interface = addresses[host]
    else:
        host = next((a for a, name in addresses.items() if name == interface), "")
        if not host:
            raise ValueError(f"there is no network device {interface!r} here, only {', '.join(addresses.values())}")
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    prepare()
    return {"host": host}


def serve(host: str) -> Reply:
    """Serve the store over which a connected world meets, on a free port of `host`; return the port."""
    import torch.distributed as dist

    listening = socket.create_server((host, 0))  # on this address only
    port = listening.getsockname()[1]
    me.ports.add(port)
    me.host = dist.TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )  # fmt: skip
    return {"port": port}


def gpus() -> int:
    """Return the number of GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def leave() -> None:
    """Leave the world, if any: end its groups, free whoever waits."""
    import torch.distributed as dist

    from utils.ranks import calls

    if me.store is not None:
        free()
    if dist.is_initialized():
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
    calls.now.book = None


def prepare() -> None:
    """Do once in a process what a rank needs before its first world."""
    if me.prepared:
        return
    import torch
    from IPython import get_ipython

    from utils.ranks import calls, execute

    torch.set_num_threads(1)
    _use_loopback()
    calls.install()
    calls.now.trace = trace.stack
    shell = get_ipython()
    shell.kernel.control_handlers["ranks_request"] = _on_control
    shell.ast_transformers.append(trace.Marker())
    shell.loop_runner = execute.run_async
    trace.set_marker(lambda line: me.table.mark(me.cell, line))
    me.prepared = True


def _use_loopback() -> None:
    """Let gloo use the loopback device, by name where it has one, unless another was chosen."""
    interfaces = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") else []
    for name in ("lo", "lo0"):
        if name in interfaces:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


# -- answering the watcher ----


def _on_control(stream: Any, ident: Any, parent: Any) -> None:
    """Answer the watcher, in the thread of the control channel, while the main thread computes or waits."""
    from IPython import get_ipython

    from utils.ranks import calls

    ask = parent["content"]["ask"]
    answer: Reply = {}
    try:
        if ask == "free":
            free()
        elif ask == "end receive":
            _stand()
            calls.book().fed = True
        elif ask == "feed":
            calls.book().feed(parent["content"]["call"])
        elif ask == "interrupt":
            signal.raise_signal(signal.SIGINT) if os.name == "nt" else os.kill(os.getpid(), signal.SIGINT)
        else:
            answer = where()
    except Exception as e:
        answer = {"error": repr(e)}
    session = get_ipython().kernel.session
    session.send(stream, "ranks_reply", content={"status": "ok", "answer": answer}, parent=parent, ident=ident)


def where() -> Reply:
    """Return where the main thread stands: what it waits for, if it waits, and what it has called so far.

    `wait`, if any: `serial` (the same as long as it is the same wait), `sure` (False if it is inferred from the main
    thread's sleep), `op` and `call` (None for the rendezvous of a group).
    """
    from utils.ranks import calls

    main = threading.main_thread().ident
    frames, via, at = _seen(main)
    book, store = calls.now.book, me.store
    reply: Reply = {"cell": me.cell, "frames": frames, "freed": me.freed, "wait": None}
    if book is None or not me.cell:
        return reply
    reply["book"] = book.report(me.cell)
    if main in book.waiting:
        serial, call = book.waiting[main]
        reply["wait"] = {"serial": serial, "sure": True, "call": call.plain(), "op": call.via or call.op}
    elif main in store.waiting:
        reply["wait"] = {"serial": f"store {store.waits}", "sure": True, "call": None, "op": via or "new_group"}
    elif "/torch/" in at.file.replace("\\", "/"):
        reply["wait"] = _inferred(at, via)
    return reply


class At(NamedTuple):
    """Where the main thread stands in Python: file, function, and the number of its instruction."""

    file: str = ""
    function: str = ""
    instruction: int = -1


def _seen(main: int | None) -> tuple[list[Any], str, At]:
    """Return the main thread's lines in cells, what it called, and where it stands.

    Its frames are let go of on return: while another thread holds a frame, so do the frame's variables hold their
    tensors, and memory that the cell has given up would still be counted.
    """
    frame = sys._current_frames().get(main or 0)
    frames, via = trace.stack(frame)
    if frame is None:
        return frames, via, At()
    return frames, via, At(frame.f_code.co_filename, frame.f_code.co_name, frame.f_lasti)


def _inferred(at: At, via: str) -> Reply | None:
    """Return what the main thread waits for in PyTorch's C++, if it is asleep there for something known."""
    from utils.ranks import calls

    book = calls.now.book
    asleep = _asleep()
    if not asleep or book is None:
        return None
    wait: Reply = {"serial": f"{asleep} {at.instruction}", "sure": False}
    if at.function == "_new_process_group_helper":  # connecting to ranks that make another group
        return {**wait, "call": None, "op": via}
    book.prune()
    if not book.pending:
        return None
    call = min((c for c, _ in book.pending.values()), key=lambda c: c.number)  # made by C++: DDP's reducer in backward
    return {**wait, "call": call.plain(), "op": call.op}


def _asleep() -> str:
    """Return a mark of the main thread's sleep, the same as long as it has not run; "" if it runs or may run."""
    if sys.platform != "linux":
        return f"cpu {round(time.process_time() - time.thread_time(), 1)}"
    with open(f"/proc/self/task/{os.getpid()}/status") as file:
        status = dict(line.split(":", 1) for line in file if ":" in line)
    # A thread that is only short of processor time is in state R, not S.
    if status["State"].split()[0] != "S":
        return ""
    return status["voluntary_ctxt_switches"].strip() + "/" + status["nonvoluntary_ctxt_switches"].strip()


def free() -> None:
    """Let whoever waits here raise: shut down the sockets of the groups, give up the rendezvous."""
    _stand()
    if me.store is not None:
        me.store.free()
    for fd in group_sockets():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as s:
            s.shutdown(socket.SHUT_RDWR)
    if "cuda" in str(namespace().get("device")):
        _abort_nccl()


def _abort_nccl() -> None:
    """End what waits on GPUs. Written from PyTorch's documentation: the course's tests have no GPU to run it on."""
    import torch
    import torch.distributed as dist

    for group in list(dist.distributed_c10d._world.pg_map):
        with contextlib.suppress(Exception):
            group._get_backend(torch.device("cuda")).abort()


def _stand() -> None:
    """Keep where this rank stands: once it is free, the stack is no longer that of the wait."""
    if not me.freed:
        me.was = where()
        me.freed = True
