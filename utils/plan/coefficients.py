"""The few numbers that no data sheet gives: fitted on stated rows of published tables, by utils/plan/fit.py.

`fitted.json` beside this file holds them, the rows they were fitted on, and the errors on rows they were not fitted on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).with_name("fitted.json")


@dataclass(frozen=True)
class Coefficients:
    """Hold the fitted numbers. Shares are of what the data sheet promises: none can pass 1.

    matmul_a100, matmul_h100: of peak that large matrix products reach. flash_a100, flash_h100: of peak that flash
    attention 2 reaches; its first version reaches half of that (Dao, arXiv:2307.08691, section 4). memory_share: of
    the memory's bandwidth that element-wise work reaches; eager: how often it passes over its data where nothing is
    fused. link_share, wire_share: of the links inside a node and of the adapters between nodes that an all-reduce
    reaches; gather_share: how much of that an all-gather, a
    reduce-scatter or an all-to-all reaches. start: seconds to begin a collective. host_eager: seconds in which the
    processor of an eager program launches one layer's forward and backward; host_tensor: what a tensor rank adds to
    that in an eager pipeline over several nodes. overlap: of the traffic beside computing that costs nothing. reserve:
    of a GPU's memory that a program cannot use (contexts, buffers of the collectives). holes: layers' worth of
    activations that each micro-batch in flight on a pipeline rank takes beyond its own, where software.fragments.
    """

    matmul_a100: float = 0.77
    matmul_h100: float = 0.61
    flash_a100: float = 0.6
    flash_h100: float = 0.35
    memory_share: float = 0.85
    eager: float = 2.2
    link_share: float = 0.85
    wire_share: float = 0.9
    gather_share: float = 0.7
    start: float = 60e-6
    host_eager: float = 4.3e-3
    host_tensor: float = 2.2e-3
    overlap: float = 0.65
    reserve: float = 0.125
    holes: float = 1.8

    def matmul(self, peak: float) -> float:
        """Give the share of peak for a GPU: newer ones, with more peak for their power, reach less of it."""
        return self.matmul_h100 if peak > 500e12 else self.matmul_a100

    def flash(self, peak: float, version: int) -> float:
        """Give the share of peak that a version of flash attention reaches on a GPU."""
        return (self.flash_h100 if peak > 500e12 else self.flash_a100) / (2 if version == 1 else 1)


NAMES = tuple(f.name for f in fields(Coefficients))


@lru_cache(1)
def record() -> dict:
    """Read the committed record: `values`, `rows` they were fitted on, `held_out` errors by section."""
    return json.loads(FILE.read_text()) if FILE.exists() else {"values": {}, "rows": {}, "held_out": {}}


@lru_cache(1)
def fitted() -> Coefficients:
    """Give the committed coefficients."""
    return Coefficients(**record()["values"])
