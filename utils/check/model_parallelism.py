"""Checks of the exercises on model parallelism.

`across_the_cuts` and `in_micro_batches` run on the ranks (see `utils.check.pipelines`) and are judged by the gradients
they leave, their messages and their bytes. `balance` and `idle_share` are plain functions, judged on many cases against
an exact answer.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from utils.check.pipeline_judge import explain_stop, judge_messages, judge_order, judge_result
from utils.check.pipelines import Case, Seen, idle_share_of, last_seen, replay, run_trial
from utils.check.verdict import NotAttempted, NotYet, exercise

RANKS = 4
Finding = tuple[str, str]

WHOLE = (
    Case((0, 1, 2), (1, 1, 1)),
    Case((0, 1), (1, 2), sequences=5, context=7),
    Case((0, 1, 2, 3), (1, 1, 1, 1), width=4),
    Case((2, 0, 3), (2, 1, 1), sequences=4),
    Case((1,), (2,)),
)
MICRO = (
    Case((0, 1, 2), (1, 1, 1), micro_batches=3),
    Case((0, 1), (1, 1), sequences=8, micro_batches=4),
    Case((0, 1, 2, 3), (1, 1, 1, 1), sequences=6, micro_batches=6),
    Case((0, 1, 2), (1, 1, 1), sequences=7, micro_batches=3),
    Case((3, 1), (1, 1), sequences=6, micro_batches=4),
    Case((0, 1, 2), (1, 1, 1), sequences=4, micro_batches=1),
)


@exercise(judges=("result", "messages", "bytes"), ranks=RANKS)
def across_the_cuts(name: str) -> NotYet | NotAttempted | None:
    """Activations forward, gradients back, and the two uses of the tied weight added, for any chain of parts."""
    return _run(name, WHOLE)


@exercise(judges=("result", "messages", "bytes", "order"), ranks=RANKS)
def in_micro_batches(name: str) -> NotYet | NotAttempted | None:
    """The same in micro-batches that overlap, exact also where they are unequal."""
    return _run(name, MICRO)


def _run(name: str, cases: Sequence[Case]) -> NotYet | NotAttempted | None:
    """Run the trials one by one and return the first finding."""
    from utils import ranks

    done: list[Case] = []
    for case in cases:
        try:
            answers = ranks.call(run_trial, name, case)
        except ranks.RanksError as error:
            if error.cause == "interrupted":
                raise
            by_part = _by_part(case, ranks.call(last_seen))
            return NotYet(*explain_stop(case, by_part, done, error))
        if "not written" in answers:
            return NotAttempted()
        by_part = _by_part(case, answers)
        finding = judge_result(case, by_part, done) or judge_messages(case, by_part) or judge_order(case, by_part)
        finding = finding or _unwaited(case, by_part)
        if finding:
            return NotYet(*finding)
        done.append(case)
    return None


def _unwaited(case: Case, by_part: Sequence[Seen]) -> Finding | None:
    """Look for sends whose end nobody awaits."""
    for place, seen in enumerate(by_part):
        if seen.unwaited:
            begun = f"{seen.unwaited} message{'s' * (seen.unwaited > 1)}"
            return "messages", (
                f"{case}: rank {case.chain[place]} begins {begun} with isend and never waits for the end: isend "
                "without wait(). Until then the tensor must neither change nor go. "
                "Keep each work and its tensor, and call work.wait() at the end."
            )
    return None


def _by_part(case: Case, answers: Sequence[Seen]) -> list[Seen]:
    return [answers[rank] for rank in case.chain]


# ---------------------------------------------------------------------------------------------------------------------
# Plain functions


@exercise(judges=("result", "slowest part"))
def balance(function: Callable[[list[float], int], Any]) -> NotYet | None:
    """Contiguous parts, none empty, whose slowest is as fast as any cut can make it."""
    for costs, parts in _balance_cases():
        answer = function(list(costs), parts)
        if finding := _not_a_cut(answer, costs, parts) or _not_the_best(answer, costs, parts):
            return NotYet(*finding)
    return None


def _balance_cases() -> list[tuple[list[float], int]]:
    chance = random.Random(7)
    cases: list[tuple[list[float], int]] = [
        ([1, 1, 1, 1, 1, 1], 3), ([2, 2, 2, 2, 2, 8], 3), ([5, 1, 1, 1, 1, 1], 2), ([3, 1, 1, 3, 1, 1, 6], 4),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 3), ([4, 4, 4], 3), ([7, 3], 1), ([0.5, 0.25, 0.25, 0.75, 0.25], 2),
        ([9, 1, 1, 1, 1, 1, 1, 9], 4),
    ]  # fmt: skip
    for _ in range(150):
        parts = chance.randint(1, 6)
        layers = parts + chance.randint(0, 9)
        whole = chance.random() < 0.5
        costs = [chance.randint(1, 9) if whole else round(chance.uniform(0.1, 3.0), 3) for _ in range(layers)]
        cases.append((costs, parts))
    return cases


def _not_a_cut(answer: Any, costs: Sequence[float], parts: int) -> Finding | None:
    asked = f"costs {_short(costs)} in {parts} part{'s' * (parts > 1)}"
    try:
        pieces = [[int(layer) for layer in part] for part in answer]
    except TypeError:
        return "result", f"Return a list of parts, each a list of layer numbers; got {type(answer).__name__} ({asked})."
    layers = [layer for part in pieces for layer in part]
    if len(pieces) != parts:
        few = " Filling up to the mean can use fewer parts: then force the rest open, each with a layer."
        return "result", f"{asked}: you return {len(pieces)} parts.{few * (len(pieces) < parts)}"
    if any(not part for part in pieces):
        return "result", f"{asked}: a part is empty, so its rank has nothing to do. Leave at least one layer for each."
    if sorted(layers) != list(range(len(costs))):
        lost = sorted(set(range(len(costs))) - set(layers))
        return "result", f"{asked}: " + (f"layer {lost[0]} is in no part." if lost else "a layer is in two parts.")
    if layers != list(range(len(costs))):
        return "result", (
            f"{asked}: your parts are {pieces}. Layers run in order, so each part must hold neighbours, in order; "
            "otherwise activations would go to and fro."
        )
    return None


def _not_the_best(answer: Any, costs: Sequence[float], parts: int) -> Finding | None:
    sums = [sum(costs[layer] for layer in part) for part in answer]
    best = best_slowest(tuple(costs), parts)
    if max(sums) <= best * (1 + 1e-9):
        return None
    sizes = [len(part) for part in answer]
    why = "Filling the parts from the left up to the mean can leave too much for the last: look at all places of a cut."
    if max(sizes) - min(sizes) <= 1:
        why = "Equal numbers of layers are not equal work: add up costs."
    elif sums[-1] == max(sums) and parts > 1:
        why = "The last part takes what the others left over. Cuts further left would give it less: try all of them."
    return "slowest part", (
        f"costs {_short(costs)} in {parts} parts: your slowest part takes {max(sums):g} (all: "
        f"{', '.join(f'{s:g}' for s in sums)}), and {best:g} is possible. {why}"
    )


@functools.cache
def best_slowest(costs: tuple[float, ...], parts: int) -> float:
    """Return the cost of the slowest part in the best contiguous cut."""
    if parts == 1:
        return sum(costs)
    firsts = range(1, len(costs) - parts + 2)
    return min(max(sum(costs[:first]), best_slowest(costs[first:], parts - 1)) for first in firsts)


def _short(costs: Sequence[float]) -> str:
    return "[" + ", ".join(f"{cost:g}" for cost in costs) + "]"


@exercise(judges=("result",))
def idle_share(function: Callable[[list[float], list[float], int], float]) -> NotYet | None:
    """The idle share of a pipeline that sends all micro-batches forward, then all back; held against a replay."""
    done: list[str] = []
    for kind, forward, backward, m in _idle_cases():
        given = function(list(forward), list(backward), m)
        answer = given.item() if hasattr(given, "item") else given  # NumPy's and PyTorch's numbers are numbers too
        if not isinstance(answer, float | int) or isinstance(answer, bool):
            return NotYet("result", f"Return a number between 0 and 1; got {type(answer).__name__}.")
        right = idle_share_of(replay(pipeline(forward, backward, m)), len(forward))
        if not math.isclose(answer, right, abs_tol=1e-6):
            return NotYet("result", _why_idle(kind, forward, backward, m, answer, right))
        done.append(kind)
    return None


def pipeline(forward: Sequence[float], backward: Sequence[float], m: int) -> list[list[tuple[str, int, float]]]:
    """Return the work of each part: m forward pieces, then m backward pieces, for `replay`."""
    return [
        [("F", i, f) for i in range(m)] + [("B", i, b) for i in range(m)]
        for f, b in zip(forward, backward, strict=True)
    ]


def _idle_cases() -> list[tuple[str, list[float], list[float], int]]:
    chance = random.Random(11)
    cases: list[tuple[str, list[float], list[float], int]] = [
        ("whole", [1, 1, 1], [2, 2, 2], 1), ("whole", [1, 1, 1, 1], [2, 2, 2, 2], 1),
        ("equal", [1, 1, 1], [2, 2, 2], 5), ("equal", [1] * 5, [1] * 5, 16), ("equal", [3], [6], 4),
        ("uneven", [1, 1, 3], [2, 2, 6], 5), ("uneven", [2, 1, 1], [4, 2, 2], 3), ("uneven", [1, 3, 1], [2, 6, 2], 5),
        ("split", [1, 2, 1], [4, 2, 2], 4),
    ]  # fmt: skip
    for _ in range(60):
        p = chance.randint(1, 7)
        forward = [round(chance.uniform(0.5, 3), 2) for _ in range(p)]
        backward = [round(chance.uniform(0.5, 6), 2) for _ in range(p)]
        cases.append(("split", forward, backward, chance.randint(1, 12)))
    return cases


def _why_idle(kind: str, forward: Sequence[float], backward: Sequence[float], m: int, got: float, right: float) -> str:
    p = len(forward)
    asked = f"forward {_short(forward)}, backward {_short(backward)}, {m} micro-batch{'es' * (m > 1)}"
    lead = f"{asked}: {right:.4f} is right, you say {got:.4f}. "
    work = m * (sum(forward) + sum(backward))
    span = work / (p * (1 - right))

    def close(value: float) -> bool:
        return math.isclose(got, value, abs_tol=1e-6)

    if p > 1 and math.isclose(got, 100 * right, rel_tol=1e-3):
        return lead + "That is a percentage. Return a share between 0 and 1."
    if close(1 - right):
        return lead + "That is the share in which the parts work; the idle share is the rest."
    if close((p * span - work) / work) or (kind != "split" and close((p - 1) / m)):
        return lead + "You divide the idle time by the working time. The share is of the total time."
    if p > 1 and m > 1 and close(1 - 1 / p):
        return lead + "1 - 1/p holds for one whole batch. With micro-batches the parts work at the same time."
    if p > 1 and close((p - 1) / (m + p)):
        return lead + "A direction takes m + p - 1 slots: the first micro-batch needs p, each further one one more."
    if p > 1 and close(1 / p):
        return lead + "With p parts each works 1/p of the time and is idle for the rest."
    if close((p - 1) / (m + p - 1)):
        return lead + "(p - 1) / (m + p - 1) is for parts of equal cost. Let the slowest part set the pace."
    return lead + _why_uneven(forward, backward, m, got)


def _why_uneven(forward: Sequence[float], backward: Sequence[float], m: int, got: float) -> str:
    """Name the mistake behind an idle share of uneven parts."""
    p, both = len(forward), [f + b for f, b in zip(forward, backward, strict=True)]
    work = m * sum(both)
    guesses = {
        "You leave out the backward pass: it has a first pass and a slowest part of its own.":
            1 - m * sum(forward) / (p * (sum(forward) + (m - 1) * max(forward))),
        "You leave out the filling and draining of the pipeline: the first micro-batch takes the sum of all parts.":
            1 - work / (p * m * max(both)),
        "The slowest part forward and the slowest part backward need not be the same part: take a maximum of each.":
            1 - work / (p * (sum(both) + (m - 1) * max(both))),
        "The parts do not settle on their mean: micro-batches follow each other at the pace of the slowest part.":
            1 - work / (p * (sum(both) + (m - 1) * sum(both) / p)),
    }  # fmt: skip
    for why, value in guesses.items():
        if math.isclose(got, value, abs_tol=1e-6):
            return why
    if len(set(both)) == 1:
        return "Draw the slots of each part on paper, and count those in which it has nothing to do."
    return (
        "Total time of a direction: the sum of all parts for the first micro-batch, and the slowest part for each "
        "further one."
    )
