"""What a schedule is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

FORWARD, BACKWARD, INPUT, WEIGHT = "F", "B", "I", "W"
KINDS = {
    FORWARD: "forward",
    BACKWARD: "backward",
    INPUT: "backward for the inputs",
    WEIGHT: "backward for the weights",
}


class ScheduleError(ValueError):
    """Say what is wrong with a schedule: the rank, the position in its list, the action."""


class Action(NamedTuple):
    """Name a piece of work: what a stage does to a micro-batch. Written `2F5`: stage 2, forward, micro-batch 5."""

    stage: int
    kind: str
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.micro_batch}"

    @classmethod
    def read(cls, written: str | Sequence) -> Action:
        """Read `"2F5"` or `(2, "F", 5)`. Raises ScheduleError where it is neither."""
        if isinstance(written, str):
            match = re.fullmatch(r"\s*(\d+)([FBIW])(\d+)\s*", written)
            parts = match.groups() if match else ()
        else:
            parts = tuple(written)
        try:
            stage, kind, micro_batch = parts
            if kind not in KINDS:
                raise ValueError
            return cls(int(stage), kind, int(micro_batch))
        except ValueError:
            kinds = ", ".join(f"{kind} {meaning}" for kind, meaning in KINDS.items())
            message = f"{written!r} is not an action. Write stage, kind, micro-batch, as in '2F5'; kinds: {kinds}"
            raise ScheduleError(message) from None


@dataclass(frozen=True)
class Schedule:
    """Hold the work of a training step: for every rank its actions in order.

    ranks: one tuple of actions a rank. placement: the rank that holds each stage. stages, micro_batches: how many.
    """

    name: str
    ranks: tuple[tuple[Action, ...], ...]
    placement: tuple[int, ...]
    micro_batches: int

    @property
    def stages(self) -> int:
        """Count the stages."""
        return len(self.placement)

    @cached_property
    def _where(self) -> dict[Action, tuple[int, int]]:
        return {a: (rank, position) for rank, row in enumerate(self.ranks) for position, a in enumerate(row)}

    def where(self, action: Action) -> tuple[int, int] | None:
        """Find the rank and position of an action; None if no rank does it."""
        return self._where.get(action)

    def backward_of(self, stage: int, micro_batch: int) -> Action:
        """Name the action whose end sends the inputs' gradient: `B` where the stage does both at once, else `I`."""
        whole = Action(stage, BACKWARD, micro_batch)
        return whole if whole in self._where else Action(stage, INPUT, micro_batch)

    def needs(self, action: Action) -> list[Action]:
        """List what must have ended before an action can start, whichever rank does it."""
        stage, kind, micro_batch = action
        if kind == FORWARD:
            return [Action(stage - 1, FORWARD, micro_batch)] if stage else []
        if kind == WEIGHT:
            return [Action(stage, INPUT, micro_batch)]
        own = [Action(stage, FORWARD, micro_batch)]
        return own if stage == self.stages - 1 else [*own, self.backward_of(stage + 1, micro_batch)]

    def messages(self) -> list[tuple[Action, int, int]]:
        """List what is sent: the action whose result leaves, the rank it leaves, the rank it goes to."""
        found = []
        for action, (rank, _) in self._where.items():
            for need in self.needs(action):
                source = self.placement[need.stage]
                if source != rank:
                    found.append((need, source, rank))
        return found

    def __str__(self) -> str:
        rows = [f"rank {rank}: {' '.join(map(str, row))}" for rank, row in enumerate(self.ranks)]
        return "\n".join([f"{self.name}: {self.stages} stages, {self.micro_batches} micro-batches", *rows])


def from_rows(rows: Iterable[Iterable[str | Sequence]], name: str = "yours") -> Schedule:
    """Make a schedule of plain lists, one a rank: `[["0F0", "0B0"], ["1F0", "1B0"]]`.

    Where a stage stands follows from the lists. Nothing is checked here but that every action can be read and every
    stage stands on one rank; `check` does the rest.
    """
    ranks = tuple(tuple(Action.read(written) for written in row) for row in rows)
    homes: dict[int, int] = {}
    for rank, row in enumerate(ranks):
        for position, action in enumerate(row):
            if homes.setdefault(action.stage, rank) != rank:
                at = f"rank {rank}, position {position}: {action}"
                home = homes[action.stage]
                raise ScheduleError(f"{at} is work of stage {action.stage}, which stands on rank {home}.")
    if not homes:
        raise ScheduleError("The schedule is empty: no rank has any action.")
    if missing := sorted(set(range(max(homes) + 1)) - set(homes)):
        raise ScheduleError(f"Stage {missing[0]} has no action; stages are numbered from 0 without gaps.")
    placement = tuple(homes[stage] for stage in range(len(homes)))
    return Schedule(name, ranks, placement, 1 + max(a.micro_batch for row in ranks for a in row))
