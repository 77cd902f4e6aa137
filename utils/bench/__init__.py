"""Measure what the course promises about itself: `python -m utils.bench`, or `make bench`.

Names of rooms measure those alone: `python -m utils.bench ranks`.

Each room keeps its rows in a module of its own, named in `ROOMS`: a function `rows()` that yields `Row`s. Figures are
measured side by side in one run, because those of two runs, or two machines, cannot be compared.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

ROOMS = ("ranks", "inside_ddp", "sharded_data_parallelism", "tensor_parallelism", "notebooks")  # modules beside this


@dataclass
class Row:
    """One line: what was measured, a figure (with its unit) by column, the budget, and whether it is kept."""

    what: str
    values: dict[str, str] = field(default_factory=dict)
    budget: str = ""
    kept: bool | None = None


def rows(rooms: tuple[str, ...] = ROOMS) -> Iterator[Row]:
    """Measure the rows of these rooms, one after the other."""
    for room in rooms:
        yield from importlib.import_module(f"{__name__}.{room}").rows()


def table(measured: list[Row]) -> str:
    """Return the rows as a plain table."""
    columns = list(dict.fromkeys(column for row in measured for column in row.values))
    lines = [["", *columns, "budget", ""]]
    for row in measured:
        mark = "" if row.kept is None else "kept" if row.kept else "OVER"
        lines.append([row.what, *(row.values.get(column, "") for column in columns), row.budget, mark])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    texts = []
    for line in lines:
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:-2], widths[1:-2], strict=True))]
        texts.append("  ".join([*cells, line[-2].ljust(widths[-2]), line[-1]]).rstrip())
    return "\n".join(texts)


def main() -> None:
    """Measure everything, or the rooms that the command line names, and print a table for each."""
    rooms = tuple(sys.argv[1:]) or ROOMS
    if unknown := [room for room in rooms if importlib.util.find_spec(f"{__name__}.{room}") is None]:
        raise SystemExit(f"There is no room {unknown[0]!r}. There are: {', '.join(ROOMS)}")
    begun = time.monotonic()
    system = f"{platform.system()}, Python {platform.python_version()}, {os.cpu_count()} processors"
    if hasattr(os, "getloadavg"):
        system += f", load before {os.getloadavg()[0]:.1f}"
    print(f"{system}. Takes a few minutes.", file=sys.stderr)
    print(f"\n{system}")
    for room in rooms:
        measured = []
        for row in rows((room,)):
            measured.append(row)
            print(f"  {time.monotonic() - begun:4.0f} s  {row.what}", file=sys.stderr)
        print(f"\n{table(measured)}", flush=True)

