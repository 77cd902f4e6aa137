"""Judge a bucket plan by its rules, and name the one that is broken."""
from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from utils.check.verdict import NotYet

Parameter = tuple[str, int, bool]  # name, bytes, trained

HINTS = {
    "not a plan": "Return a list of buckets, each a list of names.",
    "frozen": "A frozen parameter stands in a bucket. It never gets a gradient, so its bucket would never be full.",
    "twice": "A parameter stands in two places. Each gradient is sent once.",
    "unknown": "There is a name in your plan that is no parameter.",
    "too large to fit": "A parameter larger than the cap is in no bucket. It gets one of its own.",
    "tail": "The parameters registered first are in no bucket: the last bucket is not full when the loop ends, and "
            "must "
            "be kept all the same.",
    "missing": "A trained parameter is in no bucket. Its gradient would never be averaged.",
    "empty": "There is an empty bucket. It would be sent as a message of nothing, or wait for ever.",
    "forward": "The buckets are packed in the order of registration. Gradients become ready from the last parameter to "
               "the first, so the first bucket would be full at the very end.",
    "inside": "The buckets follow each other from the last parameter to the first, but inside a bucket the order is "
              "another. Keep the order of readiness inside as well.",
    "by size": "The order is that of size, not of readiness: a bucket is full when its last gradient is ready.",
    "order": "Names must come in one order through all buckets: the reverse of registration.",
    "lesson's rule": "You close a bucket after it has reached the cap, as the lesson does. Here the cap is a limit: "
                     "close the bucket before the parameter that would not fit.",
    "first cap ignored": "The first bucket is filled up to `cap`; it has a cap of its own, `first_cap`.",
    "over": "A bucket holds more than its cap.",
    "first cap for all": "Every bucket is closed at `first_cap`; that is the cap of the first one only.",
    "one by one": "Every parameter has a bucket of its own: that is a message a gradient.",
    "exact": "A bucket is closed although the next parameter would just fit: a bucket may hold exactly its cap.",
    "early": "A bucket is closed too early: the next parameter would have fitted.",
}  # fmt: skip


def plan_cases() -> list[tuple[list[Parameter], int, int]]:
    """Give the cases: plain ones first, so that the hint is for the simplest case that fails."""
    even = [(f"p{index}", 10, True) for index in range(6)]
    mixed = [("a", 30, True), ("b", 10, True), ("c", 50, True), ("d", 20, True), ("e", 40, True), ("f", 10, True)]
    cases: list[tuple[list[Parameter], int, int]] = [
        (mixed, 60, 60), (even, 25, 25), (even, 30, 30), (even, 40, 10),
        ([("a", 10, True), ("b", 10, False), ("c", 10, True), ("d", 10, True)], 20, 20),
        ([("a", 10, True), ("big", 99, True), ("c", 10, True), ("d", 10, True)], 20, 20),
        ([("a", 10, True), ("b", 10, True), ("big", 99, True)], 20, 20),
        ([("a", 10, False)], 20, 20), ([], 20, 20),
    ]  # fmt: skip
    draw = random.Random(5)
    for _ in range(40):
        count = draw.randint(1, 14)
        parameters = [(f"p{i}", draw.choice((1, 2, 3, 5, 8, 20)), draw.random() > 0.2) for i in range(count)]
        cap = draw.randint(3, 16)
        cases.append((parameters, cap, draw.randint(2, cap)))
    return cases


def judge_plan(plan: Any, parameters: Sequence[Parameter], cap: int, first_cap: int) -> None:
    asked = f"Tried: {_short(parameters)}, cap {cap}, first_cap {first_cap}; you return {plan!r:.200}."
    if not isinstance(plan, (list, tuple)) or not all(isinstance(bucket, (list, tuple)) for bucket in plan):
        raise NotYet("result", HINTS["not a plan"], asked)
    size, trained = {name: nbytes for name, nbytes, _ in parameters}, [name for name, _, on in parameters if on]
    flat = [name for bucket in plan for name in bucket]
    _judge_members(flat, trained, size, parameters, cap, asked)
    if not all(plan):
        raise NotYet("result", HINTS["empty"], asked)
    if flat != trained[::-1]:
        raise NotYet("result", HINTS[_why_order(plan, flat, trained, size)], asked)
    limits = [first_cap] + [cap] * len(plan)
    held = [sum(size[name] for name in bucket) for bucket in plan]
    for index, (bucket, total, limit) in enumerate(zip(plan, held, limits, strict=False)):
        if total > limit and len(bucket) > 1:
            first = index == 0 and total <= cap
            rule = "first cap ignored" if first else "over" if total - size[bucket[-1]] >= limit else "lesson's rule"
            raise NotYet("result", HINTS[rule], f"Bucket {index} holds {total} bytes.", asked)
    for index, (after, total, limit) in enumerate(zip(plan[1:], held, limits, strict=False)):
        if total + size[after[0]] <= limit:
            raise NotYet("result", HINTS[_why_early(plan, held, size, index, limit, first_cap)],
                         f"Bucket {index} holds {total} bytes of {limit}; `{after[0]}` has {size[after[0]]}.", asked)


def _judge_members(flat: Sequence[str], trained: Sequence[str], size: dict[str, int], parameters: Sequence[Parameter],
                   cap: int, asked: str) -> None:
    if unknown := [name for name in flat if name not in size]:
        raise NotYet("result", HINTS["unknown"], f"`{unknown[0]}`", asked)
    if any(name not in trained for name in flat):
        raise NotYet("result", HINTS["frozen"], asked)
    if len(set(flat)) < len(flat):
        raise NotYet("result", HINTS["twice"], asked)
    missing = [name for name in trained if name not in flat]
    if missing:
        large = all(size[name] > cap for name in missing)
        tail = missing == trained[: len(missing)]
        raise NotYet("result", HINTS["too large to fit" if large else "tail" if tail else "missing"], asked)


def _why_order(plan: Sequence[Sequence[str]], flat: Sequence[str], trained: Sequence[str], size: dict[str, int]) -> str:
    if list(flat) == list(trained) or [name for bucket in plan[::-1] for name in bucket] == list(trained):
        return "forward" if list(flat) == list(trained) else "inside"
    sizes = [size[name] for name in flat]
    return "by size" if sizes in (sorted(sizes), sorted(sizes, reverse=True)) else "order"


def _why_early(plan: Sequence[Sequence[str]], held: Sequence[int], size: dict[str, int], index: int, limit: int,
               first_cap: int) -> str:
    following = size[plan[index + 1][0]]
    if index and held[index] + following > first_cap and first_cap < limit:
        return "first cap for all"
    if all(len(bucket) == 1 for bucket in plan):
        return "one by one"
    return "exact" if held[index] + following == limit else "early"


def _short(parameters: Sequence[Parameter]) -> str:
    words = [f"{name} {nbytes}{'' if on else ' frozen'}" for name, nbytes, on in parameters]
    return f"parameters [{', '.join(words)}]"
