"""Which ranks wait for something that can never come: decided from what they wait for, not from how long.

A rank that waits in a collective needs every member of the group to make the call of the same number; one that waits
in a send or recv needs the other end. A rank that has finished the cell, died, or does not run it will make no more
calls. So the ranks that wait fall in two: those that somebody who still runs can let go on, perhaps by way of others,
and those that nobody can. The second are stuck for certain, be the machine ever so slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Reply = Mapping[str, Any]


def needs(rank: int, wait: Reply, books: Mapping[int, Reply], world: int) -> tuple[set[int], bool]:
    """Return the ranks whose next step the wait of `rank` is for, and whether all of them must come, or just one.

    An empty set means that all have come, and the operation is under way.
    """
    call = wait["call"]
    if call is None:  # the rendezvous of a new group: its members are not known here
        return set(range(world)) - {rank}, False
    if call["kind"] == "any":
        return set(call["ranks"]) - {rank}, False
    if call["kind"] == "collective":
        come = {r for r in call["ranks"] if _count(books, r, "collectives", call["group"]) >= call["number"]}
        return set(call["ranks"]) - come - {rank}, True
    other = call["peer"]
    if other == rank:
        return set(), True
    done = _count(books, other, "received" if call["kind"] == "send" else "sent", call["channel"])
    anyone = call["kind"] == "send" and _count(books, other, "received", call["group"] + " any")
    return (set() if done >= call["number"] or anyone else {other}), True


def _count(books: Mapping[int, Reply], rank: int, what: str, key: str) -> int:
    return int(books.get(rank, {}).get(what, {}).get(key, 0))


def stuck(waits: Mapping[int, Reply], busy: set[int], books: Mapping[int, Reply], world: int) -> set[int]:
    """Return the ranks that wait for what can never come.

    `waits` has what each waiting rank waits for, `busy` the ranks that still run; all others make no more calls.
    """
    need = {r: needs(r, wait, books, world) for r, wait in waits.items()}
    able = set(busy)
    while True:
        freed = set()
        for r, (others, every) in need.items():
            if r in able:
                continue
            if not others or (others <= able if every else others & able):
                freed.add(r)
        if not freed:
            return set(waits) - able
        able |= freed


def left_over(books: Mapping[int, Reply], ran: set[int]) -> list[dict[str, Any]]:
    """Return the calls of this cell that ranks began and others, who ran it too, never made: one entry a group or pair.

    Each entry: `kind`, `key`, `number` (the first call missing), `made` (ranks that made it), `missing` (that did not).
    """
    found = []
    members: dict[str, tuple[int, ...]] = {}
    for r in ran:
        for group, ranks in books.get(r, {}).get("groups", {}).items():
            members[group] = tuple(ranks)
    for group, ranks in sorted(members.items()):
        counts = {r: _count(books, r, "collectives", group) for r in ranks}
        low = min(counts.values())
        if set(ranks) <= ran and max(counts.values()) > low:
            made = [r for r in ranks if counts[r] > low]
            missing = [r for r in ranks if counts[r] == low]
            entry = {"kind": "collective", "key": group, "number": low + 1, "made": made, "missing": missing}
            found.append(entry)
    channels = {c for r in ran for way in ("sent", "received") for c in books.get(r, {}).get(way, {}) if ">" in c}
    for channel in sorted(channels):
        source, target = (int(x) for x in channel.split(" ", 1)[1].split("#")[0].split(">"))
        sent, got = _count(books, source, "sent", channel), _count(books, target, "received", channel)
        anyone = _count(books, target, "received", channel.split(" ")[0] + " any")
        if not {source, target} <= ran or sent == got or (sent > got and anyone):
            continue
        kind, one, other = ("send", source, target) if sent > got else ("recv", target, source)
        number = min(sent, got) + 1
        found.append({"kind": kind, "key": channel, "number": number, "made": [one], "missing": [other]})
    return found
