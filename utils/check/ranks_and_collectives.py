"""Checks of the exercises on ranks and collectives: what each function returns, whom its messages go to, their bytes.

A trial runs the learner's function on the first n ranks, for several n. On every rank a dispatch mode writes down each
send and receive as torch issues it, so the record does not depend on how the function is written. The kernel then
judges (`collective_mistakes`): result, messages, bytes, in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from utils.check import collective_mistakes as mistakes
from utils.check.collective_mistakes import Case, Finding
from utils.check.messages import Message, Seen, recorder, timeline
from utils.check.verdict import NotAttempted, NotYet, exercise

NEEDED = 5  # ranks: enough for a tree of three rounds, and not a power of two


# ---------------------------------------------------------------------------------------------------------------------
# On every rank

_progress = SimpleNamespace(results=[])


def run_trials(task: str, name: str, cases: Sequence[Case]) -> list[Seen] | str:
    """Run the function called `name` of the learner on this rank, once a case; return what was seen, or why not."""
    import torch
    import torch.distributed as dist

    from utils.ranks import engine

    function: Any = engine.namespace().get(name)
    rank, written = dist.get_rank(), function is not None
    results: list[Seen] = []
    _progress.results = results
    for case in cases:
        dist.barrier()
        seen = Seen()
        results.append(seen)
        if rank >= case.n or not written:
            continue
        mine = torch.tensor(case.numbers(rank), dtype=getattr(torch, case.dtype))
        mine, rest = _arguments(task, case, mine)
        try:
            with recorder(seen.log):
                value = function(mine, *rest)
        except NotImplementedError:
            written = False  # and on to the next barrier, where the others wait
            continue
        seen.kind, seen.dtype = type(value).__name__, str(getattr(value, "dtype", ""))[6:]
        seen.returned = value.flatten().tolist() if isinstance(value, torch.Tensor) else None
        seen.inplace, seen.finished = mine.flatten().tolist(), True
    dist.barrier()
    return results if written else "not written"


def _arguments(task: str, case: Case, mine: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the tensor of this rank and the further arguments of the function of `task`."""
    if task == "tree_broadcast":
        return mine, (case.root, case.n)
    if task == "ring_all_gather":
        return mine, (list(case.lengths),)
    if task == "all_to_all":
        return mine.reshape(case.n, -1), (case.n,)
    return mine, (case.n,)


def progress() -> list[Seen]:
    """Return what this rank has seen in the trials of the last check, the one it was in when it stopped included."""
    return _progress.results


# ---------------------------------------------------------------------------------------------------------------------
# The four exercises


@dataclass(frozen=True)
class Task:
    """An exercise: its trials in the order in which they are judged, and what judges them."""

    cases: tuple[Case, ...]
    judge: Callable[[Case, Sequence[Seen], Sequence[Case]], Finding | None]


def _task(judge: Callable[[Case, Sequence[Seen], Sequence[Case]], Finding | None], *cases: Case) -> Task:
    return Task(tuple(replace(case, salt=number) for number, case in enumerate(cases)), judge)


TASKS = {
    "tree_broadcast": _task(
        mistakes.judge_tree,
        Case(2, 3), Case(4, 6), Case(4, 6, root=2), Case(3, 4), Case(3, 4, root=1), Case(5, 5), Case(5, 5, root=3),
        Case(4, 3, root=1, dtype="float64"), Case(1, 2),
    ),
    "ring_all_reduce": _task(
        mistakes.judge_all_reduce,
        Case(4, 8), Case(2, 4), Case(4, 10), Case(4, 3), Case(3, 6), Case(3, 7, dtype="float64"), Case(5, 11),
        Case(5, 1), Case(1, 3),
    ),
    "ring_all_gather": _task(
        mistakes.judge_all_gather,
        Case(2, lengths=(3, 3)), Case(4, lengths=(2, 2, 2, 2)), Case(4, lengths=(3, 1, 4, 2)),
        Case(3, lengths=(1, 5, 2)), Case(5, lengths=(2, 0, 3, 1, 4)), Case(3, lengths=(2, 1, 3), dtype="float64"),
        Case(1, lengths=(4,)),
    ),
    "all_to_all": _task(
        mistakes.judge_all_to_all,
        Case(2, 4), Case(4, 8), Case(3, 9), Case(5, 10), Case(4, 4, dtype="float64"), Case(1, 3),
    ),
}  # fmt: skip


def _check(task: str, name: str) -> NotYet | NotAttempted | None:
    """Run the trials of `task` with the learner's function called `name`, and judge what was seen."""
    from utils import ranks

    try:
        answers = ranks.call(run_trials, task, name, TASKS[task].cases)
    except ranks.RanksError as error:
        return NotYet(*_failure(task, error))
    if "not written" in answers:
        return NotAttempted()
    finding = _judged(TASKS[task], [list(seen) for seen in zip(*answers, strict=True)])
    return NotYet(*finding) if finding else None


def _judged(exercise: Task, trials: Sequence[Sequence[Seen]]) -> Finding | None:
    """Judge finished trials in their order; return the first finding."""
    done: list[Case] = []
    for case, seen in zip(exercise.cases, trials, strict=False):
        by_rank = seen[: case.n]
        others = any(op not in ("send", "recv") for s in by_rank for op, *_ in s.log)
        finding = (mistakes.foreign(case, by_rank) if others else None) or exercise.judge(case, by_rank, done)
        finding = finding or mistakes.foreign(case, by_rank) or mistakes.unmatched(by_rank)
        if finding:
            return finding
        done.append(case)
    return None


def _failure(task: str, error: Any) -> Finding:
    """Explain trials that did not come to an end."""
    from utils import ranks

    exercise = TASKS[task]
    if error.cause == "interrupted":
        return "interrupted", f"You interrupted the check. What the ranks were doing:\n{error}"
    records = ranks.call(progress)
    reached = max(len(results) for results in records)
    if reached == 0:
        return "error", str(error)
    case = exercise.cases[reached - 1]
    if all(len(results) == reached for results in records):
        whole = [list(seen) for seen in zip(*records, strict=True)]
        if found := _judged(exercise, whole[:-1]):
            return found
        own = [state for state in error.states.values() if state.status == "raised" and error.cause == "raised"]
        if not own:
            return mistakes.stuck(case, whole[-1][: case.n])
    for rank, state in sorted(error.states.items()):
        if state.status == "raised":
            return "error", f"{case}: rank {rank} raised {state.name}: {state.message}"
    return "error", str(error)


JUDGES = ("result", "messages", "bytes")


@exercise(judges=JUDGES, ranks=NEEDED)
def tree_broadcast(name: str) -> NotYet | NotAttempted | None:
    """A broadcast in ceil(log2 n) rounds, for any n and any root."""
    return _check("tree_broadcast", name)


@exercise(judges=JUDGES, ranks=NEEDED)
def ring_all_reduce(name: str) -> NotYet | NotAttempted | None:
    """A ring all-reduce for any n and any length."""
    return _check("ring_all_reduce", name)


@exercise(judges=JUDGES, ranks=NEEDED)
def ring_all_gather(name: str) -> NotYet | NotAttempted | None:
    """A ring all-gather of pieces of any length."""
    return _check("ring_all_gather", name)


@exercise(judges=JUDGES, ranks=NEEDED)
def all_to_all(name: str) -> NotYet | NotAttempted | None:
    """An exchange in which row d of every rank goes to rank d."""
    return _check("all_to_all", name)


def trace(task: str, n: int, **sizes: Any) -> list[Message] | None:
    """Run the learner's function of `task` once on the first n ranks and return its messages, in logical time.

    `sizes` are `length` or `lengths`, and `root`. Return None, and say why, if there is nothing to show. A function
    that does not come to an end leaves the messages that it had begun, and the explanation is printed.
    """
    from utils import ranks

    case = Case(n, **sizes)
    try:
        seen = ranks.call(run_trials, task, task, [case])
        if "not written" in seen:
            return None
    except ranks.RanksError as error:
        print(error)
        seen = ranks.call(progress)
    return timeline([by_rank[0] for by_rank in seen[:n] if by_rank])
