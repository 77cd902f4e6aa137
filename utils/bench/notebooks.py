"""Rows of the benchmark: how long every notebook takes from top to bottom, and its memory at most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil

from utils import publish
from utils.bench import Row

SECONDS, MEGABYTES = 60, 1500


def rows() -> Iterator[Row]:
    """Execute the lessons and solutions one by one, as `make notebooks` does; nothing is written."""
    for path in publish.notebooks_in("notebooks", "solutions"):
        before = psutil.cpu_times()
        _, seconds, megabytes = publish.measure(path)
        values = {"seconds": f"{seconds:.0f} s", "stolen": _stolen(before), "peak memory": f"{megabytes:.0f} MB"}
        kept = seconds <= SECONDS and megabytes <= MEGABYTES
        yield Row(str(path), values, f"{SECONDS} s, {MEGABYTES:,} MB", kept)


def _stolen(before: Any) -> str:
    """Return the share of the processors' time since `before` that the host gave to others; "" where none is known."""
    now = psutil.cpu_times()
    if not hasattr(now, "steal"):
        return ""
    return f"{(now.steal - before.steal) / (sum(now[:8]) - sum(before[:8])):.0%}"
