"""Rows of the benchmark: how long every notebook takes from top to bottom, and its memory at most."""

from __future__ import annotations

from collections.abc import Iterator

from utils import publish
from utils.bench import Row

SECONDS, MEGABYTES = 60, 1500


def rows() -> Iterator[Row]:
    """Execute the lessons and solutions one by one, as `make notebooks` does; nothing is written."""
    for path in publish.notebooks_in("notebooks", "solutions"):
        _, seconds, megabytes = publish.measure(path)
        values = {"seconds": f"{seconds:.0f} s", "peak memory": f"{megabytes:.0f} MB"}
        kept = seconds <= SECONDS and megabytes <= MEGABYTES
        yield Row(str(path), values, f"{SECONDS} s, {MEGABYTES:,} MB", kept)
