"""The rendezvous of the process groups, so that who waits in it can be seen and freed; and a table over a store.

`dist.new_group`, meshes and the world itself meet over a key-value store. PyTorch's own stores wait in C++, where a
rank can neither be seen nor reached. This one waits in Python.
"""

from __future__ import annotations

import re
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

GLOO_KEY = re.compile(r"//cpu//\d+/\d+$")  # where a member of a group writes its address, once


class Freed(RuntimeError):
    """The wait was given up because nobody can end it any more."""


class OddGroup(RuntimeError):
    """Two ranks came to the rendezvous of a group for the same place in it."""


class WatchedStore(dist.Store):
    """A store over another one, with waits that can be seen (`waiting`) and ended (`free`)."""

    def __init__(self, inner: Any, pause: float = 0.01):
        super().__init__()
        self.inner, self.pause = inner, pause
        self.waiting: dict[int, str] = {}  # by thread: the key it waits for
        self.waits = 0
        self.freed = False

    def free(self) -> None:
        """Let everyone who waits here raise."""
        self.freed = True

    # The inner stores take text only, and gloo stores bytes: hexadecimal, marked, to tell it from `add`'s numbers.
    def set(self, key: str, value: bytes | str) -> None:
        """Store a value."""
        text = "x" + (value.encode() if isinstance(value, str) else value).hex()
        if not GLOO_KEY.search(key):
            self.inner.set(key, text)
        elif self.inner.compare_set(key, "", text) != text.encode():
            raise OddGroup("another rank makes a group of the same number with other members")

    def get(self, key: str) -> bytes:
        """Wait for a value and return it."""
        self.wait([key])
        value: bytes = self.inner.get(key)
        return bytes.fromhex(value[1:].decode()) if value[:1] == b"x" else value

    def add(self, key: str, amount: int) -> int:
        """Add to a number."""
        return int(self.inner.add(key, amount))

    def check(self, keys: list[str]) -> bool:
        """Tell whether all keys are there."""
        return bool(self.inner.check(keys))

    def delete_key(self, key: str) -> bool:
        """Forget a value."""
        return bool(self.inner.delete_key(key))

    def set_timeout(self, timeout: timedelta) -> None:
        """Do nothing: the watcher decides when to give up."""

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys are there; raises `Freed` when told to give up."""
        me = threading.get_ident()
        try:
            while not self.inner.check(keys):
                if self.waiting.get(me) != keys[0]:
                    self.waits += 1
                    self.waiting[me] = keys[0]
                if self.freed:
                    raise Freed("the others never came to make the process group")
                time.sleep(self.pause)
        finally:
            self.waiting.pop(me, None)


class StoreTable:
    """The table of `utils.ranks.table` for ranks that share no disk: one question to a store for each call."""

    KEPT = 64  # records of a group that stay in the store

    def __init__(self, store: Any, rank: int):
        self.store, self.rank = store, rank
        self.first: set[tuple[int, int]] = set()

    def mark(self, cell: int, line: int) -> None:
        """Do nothing: the line of a rank that dies on another machine is known from the last question only."""

    def claim(self, place: int, number: int, text: str, others: list[int]) -> tuple[int, str] | None:
        """Publish a call; return another rank's, if it has published a different one in this place."""
        found = self.store.compare_set(f"call {place} {number}", "", f"{self.rank} {text}").decode()
        rank, theirs = found.split(" ", 1)
        if int(rank) == self.rank:
            self.first.add((place, number))
            self.store.delete_key(f"call {place} {number - self.KEPT}")
            self.first.discard((place, number - self.KEPT))
        return None if theirs == text else (int(rank), theirs)

    def erase(self, place: int, number: int) -> None:
        """Take back a call that was not made."""
        if (place, number) in self.first:
            self.first.discard((place, number))
            self.store.delete_key(f"call {place} {number}")
