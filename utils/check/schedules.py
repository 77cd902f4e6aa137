"""Judge a learner's schedule: lists of actions, one a rank, one stage on each rank.

The order of judgement: can it be read, is it complete, can it run, how much does it hold, how long does it take. What
is found is what is off and a hint for that very mistake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from utils import schedule
from utils.schedule import Action, Schedule, ScheduleError, Simulation

Finding = tuple[str, str]
EXAMPLE = "Return a list of actions such as `2F5`: stage 2, forward, micro-batch 5"


@dataclass(frozen=True)
class Shape:
    """How many ranks, with one stage on each, and how many micro-batches. `split`: backward as `I` and `W`."""

    ranks: int
    micro_batches: int
    split: bool = False

    def __str__(self) -> str:
        p, m = self.ranks, self.micro_batches
        return f"{p} rank{'s' * (p > 1)}, {m} micro-batch{'es' * (m > 1)}"

    def held_by(self, rank: int) -> int:
        """Return how many activations 1F1B holds on this rank at most."""
        return min(self.micro_batches, self.ranks - rank)


def judge_schedule(
    shape: Shape, answers: Sequence[Any], judge: Callable[[Shape, Simulation], Finding | None]
) -> Finding | None:
    """Judge what a learner returned for each rank: first whether it is a schedule, then by `judge`, simulated."""
    try:
        rows = _read(shape, answers)
        _must_be_complete(shape, rows)
        made = _must_run(shape, rows)
    except _Found as found:
        return found.finding
    return judge(shape, schedule.simulate(made))


class _Found(Exception):
    """Carry a finding."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(hint)
        self.finding = what, hint


def _read(shape: Shape, answers: Sequence[Any]) -> list[list[Action]]:
    """Read lists of actions, each of its rank's stage."""
    rows: list[list[Action]] = []
    for rank, answer in enumerate(answers):
        at = f"{shape}, rank {rank}"
        if isinstance(answer, str) or not isinstance(answer, list | tuple):
            raise _Found("result", f"{EXAMPLE}. For {at} you return {type(answer).__name__}.")
        row = []
        for position, written in enumerate(answer):
            try:
                row.append(Action.read(written))
            except (ScheduleError, TypeError):
                raise _Found("result", f"{EXAMPLE}. For {at}, position {position} holds {written!r:.40}.") from None
            if (stage := row[-1].stage) != rank:
                raise _Found(
                    "result",
                    f"{at}, position {position}: `{row[-1]}` is work of stage {stage}. Rank {rank} holds stage {rank} "
                    "and no other: all of its actions begin with its own number.",
                )
        rows.append(row)
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Complete?


def _must_be_complete(shape: Shape, rows: Sequence[Sequence[Action]]) -> None:
    """Look for actions that do not exist, that are missing, or that are done twice."""
    m = shape.micro_batches
    for rank, row in enumerate(rows):
        at = f"{shape}, rank {rank}"
        if strange := next((a for a in row if not shape.split and a.kind in "IW"), None):
            raise _Found("result", f"{at}: `{strange}` is half a backward. 1F1B does the whole one at once: `B`.")
        beyond = next((a for a in row if a.micro_batch >= m), None)
        numbers = {a.micro_batch for a in row}
        if beyond and 0 not in numbers:
            raise _Found("result", f"{at}: micro-batches are numbered from 0 to {m - 1}, yours from {min(numbers)}.")
        if beyond:
            short = m < shape.ranks
            more = f" There are fewer micro-batches than ranks: no rank can start more than {m}." if short else ""
            raise _Found("result", f"{at}: `{beyond}` does not exist, the last micro-batch is {m - 1}.{more}")
        counted = Counter(row)
        if twice := next((a for a, times in counted.items() if times > 1), None):
            raise _Found("result", f"{at}: `{twice}` is done twice.")
        for i in range(m):
            done = {kind for kind in "FBIW" if counted[Action(rank, kind, i)]}
            if "B" in done and done & {"I", "W"}:
                raise _Found("result", f"{at}: micro-batch {i} has a whole backward `B` and half of one; `B` is both.")
            for kind in "FB" if "B" in done or not shape.split else "FIW":
                if kind not in done:
                    raise _Found("result", f"{at}: `{rank}{kind}{i}` is missing. {_why_missing(shape, row, kind)}")


def _why_missing(shape: Shape, row: Sequence[Action], kind: str) -> str:
    """Say why an action may be missing, from how many of each kind there are."""
    m = shape.micro_batches
    backward = sum(a.kind in "BI" for a in row)
    if kind == "F":
        return "Every micro-batch goes forward on every rank."
    if kind == "W":
        return (
            "Weights get their gradient from `W` alone. Those that were put off are still owed when the last `I` is "
            "done: do them then."
        )
    forward = sum(a.kind == "F" for a in row)
    return (
        f"{forward} forwards and {backward} backwards: when the last forward is done, some micro-batches still wait "
        f"for their way back. The pipeline has to drain: {m} backwards in all."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Can it run?


def _must_run(shape: Shape, rows: Sequence[Sequence[Action]]) -> Schedule:
    """Look for ranks that wait for ever; return the schedule if none does."""
    made = schedule.build([list(row) for row in rows])
    try:
        schedule.check(made)
    except ScheduleError as error:
        raise _Found("deadlock", f"{shape}: {_why_stuck(rows)}\n```\n{error}\n```") from None
    return made


def _why_stuck(rows: Sequence[Sequence[Action]]) -> str:
    for rank, row in enumerate(rows):
        place = {action: position for position, action in enumerate(row)}
        for action, position in place.items():
            stage, kind, i = action
            if kind in "BI" and place[Action(stage, "F", i)] > position:
                warm = position == 0
                return f"On rank {rank} `{action}` comes before `{Action(stage, 'F', i)}`: " + (
                    "it begins with a backward. Every rank starts at least one forward first, the last rank too."
                    if warm else "a backward needs its own forward."
                )  # fmt: skip
            if kind == "W" and place[Action(stage, "I", i)] > position:
                return (
                    f"On rank {rank} `{action}` comes before `{Action(stage, 'I', i)}`. The gradient of the weights "
                    "is made of what `I` has let in: `I` first."
                )
    if not _first_come_first_back(rows):
        return _LATEST_FIRST
    ahead = [_ahead(row) for row in rows]
    if ahead[0] < ahead[-1]:
        return _GROWS
    return "Every rank waits for something that another has not begun:"


_LATEST_FIRST = (
    "Gradients come back in the order in which the last rank makes them. You take them in another order (the latest "
    "first?): take the micro-batch that has waited longest."
)
_GROWS = (
    "The warm-up grows with the rank; it must shrink. The first rank waits longest for its first gradient, the last "
    "one can turn back at once."
)


def _first_come_first_back(rows: Sequence[Sequence[Action]]) -> bool:
    backwards = [[a.micro_batch for a in row if a.kind in "BI"] for row in rows]
    return all(order == sorted(order) for order in backwards)


# ---------------------------------------------------------------------------------------------------------------------
# How much, how long?


def judge_one_f_one_b(shape: Shape, found: Simulation) -> Finding | None:
    """Compare memory and time with 1F1B's: no more than p - rank activations, in (m + p - 1) slots."""
    p, m, held = shape.ranks, shape.micro_batches, found.peak_activations
    for rank, peak in enumerate(held):
        if peak > shape.held_by(rank):
            lead = f"{shape}: rank {rank} holds {peak} activations at once where {shape.held_by(rank)} are enough. "
            return "memory", lead + _why_too_many(shape, found, rank)
    slot = found.work[0] / m
    best = (m + p - 1) * slot
    if found.total > best + 1e-9:
        lead = (
            f"{shape}, a forward taking 1 and a backward 2: your step takes {found.total:g} where {best:g} is "
            "possible. "
        )
        return "time", lead + _why_slow(shape, found)
    return None


def _ahead(row: Sequence[Action]) -> int:
    """Count the forwards before the first backward."""
    return next((position for position, a in enumerate(row) if a.kind != "F"), len(row))


def _why_too_many(shape: Shape, found: Simulation, rank: int) -> str:
    p, m = shape.ranks, shape.micro_batches
    ahead = [_ahead(row) for row in found.schedule.ranks]
    if set(ahead) == {m} and m > p:
        return "All forwards come first, then all backwards: that is GPipe's order. Turn back as soon as you can."
    if len(set(ahead)) == 1 and ahead[0] == min(m, p) and p > 1:
        return (
            f"Every rank starts {ahead[0]} forwards before its first backward. Only rank 0 needs so many; the later a "
            "rank, the sooner its first gradient comes back."
        )
    if ahead[rank] == shape.held_by(rank) + 1:
        return (
            f"Its first backward comes after {ahead[rank]} forwards, one too many: after {shape.held_by(rank)} the "
            "memory is full. Then first a backward, which frees an activation, and after it a forward."
        )
    if ahead[0] < ahead[-1]:
        return _GROWS
    return f"Its warm-up has {ahead[rank]} forwards. How many ranks must a micro-batch pass until it comes back?"


def _why_slow(shape: Shape, found: Simulation) -> str:
    ahead = [_ahead(row) for row in found.schedule.ranks]
    if set(ahead) == {1} and shape.ranks > 1:
        return (
            "Every rank does one forward and then waits for its backward, so one rank works at a time. Let the first "
            "ranks start more micro-batches before their first backward."
        )
    if not _first_come_first_back(found.schedule.ranks):
        return _LATEST_FIRST
    wanted = [shape.held_by(rank) for rank in range(shape.ranks)]
    short = [rank for rank, (own, right) in enumerate(zip(ahead, wanted, strict=True)) if own < right]
    if short:
        return (
            f"The warm-up of rank {short[0]} has {ahead[short[0]]} forwards: too few. The first gradient is not back "
            f"yet, so the rank waits although it could start another. {wanted[short[0]]} fit into the memory."
        )
    return "The warm-up is right. Look in the picture for grey between two actions: which could stand there?"


def judge_filled(shape: Shape, found: Simulation) -> Finding | None:
    """Compare with the targets: 1F1B's memory (of its first rank), ZB-H1's time."""
    p, m, held = shape.ranks, shape.micro_batches, found.peak_activations
    room = min(p, m)
    if (peak := max(held)) > room:
        rank = held.index(peak)
        lead = f"{shape}: rank {rank} holds {peak} activations at once where {room} have room. "
        return "memory", lead + _why_too_full(shape, found, rank, room)
    best = schedule.simulate(schedule.build("zb-h1", p, m)).total
    if found.total > best + 1e-9:
        lead = f"{shape}, each pass taking 1: your step takes {found.total:g}, the target is {best:g}. "
        return "time", lead + _why_not_filled(shape, found)
    return None


def _why_too_full(shape: Shape, found: Simulation, rank: int, room: int) -> str:
    row = found.schedule.ranks[rank]
    ahead = _ahead(row)
    weights = [position for position, a in enumerate(row) if a.kind == "W"]
    inputs = [position for position, a in enumerate(row) if a.kind == "I"]
    forwards = [position for position, a in enumerate(row) if a.kind == "F"]
    if ahead == shape.micro_batches > room:
        return "All forwards come first, which is GPipe's order. Turn back as soon as you can, as 1F1B does."
    if ahead > room:
        return (
            f"It starts {ahead} forwards before its first backward. More forwards at the start fill the bubble too, "
            "but they are paid in memory: at most p - rank."
        )
    if weights and weights[0] > max(inputs[-1], forwards[-1]):
        return (
            "All `W` wait until the end. An activation is held until its `W` is done: put off only as many as there "
            "is room for."
        )
    owing = [_most_owed(row) for row in found.schedule.ranks]
    if owing[0] > owing[-1]:
        return _TURN_ROUND
    return (
        "Each `W` that is put off holds an activation. Rank r has p - r forwards under way, so it can owe r `W` at a "
        "time; then it has to do one for each new forward."
    )


def _why_not_filled(shape: Shape, found: Simulation) -> str:
    rows = found.schedule.ranks
    if not _first_come_first_back(rows):
        return _LATEST_FIRST
    if any(a.kind == "B" for row in rows for a in row):
        return (
            "`B` sends its gradient on only when the weights' part is done too. Split it: `I` sends the gradient one "
            "slot sooner, and `W` can wait."
        )
    ahead = [_ahead(row) for row in rows]
    if any(own < shape.held_by(rank) for rank, own in enumerate(ahead)):
        rank = next(rank for rank, own in enumerate(ahead) if own < shape.held_by(rank))
        return f"Rank {rank} starts {ahead[rank]} forwards before its first backward; {shape.held_by(rank)} are right."
    owing = [_most_owed(row) for row in rows]
    if max(owing) <= 1:
        return (
            "Each `W` follows its `I` at once. That way the last ranks keep busy early, when others wait for their "
            "gradients, and idle at the end. Put `W` off where that lets the rank send its next gradient sooner."
        )
    if shape.ranks > 1 and owing[0] > owing[-1]:
        return _TURN_ROUND
    if len(set(owing)) == 1:
        return f"Every rank puts off {owing[0]} `W`. The room is unequal: rank r has p - r forwards under way."
    return "Look in the picture for grey at the end of a rank: which `W` could have waited until then?"


_TURN_ROUND = (
    "The first ranks put off most `W`. Turn it round: everybody waits for the last rank's gradients, and the last rank "
    "has most room."
)


def _most_owed(row: Sequence[Action]) -> int:
    owed = most = 0
    for action in row:
        owed += (action.kind == "I") - (action.kind == "W")
        most = max(most, owed)
    return most
