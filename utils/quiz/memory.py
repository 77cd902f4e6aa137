"""When a card or a missed question comes back: the log replayed through FSRS (Ye et al., the fsrs package).

What has been rated, and what has been missed once, is remembered; an item never missed is left alone. Retention is set
high (0.95: a card answered well comes back after about 1, 3, 8, 19 and 43 days), since the course takes weeks, not
years. Fuzz is off: the schedule is never stored but replayed each time, so it must come out the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from utils import progress
from utils.progress import Event
from utils.quiz import history
from utils.quiz.bank import Bank, Item

RETENTION = 0.95
LONGEST_DAYS = 60
A_SITTING = 20


@dataclass(frozen=True)
class Due:
    """An item to be asked again, and when."""

    item: Item
    when: datetime


@lru_cache(maxsize=1)
def scheduler() -> Any:
    """Return the FSRS scheduler; no steps within a day (a card missed now is asked again in the same sitting)."""
    import fsrs

    return fsrs.Scheduler(
        desired_retention=RETENTION,
        learning_steps=(),
        relearning_steps=(),
        maximum_interval=LONGEST_DAYS,
        enable_fuzzing=False,
    )


def rating(event: Event) -> int | None:
    """Return 1 (again) to 4 (easy) for an answer, None for an event that is no recall.

    Choices and numbers: wrong 1; right but a guess 2; right 3. Concepts: below half 1, not all 2, all 3.
    """
    if event.ev == "rated" and isinstance(event.resp, dict):
        found = event.resp.get("rating")
        return found if found in (1, 2, 3, 4) and not isinstance(found, bool) else None
    if event.ev == "concepts" and event.score is not None:
        return 1 if event.score < 0.5 else 2 if event.score < 1 else 3
    if event.ev == "skipped":
        return 1
    if event.ev == "answered" and event.ok is not None:
        return 1 if not event.ok else 2 if event.conf == 1 else 3
    return None


def schedule(banks: Iterable[Bank], events: Iterable[Event] | None = None) -> list[Due]:
    """Return every remembered item with the time it is due, soonest first."""
    import fsrs

    known = {item.id: item for bank in banks for item in bank.items if item.status == "live"}
    cards: dict[str, Any] = {}
    for event in _recalls(history.events() if events is None else events):
        item = known.get(event.item)
        grade = rating(event)
        if item is None or grade is None or event.rev != item.rev:
            continue
        if item.id not in cards:
            if item.type != "flashcard" and grade > 2:
                continue  # right at the first time: nothing to bring back
            cards[item.id] = fsrs.Card(card_id=len(cards) + 1, due=datetime.fromisoformat(event.ts))
        moment = datetime.fromisoformat(event.ts)
        try:
            cards[item.id], _ = scheduler().review_card(cards[item.id], fsrs.Rating(grade), review_datetime=moment)
        except (OverflowError, ValueError):  # a restored log may claim any year
            continue
    return sorted((Due(known[name], card.due) for name, card in cards.items()), key=lambda due: (due.when, due.item.id))


def _recalls(events: Iterable[Event]) -> list[Event]:
    """Return the events, of an answer that was changed within one test only the last."""
    last: dict[tuple[Any, ...], Event] = {}
    for event in events:
        test = event.ctx.get("test")
        key = (event.item, str(test), str(event.ctx.get("attempt"))) if test else (event.id,)
        last.pop(key, None)
        last[key] = event
    return sorted(last.values(), key=lambda event: event.ts)


def due(banks: Iterable[Bank], at: datetime | None = None) -> tuple[list[Due], list[Due]]:
    """Return what is due by the end of this day, and what comes later."""
    moment = at or progress.now()
    midnight = moment.astimezone().replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    everything = schedule(banks)
    return [d for d in everything if d.when < midnight], [d for d in everything if d.when >= midnight]


def next_words(item: Item, bank: Bank) -> str:
    """Say when an item comes back: "It comes back in 3 days."; "" where it is not remembered."""
    for found in schedule([bank]):
        if found.item.id == item.id:
            days = max(1, round((found.when - progress.now()) / timedelta(days=1)))
            return f"It comes back in {days} day{'s' * (days != 1)}."
    return ""
