"""Checks of the exercises on pipeline parallelism.

`bubbles` and `blocks_by_stage` are plain functions, judged on many cases against the simulator and an exact answer.
`one_f_one_b` and `fill_the_bubble` return schedules (see `utils.check.schedules`). `mended_step` and `run_actions` run
on the ranks (see `utils.check.pipeline_runs`).
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from utils import schedule
from utils.check import pipeline_runs
from utils.check.schedules import Shape, judge_filled, judge_one_f_one_b, judge_schedule
from utils.check.verdict import NotAttempted, NotYet, exercise

RANKS = 4
Finding = tuple[str, str]


# ---------------------------------------------------------------------------------------------------------------------
# Predict the bubble


@exercise(judges=("result",))
def bubbles(function: Callable[[int, int, int], Any]) -> NotYet | None:
    """The bubble of 1F1B, plain or interleaved, in both definitions; held against the simulator."""
    for ranks, micro_batches, per_rank in _bubble_cases():
        answer = function(ranks, micro_batches, per_rank)
        right = simulated_bubbles(ranks, micro_batches, per_rank)
        if finding := _not_the_bubbles(answer, right, ranks, micro_batches, per_rank):
            return NotYet(*finding)
    return None


def _bubble_cases() -> list[tuple[int, int, int]]:
    plain = [(4, 8, 1), (2, 2, 1), (3, 7, 1), (8, 3, 1), (6, 32, 1), (1, 5, 1)]
    looped = [(p, p * rounds, v) for p, rounds, v in itertools.product((4, 2, 3, 6), (2, 1, 4), (2, 3, 4))]
    return [*plain, *looped, (1, 4, 2)]


@functools.cache
def simulated_bubbles(ranks: int, micro_batches: int, per_rank: int) -> tuple[float, float]:
    """Simulate 1F1B (interleaved where a rank holds several stages); return idle over total and over computing time."""
    name = "1f1b" if per_rank == 1 else "interleaved-1f1b"
    built = schedule.build(name, ranks * per_rank, micro_batches, per_rank=per_rank)
    found = schedule.simulate(built, *[1 / per_rank] * 3)
    return found.bubble, found.bubble_over_ideal


def _not_the_bubbles(answer: Any, right: tuple[float, float], p: int, m: int, v: int) -> Finding | None:
    asked = f"{p} rank{'s' * (p > 1)} with {v} stage{'s' * (v > 1)} each, {m} micro-batches"
    try:
        total, ideal = map(float, answer)
    except (TypeError, ValueError):
        return "result", (
            f"Return two numbers: idle over total time, and idle over computing time. For {asked} you return "
            f"{answer!r:.40}."
        )

    def same(pair: tuple[float, float]) -> bool:
        return all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip((total, ideal), pair, strict=True))

    if same(right):
        return None
    lead = f"{asked}: {right[0]:.4g} and {right[1]:.4g} are right, you say {total:.4g} and {ideal:.4g}. "
    return "result", lead + next((why for why, pair in _bubble_guesses(p, m, v, right) if same(pair)), _BY_ELIMINATION)


_BY_ELIMINATION = (
    "Count on the picture: while the pipeline fills and drains, for how long does a rank compute nothing? Divide that "
    "by the whole step for the one, and by the time it computes for the other."
)


def _bubble_guesses(p: int, m: int, v: int, right: tuple[float, float]) -> list[tuple[str, tuple[float, float]]]:
    """List mistakes by what they would answer: idle slots (of a whole rank's pass) over total, and over ideal."""

    def pair(idle: float, work: float = m) -> tuple[float, float]:
        return idle / (idle + work) if idle + work else 0.0, idle / work

    total, ideal = right
    return [
        ("The two are swapped: idle over total time comes first. It never reaches 1; the other can.", (ideal, total)),
        ("Both are of the total time. The second divides by the time a rank computes.", (total, total)),
        ("Both are of the computing time. The first divides by the whole step, which is longer.", (ideal, ideal)),
        ("Interleaving is left out: with several stages on a rank, filling takes as many, but shorter slots.",
         pair(p - 1)),
        ("You count all stages as if each had a rank of its own. The pipeline is full when the last rank begins: after "
         "p - 1 slots, each 1/v of a rank's whole pass.", pair(p * v - 1)),
        ("You count all stages, and shorten their slots. The last rank begins after p - 1 of them, not after p v - 1.",
         pair((p * v - 1) / v)),
        ("Interleaving makes the bubble v times smaller, not larger: the slots in which ranks wait are shorter.",
         pair((p - 1) * v)),
        ("The second is right. In the first, the total still has the idle time of a plain 1F1B in it.",
         ((p - 1) / v / (m + p - 1), ideal)),
        ("The first is 1F1B's without interleaving; only the second gets smaller in yours.",
         ((p - 1) / (m + p - 1), ideal)),
        ("Interleaving leaves m as it is: the same micro-batches pass. What shrinks is the time in which ranks wait.",
         pair(p - 1, m / v)),
        ("The last of p ranks begins when p - 1 others have done one slot each: p - 1 are idle, not p.", pair(p / v)),
        ("m + p - 1 slots, of which p - 1 are idle, make a step: one less than you count.",
         ((p - 1) / v / (m + p / v), ideal)),
        ("That is the share of the time in which a rank computes.", (1 - total, 1 - ideal)),
        ("1 - 1/p is the idle share where one batch goes through whole. Micro-batches keep the ranks busy.",
         (1 - 1 / p, p - 1.0)),
        ("Return shares, not percentages.", (100 * total, 100 * ideal)),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Balance the stages


@exercise(judges=("result", "memory", "slowest stage"))
def blocks_by_stage(function: Callable[..., Any]) -> NotYet | None:
    """How many blocks each stage gets, beside an embedding, a head and a limit of memory; the slowest stage fastest."""
    for case in _stage_cases():
        answer = function(*case)
        if finding := _not_a_split(answer, *case) or _too_slow(list(answer), *case):
            return NotYet(*finding)
    return None


StageCase = tuple[int, int, float, float, float, int]  # blocks, stages, block, embedding, head, room


def _stage_cases() -> list[StageCase]:
    chance = random.Random(5)
    cases: list[StageCase] = [
        (8, 4, 1.0, 0.0, 0.0, 100), (16, 4, 1.0, 3.0, 5.0, 100), (16, 4, 1.0, 0.0, 0.0, 12), (8, 3, 1.0, 0.0, 4.5, 100),
        (11, 4, 1.0, 0.0, 0.0, 100), (2, 4, 1.0, 0.0, 0.0, 100), (9, 3, 2.0, 1.0, 5.0, 100), (12, 4, 1.0, 0.5, 3.0, 10),
        (12, 4, 1.0, 2.5, 0.5, 100), (5, 1, 1.0, 0.5, 2.0, 5), (6, 4, 1.0, 3.0, 4.0, 40), (10, 2, 1.0, 0.0, 1.0, 10),
    ]  # fmt: skip
    while len(cases) < 150:
        stages = chance.randint(1, 7)
        blocks = max(1, stages - 2) + chance.randint(0, 14)
        ends = [round(chance.choice((0, 0.3, 1, 3)) * chance.random(), 2) for _ in range(2)]
        block = chance.choice((0.5, 1.0, 2.0, round(chance.uniform(0.2, 2), 2)))
        room = max(stages, chance.randint(blocks // 2, 4 * blocks))
        if sum(room // (stages - s) for s in range(stages)) >= blocks and room >= stages - 1:
            cases.append((blocks, stages, block, ends[0], ends[1], room))
    return cases


def _not_a_split(
    answer: Any, blocks: int, stages: int, block: float, embedding: float, head: float, room: int
) -> Finding | None:
    asked = _asked(blocks, stages, block, embedding, head, room)
    try:
        counts = [int(count) for count in answer]
    except (TypeError, ValueError):
        return "result", f"Return a list: the number of blocks of each stage. For {asked} you return {answer!r:.60}."
    if len(counts) != stages:
        return "result", f"{asked}: your list has {len(counts)} numbers, for {stages} stages."
    if min(counts) < 0 or sum(counts) != blocks:
        return "result", f"{asked}: you place {sum(counts)} blocks ({counts}); there are {blocks}."
    if any(count == 0 for count in counts[1:-1]):
        return "result", (
            f"{asked}: {counts} leaves a stage in the middle with nothing to do. Only the first and the last stage, "
            "which have the embedding and the head, may be without blocks."
        )
    held = [count * (stages - s) for s, count in enumerate(counts)]
    if max(held) <= room:
        return None
    s = held.index(max(held))
    lead = f"{asked}: stage {s} of {counts} holds {counts[s]} blocks of {stages - s} micro-batches, {held[s]} in all. "
    if all(count * (s + 1) <= room for s, count in enumerate(counts)) and counts[0] > counts[-1]:
        return "memory", lead + "You let memory grow with the stage; in 1F1B the first stage holds most, the last one."
    return "memory", lead + (
        f"Only {room} fit. Count all the micro-batches that a stage holds, stages - s of them, and give blocks to "
        "later stages, which hold fewer."
    )


def _asked(blocks: int, stages: int, block: float, embedding: float, head: float, room: int) -> str:
    times = f"block {block:g}, embedding {embedding:g}, head {head:g}"
    return f"{blocks} blocks on {stages} stage{'s' * (stages > 1)} ({times}, room for {room})"


def _too_slow(
    counts: list[int], blocks: int, stages: int, block: float, embedding: float, head: float, room: int
) -> Finding | None:
    best = best_slowest_stage(blocks, stages, block, embedding, head, room)
    if slowest_stage(counts, block, embedding, head) <= best * (1 + 1e-9):
        return None
    times = stage_times(counts, block, embedding, head)
    lead = (
        f"{_asked(blocks, stages, block, embedding, head, room)}: with {counts} the slowest stage takes "
        f"{max(times):g}, and {best:g} is possible. "
    )

    def best_for(embedding: float = embedding, head: float = head, least: int = 0) -> bool:
        """Tell whether the answer would be as good as any if the task were this one."""
        right = best_slowest_stage(blocks, stages, block, embedding, head, room, least)
        return slowest_stage(counts, block, embedding, head) <= right * (1 + 1e-9)

    tight = all(count * stages <= room for count in counts[:-1]) and blocks * stages > room
    if head and best_for(head=0.0):
        why = "The head is left out: the last stage has it on top of its blocks."
    elif embedding and best_for(embedding=0.0):
        why = "The embedding is left out: the first stage has it on top of its blocks."
    elif embedding != head and best_for(embedding=head, head=embedding):
        why = "Embedding and head are exchanged: the embedding is on the first stage, the head on the last."
    elif stages > 1 and min(counts) > 0 and best_for(least=1):
        why = "A first or last stage whose embedding or head takes longer than a block is best left without blocks."
    elif embedding + head and max(counts) - min(counts) <= 1:
        why = "Equal numbers of blocks are not equal work: embedding and head take time too."
    elif tight:
        why = (
            "You leave every stage the room of the first, which holds `stages` micro-batches. Stage s holds only "
            "stages - s, so later stages have room for more blocks."
        )
    elif times[-1] == max(times):
        why = f"The last stage takes what the others left over. {_ONE_BY_ONE}"
    else:
        why = _ONE_BY_ONE
    return "slowest stage", lead + why


_ONE_BY_ONE = "Give out one block at a time, each to the stage that has least to do so far and still has room."


def stage_times(counts: Sequence[int], block: float, embedding: float, head: float) -> list[float]:
    """Return what each stage takes: its blocks, the embedding on the first, the head on the last."""
    last = len(counts) - 1
    return [n * block + (s == 0) * embedding + (s == last) * head for s, n in enumerate(counts)]


def slowest_stage(counts: Sequence[int], block: float, embedding: float, head: float) -> float:
    """Return what the slowest stage takes."""
    return max(stage_times(counts, block, embedding, head))


def best_slowest_stage(
    blocks: int, stages: int, block: float, embedding: float, head: float, room: int, least: int = 0
) -> float:
    """Return what the slowest stage takes in the best split, by dynamic programming over stages.

    least: how many blocks the first and the last stage must have; those between need one.
    """

    @functools.cache
    def best(stage: int, left: int) -> float:
        if stage == stages:
            return 0.0 if left == 0 else math.inf
        fewest = least if stage in (0, stages - 1) else 1
        extra = (stage == 0) * embedding + (stage == stages - 1) * head
        most = min(left, room // (stages - stage))
        options = [max(n * block + extra, best(stage + 1, left - n)) for n in range(fewest, most + 1)]
        return min(options, default=math.inf)

    return best(0, blocks)


# ---------------------------------------------------------------------------------------------------------------------
# Schedules


SHAPES = ((4, 8), (2, 3), (3, 3), (1, 4), (5, 12), (4, 2), (6, 1), (8, 24))


@exercise(judges=("order", "memory", "time"))
def one_f_one_b(function: Callable[[int, int, int], Any]) -> NotYet | None:
    """The actions of one rank in 1F1B's order: complete, possible, in its memory and its time."""
    for ranks, micro_batches in SHAPES:
        answers = [function(rank, ranks, micro_batches) for rank in range(ranks)]
        if finding := judge_schedule(Shape(ranks, micro_batches), answers, judge_one_f_one_b):
            return NotYet(*finding)
    return None


@exercise(judges=("order", "memory", "time"))
def fill_the_bubble(function: Callable[[int, int], Any]) -> NotYet | None:
    """A schedule of the learner's own: complete, possible, within 1F1B's memory, as fast as ZB-H1."""
    for ranks, micro_batches in SHAPES:
        shape = Shape(ranks, micro_batches, split=True)
        answers = function(ranks, micro_batches)
        if not isinstance(answers, list | tuple) or len(answers) != ranks:
            what = f"a list of {len(answers)}" if isinstance(answers, list | tuple) else type(answers).__name__
            return NotYet("result", f"{shape}: return one list of actions for each rank, {ranks} in all; got {what}.")
        if finding := judge_schedule(shape, answers, judge_filled):
            return NotYet(*finding)
    return None


# ---------------------------------------------------------------------------------------------------------------------
# On the ranks


@exercise(judges=("result", "messages", "bytes", "order"), ranks=RANKS)
def mended_step(name: str) -> NotYet | NotAttempted | None:
    """A pipeline's step whose gradients are those of the whole batch, however its targets fall into micro-batches."""
    return pipeline_runs.judge_mended(name)


@exercise(judges=("result", "messages", "bytes", "order", "memory"), ranks=RANKS)
def run_actions(name: str) -> NotYet | NotAttempted | None:
    """A rank's list of actions, carried out: any schedule with one stage a rank."""
    return pipeline_runs.judge_actions(name)
