"""What the log says about items: answers, attempts, resets. Everything is replayed, nothing else is stored."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from hashlib import sha256
from typing import Any

from utils import progress
from utils.progress import Event
from utils.quiz.bank import Item

ANSWERS = ("answered", "predicted", "rated", "concepts", "solved")


def events() -> list[Event]:
    """Return every event that still counts: those a reset covered are gone, unless the reset was undone."""
    everything = progress.events()
    undone = {event.resp for event in everything if event.ev == "unreset" and isinstance(event.resp, str)}
    last_reset: dict[str, str] = {}
    for event in everything:
        if event.ev == "reset" and event.id not in undone and isinstance(event.resp, list):
            for name in event.resp:
                if isinstance(name, str):
                    last_reset[name] = max(last_reset.get(name, ""), event.ts)
    return [e for e in everything if e.ev not in ("reset", "unreset") and e.ts > last_reset.get(e.item, "")]


def of_item(item: Item, among: Iterable[Event] | None = None, also: Collection[str] = ()) -> list[Event]:
    """Return the answers given to an item in its present revision, oldest first, tests left out.

    `also` names further kinds of events to count as answers.
    """
    chosen = events() if among is None else among
    return [
        event
        for event in chosen
        if event.item == item.id
        and event.rev == item.rev
        and (event.ev in ANSWERS or event.ev in also)
        and event.ctx.get("role") != "test"
        and isinstance(event.resp, dict)
    ]


def shuffled(options: Collection[dict[str, Any]], *seed: object) -> list[dict[str, Any]]:
    """Return options in an order that the seed fixes (learner, item, attempt); pinned ones stay last."""
    rng = random.Random(sha256("|".join(map(str, seed)).encode()).digest())
    free = [option for option in options if option.get("pin") != "last"]
    rng.shuffle(free)
    return free + [option for option in options if option.get("pin") == "last"]
