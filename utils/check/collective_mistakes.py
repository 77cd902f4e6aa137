"""What a wrong answer to an exercise on collectives looks like from outside, and the hint for each.

A judge gets one trial: its case, what every rank saw, and the cases that went well before it. It returns what is off
("result", "messages", "bytes", "deadlock") with a hint, or None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from utils.check.messages import Seen, rounds

Finding = tuple[str, str]


@dataclass(frozen=True)
class Case:
    """One trial: the first `n` ranks take part. `length` numbers a rank, or `lengths` by rank, from `root` if any."""

    n: int
    length: int = 0
    lengths: tuple[int, ...] = ()
    root: int = 0
    dtype: str = "float32"
    salt: int = 0

    def numbers(self, rank: int) -> list[float]:
        """Return what `rank` holds at the start: numbers whose sums are exact in their type; float64 in no smaller one.

        They differ by rank, position and trial: what an unfilled buffer still holds from the trial before is wrong.
        """
        length = self.lengths[rank] if self.lengths else self.length
        fine = 2.0**-30 if self.dtype == "float64" else 0.0
        return [self.salt * 100_000 + (rank + 1) * 1000 + position + 1 + fine for position in range(length)]

    @property
    def itemsize(self) -> int:
        return 8 if self.dtype == "float64" else 4

    def __str__(self) -> str:
        size = f"lengths {list(self.lengths)}" if self.lengths else f"{self.length} numbers"
        return f"{self.n} rank{'s' * (self.n > 1)}, {size}"


def _names(ranks: Sequence[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def _who_differs(by_rank: Sequence[Seen], expected: Sequence[Sequence[float]], what: str) -> list[int]:
    return [r for r, seen in enumerate(by_rank) if getattr(seen, what) != expected[r]]


def foreign(case: Case, by_rank: Sequence[Seen]) -> Finding | None:
    """Look for other operations than send and receive, and for messages that leave the first n ranks."""
    others = sorted({op for seen in by_rank for op, *_ in seen.log if op not in ("send", "recv")})
    if others:
        return "messages", (
            f"The function calls {', '.join(others)}. Here that is what you build yourself: use only dist.send, "
            "dist.recv, dist.isend, dist.irecv and dist.batch_isend_irecv."
        )
    for rank, seen in enumerate(by_rank):
        for op, peer, *_ in seen.log:
            if not 0 <= peer < case.n:
                does = "sends to" if op == "send" else "waits for a message from"
                return "messages", (
                    f"Rank {rank} {does} rank {peer}, which takes no part: only ranks 0 to {case.n - 1} do ({case}). "
                    "Count with n, not with world_size, and check that a partner exists before you write to it."
                )
    return None


def unmatched(by_rank: Sequence[Seen]) -> Finding | None:
    """Look for messages that were sent and never received, or the reverse."""
    sent = Counter((rank, peer) for rank, seen in enumerate(by_rank) for op, peer, *_ in seen.log if op == "send")
    taken = Counter((peer, rank) for rank, seen in enumerate(by_rank) for op, peer, *_ in seen.log if op == "recv")
    for (a, b), count in (sent - taken).items():
        return "messages", (
            f"Rank {a} sends {count} more message{'s' * (count > 1)} to rank {b} than rank {b} receives from it: "
            "every send needs its receive."
        )
    for (a, b), count in (taken - sent).items():
        return "messages", (
            f"Rank {b} expects {count} more message{'s' * (count > 1)} from rank {a} than rank {a} sends to it: "
            "every receive needs its send."
        )
    return None


def judge_tree(case: Case, by_rank: Sequence[Seen], before: Sequence[Case]) -> Finding | None:
    expected = [case.numbers(case.root)] * case.n
    if off := _who_differs(by_rank, expected, "inplace"):
        if all(seen.returned == expected[0] for seen in by_rank):
            return "result", (
                "What you return is right, but `tensor` itself still holds the old numbers. Like dist.broadcast, "
                "fill the tensor that was handed in: receive straight into it."
            )
        if case.root and any(c.n >= case.n and not c.root for c in before):
            return "result", (
                f"Right when the root is rank 0, wrong for root {case.root} ({case}): {_names(off)} end with something "
                "else. Number the ranks from the root: place = (rank - root) % n, and turn a place back into a rank "
                "with (place + root) % n."
            )
        if before and case.n > max(c.n for c in before):
            return "result", (
                f"Right for up to {max(c.n for c in before)} ranks, wrong for {case.n}: the tensor never reaches "
                f"{_names(off)}. The number of rounds must grow with n: go on doubling until every rank is reached."
            )
        return "result", f"{case}, root {case.root}: {_names(off)} do not hold the root's tensor at the end."
    received = [len(seen.messages("recv")) for seen in by_rank]
    if sum(received) > case.n - 1:
        most = max(range(case.n), key=lambda r: received[r])
        return "messages", (
            f"{case}: {sum(received)} messages where {case.n - 1} are enough. Rank {most} receives {received[most]} of "
            "them: a rank needs the tensor once, and the root never."
        )
    sent = [len(seen.messages()) for seen in by_rank]
    needed = math.ceil(math.log2(case.n)) if case.n > 1 else 0
    if (took := rounds(by_rank)) > needed:
        if sent[case.root] == case.n - 1:
            how = (
                f"Rank {case.root} sends all {case.n - 1} messages itself, one after the other, while the ranks that "
                "have the tensor already stand idle. Let them send it on."
            )
        elif max(sent) == 1:
            how = "The tensor walks along a chain: nobody sends twice. Let a rank go on sending after the first one."
        else:
            how = "Let every rank that has the tensor send in every round, each to one that has not."
        return "messages", f"{case}: {took} rounds where {needed} are enough. {how}"
    size = case.length * case.itemsize
    if wrong := [s for seen in by_rank for _, s in seen.messages() if s != size]:
        return "bytes", f"{case}: a message carries {wrong[0]} bytes; the tensor has {size}. Send it as it is, once."
    return None


def judge_all_reduce(case: Case, by_rank: Sequence[Seen], before: Sequence[Case]) -> Finding | None:
    columns = list(zip(*(case.numbers(r) for r in range(case.n)), strict=True))
    total = [sum(column) for column in columns]
    if _who_differs(by_rank, [total] * case.n, "inplace"):
        return _wrong_sum(case, by_rank, before, columns, total)
    if finding := _one_way_round(case, by_rank):
        return finding
    most = max((len(seen.messages()) for seen in by_rank), default=0)
    bound = 2 * (case.n - 1) * math.ceil(case.length / case.n) * case.itemsize
    sent = [sum(size for _, size in seen.messages()) for seen in by_rank]
    if case.n > 1 and max(sent) > bound:
        whole = case.length * case.itemsize
        if any(size >= whole > case.itemsize for seen in by_rank for _, size in seen.messages()):
            how = "Your messages carry the whole tensor. Cut it into n chunks and send one of them in each step."
        else:
            how = "A chunk is at most ceil(length / n) numbers, and each phase has n - 1 steps."
        return "bytes", (
            f"{case}: rank {sent.index(max(sent))} sends {max(sent)} bytes where 2 (n - 1) chunks, {bound} bytes, are "
            f"enough. {how}"
        )
    if most > 2 * (case.n - 1):
        return "messages", f"{case}: a rank sends {most} messages; two phases of n - 1 steps need {2 * (case.n - 1)}."
    return None


def _wrong_sum(
    case: Case, by_rank: Sequence[Seen], before: Sequence[Case], columns: Sequence[Sequence[float]], total: list[float]
) -> Finding:
    """Say which mistake the numbers on the ranks look like."""
    held = [seen.inplace for seen in by_rank]
    if all(seen.returned == total or seen.inplace == case.numbers(r) for r, seen in enumerate(by_rank)):
        return "result", (
            "`tensor` still holds what it held before the call. Like dist.all_reduce, leave the sum in the tensor that "
            "was handed in; a copy or a new tensor stays inside the function."
        )
    if finding := _lost_digits(case, held, [total] * case.n):
        return finding
    if all([value * case.n for value in values] == total for values in held):
        return "result", f"Every number is 1/{case.n} of the sum: you return the mean. All-reduce adds; do not divide."
    # By position: on how many ranks is the sum in place, and does any number go beyond it?
    right = [sum(values[p] == total[p] for values in held) for p in range(case.length)]
    uneven = case.length % case.n and any(c.n == case.n and c.length % c.n == 0 for c in before)
    if uneven and (case.length < case.n or all(right[p] == case.n for p in range(case.length - case.length % case.n))):
        return "result", (
            f"Right when the length is a multiple of n, wrong for {case.length} numbers on {case.n} ranks: the rest of "
            "the division is lost. Let chunks differ in length (torch.tensor_split does), down to no numbers at all."
        )
    if any(values[p] > total[p] for values in held for p in range(case.length)):
        return "result", (
            f"{case}: some numbers are larger than the sum, so something was added twice. In the second phase the "
            "chunks that arrive are finished: put them in place, do not add them."
        )
    raw = {number for column in columns for number in column}
    if all(values[p] in columns[p] for values in held for p in range(case.length)):
        if any(number not in raw for seen in by_rank for number in seen.numbers_sent()):
            return "result", (
                f"{case}: sums were made and lost again: in the end each part is what one rank brought along. After "
                "n - 1 steps to the right, rank r holds the finished chunk r + 1, not r: start the second phase with "
                "that one."
            )
        return "result", (
            f"{case}: no number is a sum: each is what one rank brought along. In the first phase add the chunk that "
            "arrives to your own instead of replacing it."
        )
    if all(right):
        sends = max(len(seen.messages()) for seen in by_rank)
        if sends < 2 * (case.n - 1):
            return "result", (
                f"{case}: each rank holds the sum in one part only, another part on each. That is a reduce-scatter, "
                "the first phase. The second is missing: n - 1 more steps that hand the finished chunks round."
            )
        return "result", (
            f"{case}: every part of the sum is finished on some rank, and not handed to all. In the second phase send "
            "on, in each step, the finished chunk that came in the step before."
        )
    return "result", f"{case}: the ranks do not hold the sum. First off: position {_first_off(held, total)}."


def _lost_digits(case: Case, held: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> Finding | None:
    """Find numbers of 8 bytes that are right to the digits of a smaller type only."""
    close = all(
        len(values) == len(right) and all(math.isclose(a, b, rel_tol=1e-2) for a, b in zip(values, right, strict=True))
        for values, right in zip(held, expected, strict=True)
    )
    if case.dtype != "float64" or not close:
        return None
    return "result", (
        f"{case} of float64: right in the first digits, and the others are lost. On the way the numbers were turned "
        "into a type with fewer: send and add them in the type in which they came."
    )


def _first_off(held: Sequence[Sequence[float]], total: Sequence[float]) -> str:
    for p, value in enumerate(total):
        for rank, values in enumerate(held):
            if p >= len(values) or values[p] != value:
                got = f"{values[p]:g}" if p < len(values) else "nothing"
                return f"{p} on rank {rank}, {got} where {value:g} is right"
    return "the length"


def _one_way_round(case: Case, by_rank: Sequence[Seen]) -> Finding | None:
    """Check that all messages go one way round a ring of n ranks."""
    steps = {(peer - rank) % case.n for rank, seen in enumerate(by_rank) for peer, _ in seen.messages()}
    if len(steps) <= 1 and steps <= {1, case.n - 1}:
        return None
    for rank, seen in enumerate(by_rank):
        peers = sorted({peer for peer, _ in seen.messages()})
        if len(peers) > 1 or (peers and (peers[0] - rank) % case.n != 1):
            return "messages", (
                f"{case}: rank {rank} sends to {_names(peers)}. In a ring a rank sends only to its right neighbour, "
                "(rank + 1) % n, so that all links carry the same load at the same time."
            )
    return None


def judge_all_gather(case: Case, by_rank: Sequence[Seen], before: Sequence[Case]) -> Finding | None:
    pieces = [case.numbers(r) for r in range(case.n)]
    whole = [number for piece in pieces for number in piece]
    if any(seen.returned is None for seen in by_rank):
        return "result", f"The function returns {by_rank[0].kind}; return one tensor, all pieces in the order of rank."
    if off := _who_differs(by_rank, [whole] * case.n, "returned"):
        if finding := _lost_digits(case, [seen.returned or [] for seen in by_rank], [whole] * case.n):
            return finding
        got = by_rank[off[0]].returned or []
        if sorted(got) == sorted(whole):
            return "result", (
                f"{case}: rank {off[0]} has all the numbers, in the order in which they arrived. Put each piece in "
                "its owner's place: in step s arrives the piece of rank (rank - s - 1) % n."
            )
        if all(len(seen.messages()) < case.n - 1 for seen in by_rank):
            return "result", (
                f"{case}: a rank sends {max(len(seen.messages()) for seen in by_rank)} messages and misses most of the "
                "pieces. One step reaches the neighbour; after n - 1 steps every piece has been everywhere."
            )
        if set(whole) - set(got) and set(got) <= set(pieces[off[0]]) | set(pieces[(off[0] - 1) % case.n]):
            return "result", (
                f"{case}: rank {off[0]} got the piece of its left neighbour again and again. In each step send on what "
                "came in the step before, not your own piece."
            )
        if len(set(case.lengths)) > 1 and any(c.n == case.n and len(set(c.lengths)) == 1 for c in before):
            return "result", (
                f"Right for equal pieces, wrong for {case}. The length of what arrives is the length of its owner's "
                "piece: lengths[owner]."
            )
        return "result", f"{case}: wrong on {_names(off)}. First off: position {_first_off([got], whole)}."
    if finding := _one_way_round(case, by_rank):
        return finding
    size = sum(case.lengths) * case.itemsize
    for rank, seen in enumerate(by_rank):
        sent = sum(s for _, s in seen.messages())
        neighbours = {case.lengths[(rank + 1) % case.n], case.lengths[(rank - 1) % case.n]}
        enough = size - min(neighbours) * case.itemsize
        if case.n > 1 and sent > enough:
            if {s for one in by_rank for _, s in one.messages()} == {max(case.lengths) * case.itemsize}:
                return "bytes", (
                    f"{case}: every message has {max(case.lengths)} numbers, the length of the longest piece: you pad. "
                    f"Rank {rank} sends {sent} bytes where {enough} are enough; send only lengths[owner] numbers."
                )
            return "bytes", (
                f"{case}: rank {rank} sends {sent} bytes where {enough} are enough. Send one piece in each step, not "
                "all that you have gathered so far."
            )
    return None


def judge_all_to_all(case: Case, by_rank: Sequence[Seen], before: Sequence[Case]) -> Finding | None:
    k = case.length // case.n
    rows = [[case.numbers(r)[d * k : (d + 1) * k] for d in range(case.n)] for r in range(case.n)]
    expected = [[number for s in range(case.n) for number in rows[s][r]] for r in range(case.n)]
    if any(seen.returned is None for seen in by_rank):
        return "result", f"The function returns {by_rank[0].kind}; return a tensor of the same shape as `rows`."
    if off := _who_differs(by_rank, expected, "returned"):
        if finding := _lost_digits(case, [seen.returned or [] for seen in by_rank], expected):
            return finding
        rank = off[0]
        got = by_rank[rank].returned or []
        # Who was written to comes first: rows that never came hold what their memory held before.
        reached = sorted({peer for peer, _ in by_rank[rank].messages()})
        if reached and len(reached) < case.n - 1:
            return "result", (
                f"{case}: rank {rank} sends only to {_names(reached)}, so rows are missing elsewhere. Every rank has a "
                "row for every other: n - 1 messages."
            )
        if len(got) == len(expected[rank]):
            wrong = {s for s in range(case.n) if got[s * k : (s + 1) * k] != rows[s][rank]}
            if wrong == {rank}:
                return "result", (
                    f"{case}: on rank {rank} only row {rank} is wrong, the one that never travels. Copy your own row "
                    "from `rows` to the result."
                )
            if sorted(got) == sorted(expected[rank]):
                return "result", (
                    f"{case}: rank {rank} has the right rows in the wrong order. Row s of the result is what rank s "
                    "sent."
                )
            if all(got[s * k : (s + 1) * k] == rows[s][s] for s in wrong):
                return "result", (
                    f"{case}: each rank sends its row number `rank` to everybody. Rank d is to get row d of `rows`."
                )
        return "result", f"{case}: wrong on {_names(off)}. First off: position {_first_off([got], expected[rank])}."
    for rank, seen in enumerate(by_rank):
        sizes = [s for _, s in seen.messages()]
        if any(size > k * case.itemsize for size in sizes):
            return "bytes", (
                f"{case}: rank {rank} sends a message of {max(sizes)} bytes; a row has {k * case.itemsize}. Send to "
                "rank d row d alone, not the whole matrix."
            )
        peers = Counter(peer for peer, _ in seen.messages())
        if peers != Counter(d for d in range(case.n) if d != rank):
            return "messages", (
                f"{case}: rank {rank} sends {dict(sorted(peers.items()))} (messages by receiver) where one to each "
                "other rank is right: every row goes straight to its owner, once."
            )
    return None


# ---------------------------------------------------------------------------------------------------------------------
# When the ranks did not come through


def stuck(case: Case, by_rank: Sequence[Seen]) -> Finding:
    """Say why the ranks wait for each other, from what each had begun when it was freed."""
    if finding := foreign(case, by_rank) or _misfit(case, by_rank):
        return finding
    waiting = [r for r, seen in enumerate(by_rank) if not seen.finished and seen.log]
    last = {by_rank[r].log[-1][0] for r in waiting}
    if len(waiting) > 1 and last == {"send"}:
        return "deadlock", (
            f"{case}: {_names(waiting)} all wait in a send, and nobody receives. A send ends when its message is "
            "taken: let some receive first, or use isend and wait for it after the receive."
        )
    if len(waiting) > 1 and last == {"recv"} and not any(op == "send" for r in waiting for op, *_ in by_rank[r].log):
        return "deadlock", (
            f"{case}: {_names(waiting)} all wait in a receive, and none of them has sent anything. Somebody has to "
            "send first: start the send (isend) before the receive."
        )
    finding = unmatched(by_rank)
    return "deadlock", f"{case}: {_names(waiting)} never came back. " + (finding[1] if finding else "")


def _misfit(case: Case, by_rank: Sequence[Seen]) -> Finding | None:
    """Look for a message that meets a buffer of another size."""
    for receiver, seen in enumerate(by_rank):
        for sender in range(case.n):
            sent = [size for op, peer, size, _ in by_rank[sender].log if (op, peer) == ("send", receiver)]
            room = [size for op, peer, size, _ in seen.log if (op, peer) == ("recv", sender)]
            for message, buffer in zip(sent, room, strict=False):
                if message != buffer:
                    return "messages", (
                        f"{case}, numbers of {case.itemsize} bytes: rank {sender} sends {message} bytes into a buffer "
                        f"of {buffer} bytes on rank {receiver}. A buffer must have the length and the type of what "
                        "arrives: torch.empty_like(...), or .new_empty(length)."
                    )
    return None
