"""What the learner reads when a cell fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class State:
    """Where one rank stood when the cell ended: `status` is "ok", "raised", "waited", "died" or "interrupted"."""

    status: str
    line: int | None = None
    op: str = ""
    name: str = ""
    message: str = ""


class RanksError(RuntimeError):
    """What went wrong on the ranks. Its text is the explanation; a notebook shows it without a traceback."""

    def __init__(self, text: str, cause: str = "error", states: Mapping[int, State] | None = None):
        super().__init__(text)
        self.cause = cause
        self.states: dict[int, State] = dict(states or {})

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


def names(ranks: Iterable[int]) -> str:
    """Return "rank 2" or "ranks 0-2, 5"."""
    runs: list[list[int]] = []
    for r in sorted(ranks):
        if runs and r == runs[-1][1] + 1:
            runs[-1][1] = r
        else:
            runs.append([r, r])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return ("rank " if len(runs) == 1 and runs[0][0] == runs[0][1] else "ranks ") + text


def folded(by_rank: Mapping[int, Any]) -> list[tuple[list[int], Any]]:
    """Return (ranks, value) with the ranks of equal values together, in order of their first rank."""
    groups: dict[Any, list[int]] = {}
    for r, value in sorted(by_rank.items()):
        groups.setdefault(value, []).append(r)
    return [(ranks, value) for value, ranks in groups.items()]
