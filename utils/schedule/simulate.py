"""How long a schedule takes, who waits, and what is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from utils.schedule.actions import BACKWARD, FORWARD, INPUT, WEIGHT, Action, Schedule, ScheduleError
from utils.schedule.check import check, in_order
from utils.schedule.run import Record, Run

Cost = float | Sequence[float]


@dataclass(frozen=True)
class Simulation:
    """Hold when every action starts and ends, and what follows from that. Times are in the unit of the costs.

    times: start and end by action.
    """

    schedule: Schedule
    times: dict[Action, tuple[float, float]] = field(repr=False)

    @cached_property
    def spans(self) -> list[tuple[float, float]]:
        """Give the first start and the last end of each rank."""
        rows = [[self.times[a] for a in row] for row in self.schedule.ranks]
        return [(row[0][0], max(end for _, end in row)) if row else (0.0, 0.0) for row in rows]

    @cached_property
    def work(self) -> list[float]:
        """Give the time each rank computes."""
        return [sum(end - start for start, end in map(self.times.__getitem__, row)) for row in self.schedule.ranks]

    @property
    def total(self) -> float:
        """Give the time from the first start to the last end on any rank."""
        return max(end for _, end in self.spans) - min(start for start, _ in self.spans)

    @property
    def slowest(self) -> int:
        """Name the rank with the longest time from its first start to its last end."""
        return max(range(len(self.spans)), key=lambda rank: self.spans[rank][1] - self.spans[rank][0])

    @property
    def bubble(self) -> float:
        """Give idle over total time of the slowest rank, from its first start to its last end.

        For 1F1B with free transfers (p-1)/(m+p-1). This is the bubble rate of Qi et al., arXiv:2401.10241, section 5.2.
        """
        start, end = self.spans[self.slowest]
        return 1 - self.work[self.slowest] / (end - start)

    @property
    def bubble_over_ideal(self) -> float:
        """Give idle over computing time of the slowest rank: for 1F1B with free transfers (p-1)/m.

        This is the bubble fraction of Narayanan et al., arXiv:2104.04473, section 2.2.
        """
        return self.bubble / (1 - self.bubble)

    @property
    def idle(self) -> list[float]:
        """Give for each rank the share of the whole step in which it does not compute."""
        return [1 - work / self.total for work in self.work]

    @cached_property
    def held(self) -> list[list[tuple[float, int]]]:
        """Give for each rank how many activations it holds, as steps in time: (time, count from then on).

        One is what one stage keeps of one micro-batch, from the start of its forward to the end of its last backward.
        """
        found = []
        for row in self.schedule.ranks:
            changes = [(self.times[a][0], 1) for a in row if a.kind == FORWARD]
            changes += [(self.times[a][1], -1) for a in row if a.kind in (BACKWARD, WEIGHT)]
            count, steps = 0, {0.0: 0}
            for time, change in sorted(changes):  # what ends and starts at one instant is one step
                count += change
                steps[time] = count
            found.append(list(steps.items()))
        return found

    @property
    def peak_activations(self) -> list[int]:
        """Give for each rank the largest number of activations it holds at once: stages times micro-batches."""
        return [max(count for _, count in steps) for steps in self.held]


def simulate(
    schedule: Schedule,
    forward: Cost = 1.0,
    backward_input: Cost = 1.0,
    backward_weight: Cost = 1.0,
    transfer: float = 0.0,
    hop: float | None = None,
) -> Simulation:
    """Simulate a schedule: each rank does its list in order, each action as soon as what it needs has arrived.

    forward, backward_input, backward_weight: what one stage takes for one micro-batch, for all stages alike or a list
    by stage. A whole backward takes the sum of both. transfer: how long a message between ranks is on its way; it
    delays the action that needs it and occupies nobody. hop: the same for messages between ranks that are no
    neighbours (interleaving: from the last rank round to the first); as transfer if not given.
    Raises ScheduleError for a schedule that cannot run, and for costs that are negative or of the wrong number.
    """
    check(schedule)
    costs = {FORWARD: _by_stage("forward", forward, schedule.stages)}
    costs[INPUT] = _by_stage("backward_input", backward_input, schedule.stages)
    costs[WEIGHT] = _by_stage("backward_weight", backward_weight, schedule.stages)
    costs[BACKWARD] = [i + w for i, w in zip(costs[INPUT], costs[WEIGHT], strict=True)]
    if transfer < 0 or (hop is not None and hop < 0):
        raise ScheduleError("transfer and hop are times: they cannot be negative.")
    return _laid_out(schedule, lambda action: costs[action.kind][action.stage], transfer, hop)


def _laid_out(
    schedule: Schedule, cost: Callable[[Action], float], transfer: float, hop: float | None = None
) -> Simulation:
    """Lay out the actions in time, each as soon as its rank is free and what it needs has arrived."""
    times: dict[Action, tuple[float, float]] = {}
    free = [0.0] * len(schedule.ranks)
    for action in in_order(schedule):
        rank = schedule.placement[action.stage]
        start = free[rank]
        for need in schedule.needs(action):
            source = schedule.placement[need.stage]
            away = 0.0 if source == rank else transfer if hop is None or abs(source - rank) == 1 else hop
            start = max(start, times[need][1] + away)
        free[rank] = start + cost(action)
        times[action] = (start, free[rank])
    return Simulation(schedule, times)


def replay(schedule: Schedule, done: Sequence[Run], transfer: float = 0.0) -> Simulation:
    """Simulate a schedule with the processor seconds that each action of a real run took.

    done: what `run` returned, by rank. So it would have gone with a processor for every rank, whatever the clock says
    where ranks outnumber processors. transfer: seconds, as in `simulate`.
    """
    check(schedule)
    seconds = {record.action: record.seconds for record in _records(schedule, done)}
    return _laid_out(schedule, seconds.__getitem__, transfer)


def recorded(schedule: Schedule, done: Sequence[Run]) -> Simulation:
    """Give a real run by the machine's clock, in seconds from its first start, in the form of a simulation.

    done: what `run` returned, by rank; all ranks on one machine, whose clock they share.
    """
    records = _records(schedule, done)
    first = min(record.start for record in records)
    return Simulation(schedule, {r.action: (r.start - first, r.end - first) for r in records})


def _records(schedule: Schedule, done: Sequence[Run]) -> list[Record]:
    """Give the records of all ranks. Raises ScheduleError unless they are those of this schedule."""
    rows = [tuple(record.action for record in one.records) for one in done]
    if tuple(rows) != schedule.ranks:
        raise ScheduleError(f"These are not the runs of {schedule.name} by all its ranks, gathered in order.")
    return [record for one in done for record in one.records]


def _by_stage(name: str, cost: Cost, stages: int) -> list[float]:
    costs = [float(cost)] * stages if isinstance(cost, int | float) else [float(c) for c in cost]
    if len(costs) != stages:
        raise ScheduleError(f"{name}: {len(costs)} costs for {stages} stages; give one number, or one for each stage.")
    if min(costs) < 0:
        raise ScheduleError(f"{name}: a cost cannot be negative: {min(costs)}")
    return costs
