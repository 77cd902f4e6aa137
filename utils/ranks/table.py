"""A small table in shared memory: what each rank is about to call, and the line of the cell it is in.

One file, one region a rank, one writer a region, so no locks: a rank writes its own record first and reads the
others' then, so of two ranks that differ at least the later one sees it. The file outlives a killed rank, so the
kernel can still read which line it had reached.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import struct
from pathlib import Path

HEAD = struct.Struct("<II")  # serial number of the cell, line in it
SLOT = struct.Struct("<QH")  # key, length of the text that follows
SLOT_SIZE, SLOTS = 192, 1024
REGION = SLOT_SIZE * (SLOTS + 1)


def reserve(path: Path, n: int) -> None:
    """Make an empty table for n ranks, with its space on disk taken: a full disk is an error here, not a crash later.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(descriptor, 0, REGION * n)
                return
            except OSError as e:
                if e.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot reserve
                    raise
        for _ in range(n):
            os.write(descriptor, bytes(REGION))
    finally:
        os.close(descriptor)


def digest(*parts: object) -> int:
    """Return a 64-bit number, never 0, that stands for these parts on every rank."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") | 1


class Table:
    """The table as one process sees it. `rank` is the region it may write; the kernel gives None."""

    def __init__(self, path: str | Path, rank: int | None = None):
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.home = REGION * (rank or 0)

    def mark(self, cell: int, line: int) -> None:
        """Note the line that this rank runs."""
        HEAD.pack_into(self.memory, self.home, cell, line)

    def line(self, rank: int, cell: int) -> int | None:
        """Return the line of this cell that a rank had reached, if it had begun it."""
        found, line = HEAD.unpack_from(self.memory, REGION * rank)
        return line if found == cell and line else None

    def put(self, group: int, number: int, text: str) -> None:
        """Write what this rank calls as number `number` in a group (given as a digest)."""
        place = self._place(self.home, group, number)
        data = text.encode()[: SLOT_SIZE - SLOT.size]
        SLOT.pack_into(self.memory, place, 0, 0)  # nobody reads a record half written
        self.memory[place + SLOT.size : place + SLOT.size + len(data)] = data
        SLOT.pack_into(self.memory, place, group ^ number, len(data))

    def get(self, rank: int, group: int, number: int) -> str | None:
        """Return what a rank called as number `number` in a group, if it has come so far and it is still known."""
        place = self._place(REGION * rank, group, number)
        key, length = SLOT.unpack_from(self.memory, place)
        if key != group ^ number:
            return None
        data = bytes(self.memory[place + SLOT.size : place + SLOT.size + length])
        return data.decode(errors="ignore") if SLOT.unpack_from(self.memory, place) == (key, length) else None

    def cut(self, text: str) -> str:
        """Return the text as it comes back from the table."""
        return text.encode()[: SLOT_SIZE - SLOT.size].decode(errors="ignore")

    @staticmethod
    def _place(home: int, group: int, number: int) -> int:
        return home + SLOT_SIZE * (1 + (group + number) % SLOTS)
