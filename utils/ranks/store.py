"""The rendezvous of the process groups, so that who waits in it can be seen and freed.

`dist.new_group`, meshes and the world itself meet over a key-value store. PyTorch's own stores wait in C++, where a
rank can neither be seen nor reached. This one waits in Python.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist


class Freed(RuntimeError):
    """The wait was given up because nobody can end it any more."""


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
        self.inner.set(key, "x" + (value.encode() if isinstance(value, str) else value).hex())

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
