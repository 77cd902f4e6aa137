"""Refuse what cannot be, with the rule, the numbers, and the nearest values that can."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PlanError(ValueError):
    """Say which rule a request breaks, with its numbers and the nearest possible values."""


def divisors(number: int) -> list[int]:
    """List the divisors of a whole number, in order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def nearest(value: float, possible: Iterable[int]) -> list[int]:
    """Name the nearest possible values: the largest one below and the smallest one above, or the value itself."""
    options = sorted(set(possible))
    if value in options:
        return [int(value)]
    below, above = [o for o in options if o < value], [o for o in options if o > value]
    return below[-1:] + above[:1]


def whole(name: str, value: object, least: int = 1) -> int:
    """Check that a value is a whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PlanError(f"{name} has to be a whole number from {least} up, not {value!r}; nearest: {least}")
    return value


def divides(small: int, large: int, rule: str) -> None:
    """Check that `small` divides `large`; the nearest values named are those that `small` could be."""
    if large % small:
        options = ", ".join(map(str, nearest(small, divisors(large))))
        raise PlanError(f"{rule}: {large} / {small} = {large / small:.2f} is not whole; nearest: {options}")


def one_of(name: str, value: str, possible: Iterable[str]) -> None:
    """Check that a name is known; the nearest ones are those spelt most like it."""
    options = list(possible)
    if value not in options:
        near = get_close_matches(str(value).lower(), options, n=2, cutoff=0.4)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise PlanError(f"There is no {name} {value!r}. There are: {', '.join(options)}{hint}")
