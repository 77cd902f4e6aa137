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

    def claim(self, place: int, number: int, text: str, others: list[int]) -> tuple[int, str] | None:
        """Publish what this rank is about to call as number `number` in a place (a group or a pair, as a digest).

        Returns (rank, text) of one of the others that has published something else there, or None.
        """
        data = text.encode()[: SLOT_SIZE - SLOT.size]
        slot = self._slot(self.home, place, number)
        SLOT.pack_into(self.memory, slot, 0, 0)  # nobody reads a record half written
        self.memory[slot + SLOT.size : slot + SLOT.size + len(data)] = data
        SLOT.pack_into(self.memory, slot, place ^ number, len(data))
        for rank in others:
            theirs = self.get(rank, place, number)
            if theirs is not None and theirs != data:
                return rank, theirs.decode(errors="ignore")
        return None

    def erase(self, place: int, number: int) -> None:
        """Take back a call that was not made."""
        SLOT.pack_into(self.memory, self._slot(self.home, place, number), 0, 0)

    def get(self, rank: int, place: int, number: int) -> bytes | None:
        """Return what a rank published as number `number` in a place, if it has come so far and it is still known."""
        slot = self._slot(REGION * rank, place, number)
        key, length = SLOT.unpack_from(self.memory, slot)
        if key != place ^ number or not length:  # the key is written first: without a length it is half a record
            return None
        data = bytes(self.memory[slot + SLOT.size : slot + SLOT.size + length])
        return data if SLOT.unpack_from(self.memory, slot) == (key, length) else None

    @staticmethod
    def _slot(home: int, place: int, number: int) -> int:
        return home + SLOT_SIZE * (1 + (place + number) % SLOTS)
