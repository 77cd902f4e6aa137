"""The cell magic %%ranks."""

from __future__ import annotations

import re
from typing import Any

from utils.ranks.explain import RanksError

USAGE = "Write %%ranks for all ranks, %%ranks 2 for one, %%ranks 0,2 or %%ranks 0-2 for some."


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

    shell.register_magic_function(ranks, "cell", "ranks")
