"""Count what training costs, and hold it against what a formula predicts.

    from utils import ledger

    count = ledger.count("trainer.step(tokens, targets)")    # run on all ranks; what was sent
    count.calls["all_reduce"], count.payload["all_reduce"], count.wire       # lists by rank

    held = ledger.memory("trainer", during="trainer.step(tokens, targets)")  # what each rank holds, by kind
    held.parameters, held.gradients, held.optimizer_state, held.activations  # bytes by rank

    book = ledger.Ledger()
    book.row("bytes of all-reduce", "2 (N-1)/N x payload", predicted=1.5 * payload, counted=count.wire[0])
    book                                                     # a table

Nothing here asks the code under test. Calls are seen where all of them pass, in PyTorch's dispatcher (those that DDP's
C++ makes included); bytes on the wire are the kernel's own counters of the sockets (Linux); memory is the storages that
tensors really share or own. In a single process (no ranks) use `ledger.held(...)` and `ledger.Meter`, and for a step on
pretended ranks (a fake process group) `ledger.Rehearsal`.
"""
from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Ledger": "book", "Row": "book", "amount": "book", "each": "book",
    "Count": "count", "count": "count", "recording": "count", "Rehearsal": "rehearsal",
    "Memory": "memory", "memory": "memory", "held": "memory", "Meter": "memory",
}  # fmt: skip
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Load the module that holds a public name; `count` and `memory` are functions, not their modules."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'utils.ledger' has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}._{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
