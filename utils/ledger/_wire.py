"""Bytes on the wire: what the operating system's kernel counted on each TCP socket (TCP_INFO, Linux)."""
from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Iterable

# Offsets in struct tcp_info (include/uapi/linux/tcp.h; bytes_sent since Linux 4.19).
NOT_SENT, BYTES_RECEIVED, BYTES_SENT, BYTES_AGAIN, LENGTH = 144, 128, 200, 208, 216

Counters = dict[tuple[int, int], tuple[int, int]]  # (descriptor, inode) -> (sent, received)


def why_not() -> str:
    """Say why this machine cannot count bytes on the wire; "" if it can."""
    if sys.platform != "linux" or not hasattr(socket, "TCP_INFO"):
        return f"bytes on the wire are counted by Linux (TCP_INFO); {sys.platform} has no such counters"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        if len(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LENGTH)) < LENGTH:
            return "bytes on the wire need Linux 4.19 or newer"
    return ""


def read(descriptors: Iterable[int]) -> Counters:
    """Read the bytes sent (without what was sent twice) and received, by socket, since each was opened."""
    if why_not():
        return {}
    found: Counters = {}
    for fd in descriptors:
        with contextlib.suppress(OSError):
            inode = os.fstat(fd).st_ino
            with socket.socket(fileno=os.dup(fd)) as s:
                found[fd, inode] = _counters(s)
    return found


def _counters(s: socket.socket) -> tuple[int, int]:
    """Read one socket, once what was handed to it has left (on the loopback: at once)."""
    end = time.monotonic() + 0.2
    while True:
        info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LENGTH)
        (waiting,) = struct.unpack_from("=I", info, NOT_SENT)
        if not waiting or time.monotonic() > end:
            break
        time.sleep(0.001)
    sent, again = struct.unpack_from("=QQ", info, BYTES_SENT)
    (received,) = struct.unpack_from("=Q", info, BYTES_RECEIVED)
    return sent - again, received


def between(before: Counters, after: Counters) -> tuple[int, int]:
    """Add up (sent, received) from one reading to the next; sockets opened in between count whole."""
    totals = [0, 0]
    for key, values in after.items():
        for i, (now, then) in enumerate(zip(values, before.get(key, (0, 0)), strict=True)):
            totals[i] += now - then
    return totals[0], totals[1]
