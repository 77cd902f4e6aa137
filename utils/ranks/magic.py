"""The cell magic %%ranks, and a word where it was forgotten or stands too low."""

from __future__ import annotations

import re
import sys
from typing import Any

from utils.ranks.explain import RanksError, names

USAGE = "Write %%ranks for all ranks, %%ranks 2 for one, %%ranks 0,2 or %%ranks 0-2 for some."


MADE = ("rank", "world_size", "dist", "device")  # on every rank, by `engine.join`


def targets(line: str) -> list[int] | None:
    """Return the ranks named on the magic's line ("0,2", "1-3"), or None for all of them."""
    words = re.split(r"[,\s]+", line.strip())
    if words in ([""], ["all"]):
        return None
    chosen: set[int] = set()
    for word in filter(None, words):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if not found:
            raise RanksError(f"%%ranks {line}: {word!r} is not a rank. {USAGE}", cause="usage")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise RanksError(f"%%ranks {line}: {word!r} counts down. {USAGE}", cause="usage")
        chosen.update(range(first, last + 1))
    return sorted(chosen)


def register(shell: Any) -> None:
    """Make %%ranks known to this IPython shell."""

    def ranks(line: str, cell: str) -> None:
        """Run this cell on every rank, or on the ranks named: %%ranks 0,2."""
        from utils.ranks import cells, session

        # JupyterLab numbers the line of the magic itself as 1.
        cells.run(session.current(), cell, targets(line), first_line=2, alone=True)

    def too_low(line: str) -> None:
        """Say where %%ranks belongs: IPython takes it for a line magic of the name "%ranks" if anything is above it."""
        raise RanksError(
            "%%ranks must be the first line of its cell; here something stands above it, perhaps a comment. "
            "The lines above it ran in the notebook's own process, those below it did not run.", cause="usage",
        )  # fmt: skip

    shell.register_magic_function(ranks, "cell", "ranks")
    shell.register_magic_function(too_low, "line", "%ranks")
    shell.events.register("post_run_cell", _look_for_forgotten)


def _look_for_forgotten(result: Any) -> None:
    """Add a word below a NameError in the notebook's own process if the name stands on the ranks."""
    name = getattr(result.error_in_exec, "name", None)
    if isinstance(result.error_in_exec, NameError) and name and (word := forgotten(name)):
        print(word, file=sys.stderr)


def forgotten(name: str) -> str:
    """Say which ranks have a variable of this name, and how to use it there or here; "" if none has.

    If ranks have died since the last cell, say that instead.
    """
    from utils.ranks import cells, session

    try:
        there = cells.gather(session.current(), f"{name!r} in globals()")
    except RanksError as error:
        if error.cause != "usage":  # a rank has died: whoever hears of it first has to say so
            return str(error)
        made = "`ranks.start(4)` makes it on every rank, and then a cell that begins with %%ranks can use it."
        return f"`{name}` is no name of the notebook: {made}" if name in MADE else ""
    holders = [rank for rank, has in enumerate(there) if has]
    if not holders:
        return ""
    return (
        f"`{name}` stands on {names(holders)}, and this cell ran in the notebook's own process. Begin it with %%ranks "
        f"to run it there, or fetch the values: ranks.gather({name!r})."
    )
