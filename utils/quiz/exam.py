"""The ten-question test: which questions are drawn, and what their number right does and does not prove.

Rule (10 questions: 9 or more strong; 7 or 8 five more, then strong from 12 of 15; 5 or 6 developing; fewer start here)
and rates: simulated for profiles of learners in `tests/quiz/test_exam.py`. Interval: Wilson 1927, 95 %.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from utils.quiz.bank import Bank, Item

QUESTIONS = ("mcq", "multi", "numeric")
STRONG, CONFIRM, DEVELOPING, START = "strong", "confirm", "developing", "start here"
LEVELS = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Draw:
    """The questions of one attempt, those to come if five more are wanted, and what the bank could not give."""

    first: tuple[Item, ...]
    more: tuple[Item, ...]
    short: tuple[str, ...]


def draw(bank: Bank, learner: str, attempt: int, topic: str | None = None) -> Draw:
    """Draw a test by the bank's blueprint; the same learner and attempt (from 0) always get the same questions.

    A slot is a group of equivalent siblings. The learner's slots are fixed; each attempt takes another sibling of each.
    Slots are spread over topics. Five more come from slots not asked yet, then from siblings not asked in this attempt.
    """
    first: list[Item] = []
    more: list[Item] = []
    short: list[str] = []
    pool = bank.select(*QUESTIONS, role="test", topic=topic)
    for level in LEVELS:
        want, later = bank.draw.get(level, 0), bank.follow_up.get(level, 0)
        slots = _slots([item for item in pool if item.difficulty == level], _rng(learner, bank.name, level))
        taken = [_sibling(slot, attempt) for slot in slots[:want]]
        fresh = [_sibling(slot, attempt) for slot in slots[want : want + later]]
        spare = [item for slot in slots[:want] for item in slot if item not in taken]
        fill = min(want - len(taken), len(spare))
        taken += spare[:fill]
        fresh += spare[fill : fill + later - len(fresh)]
        first += taken
        more += fresh
        if len(taken) < want:
            short.append(f"{len(taken)} of {want} {level}")
    return Draw(tuple(first), tuple(more), tuple(short))


def _rng(*seed: object) -> random.Random:
    return random.Random(sha256("|".join(map(str, seed)).encode()).digest())


def _slots(items: Iterable[Item], rng: random.Random) -> list[list[Item]]:
    """Return groups of siblings in an order that the seed fixes and that takes topics in turn."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.equiv, []).append(item)
    by_topic: dict[str, list[list[Item]]] = {}
    for group in groups.values():
        rng.shuffle(group)
        by_topic.setdefault(group[0].topic, []).append(group)
    topics = list(by_topic.values())
    rng.shuffle(topics)
    for slots in topics:
        rng.shuffle(slots)
    ordered = []
    while any(topics):
        ordered += [slots.pop() for slots in topics if slots]
    return ordered


def _sibling(slot: list[Item], attempt: int) -> Item:
    return slot[attempt % len(slot)]


def verdict(right: int, asked: int, more_right: int | None = None, more_asked: int = 0) -> str:
    """Return the verdict: STRONG, CONFIRM (five more would tell), DEVELOPING or START.

    `right` of `asked` in the first part; after further questions `more_right` of `more_asked`.
    """
    if asked == 0:
        return START
    share = right / asked
    if share >= 0.9:
        return STRONG
    if share >= 0.7:
        if more_right is None:
            return CONFIRM
        return STRONG if right + more_right >= math.ceil(0.8 * (asked + more_asked) - 1e-9) else DEVELOPING
    return DEVELOPING if share >= 0.5 else START


def wilson(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson interval of a rate (95 % for the default z); (0, 1) where nothing was asked."""
    if asked == 0:
        return 0.0, 1.0
    rate = right / asked
    scale = 1 + z * z / asked
    middle = (rate + z * z / (2 * asked)) / scale
    half = z * math.sqrt(rate * (1 - rate) / asked + z * z / (4 * asked * asked)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def interval_words(right: int, asked: int) -> str:
    """Say what a score proves: "8 of 10: over many such questions you would probably get between 5 and 9 in 10"."""
    low, high = (round(10 * bound) for bound in wilson(right, asked))
    return f"{right} of {asked} right: over many such questions you would probably get between {low} and {high} in 10."


def by_topic(items: Iterable[Item], right: Mapping[str, bool]) -> dict[str, tuple[int, int]]:
    """Return (right, asked) by topic id, in the order of the items."""
    counts: dict[str, tuple[int, int]] = {}
    for item in items:
        hits, asked = counts.get(item.topic, (0, 0))
        counts[item.topic] = (hits + bool(right.get(item.id)), asked + 1)
    return counts
