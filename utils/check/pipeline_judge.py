"""Judge what was seen of a function that trains a cut model: result, messages, bytes, order of work, in that order.

Each judge returns what is off and a hint for that very mistake, or None.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from utils.check.pipelines import BYTES, VOCAB, Case, Seen

Finding = tuple[str, str]

# ---------------------------------------------------------------------------------------------------------------------
# What the gradients say


def judge_result(case: Case, by_part: Sequence[Seen], done: Sequence[Case]) -> Finding | None:
    kinds = {kind for seen in by_part for kind in seen.gradients.values()}
    if kinds != {"right"}:
        return "result", _why_wrong(case, by_part, kinds, done)
    *others, last = by_part
    if last.returned != "right":
        weighed = (
            " Weigh each micro-batch's loss by its share of the sequences (unless what `backward` sees is weighed "
            "already) and return the sum, undivided."
        )
        micro = weighed if case.micro_batches else ""
        return "result", (
            f"{case}: the gradients are right, but the last part returns {last.returned} where the loss of the whole "
            f"batch, a number, is wanted.{micro}"
        )
    if wrong := [seen.returned for seen in others if seen.returned not in ("none", "right")]:
        return "result", f"{case}: only the last part knows the loss; another returns {wrong[0]}. Return None there."
    return None


def _why_wrong(case: Case, by_part: Sequence[Seen], kinds: set[str], done: Sequence[Case]) -> str:
    if not case.in_order and any(len(c.chain) == len(case.chain) for c in done):
        return (
            f"Right while part k stands on rank k, wrong for {case}. Send to `after` and `before`, whatever their "
            "numbers; do not count with `rank` and `world_size`."
        )
    missing = [k for k, seen in enumerate(by_part) if "missing" in seen.gradients.values()]
    if missing:
        return _why_missing(case, by_part, missing)
    m = case.micro_batches
    if m and m > 1 and case.sequences % m and any(c.sequences % (c.micro_batches or 1) == 0 for c in done):
        return (
            f"Right for equal micro-batches, wrong for {case}: their means do not have equal weight. Multiply each "
            "loss by len(micro-batch) / len(batch); 1/m is that only where all are equal."
        )
    tied_off, tied_is, other_is = _tied(by_part)
    if tied_off and other_is <= {"right"}:
        return _why_tied(case, tied_is)
    factors = kinds - {"right"} if len(kinds - {"right"}) == 1 else set()
    if factors and next(iter(factors)).startswith("times"):
        return _why_factor(case, float(next(iter(factors)).split()[1]))
    if m and m > 1:
        return (
            f"{case}: the gradients are not those of the batch, and not a multiple of them. Does the gradient that "
            "comes back for micro-batch i meet the outputs of micro-batch i (the same order on both sides)? Are the "
            "gradients of all micro-batches added up?"
        )
    off = [name for seen in by_part for name, kind in seen.gradients.items() if kind != "right"]
    return (
        f"{case}: {len(off)} gradients are wrong, the first is that of {off[0]}. Does every part see the whole batch?"
    )


def _why_missing(case: Case, by_part: Sequence[Seen], missing: Sequence[int]) -> str:
    k = missing[-1]
    rank = case.chain[k]
    if k == len(by_part) - 1:
        return f"{case}: the last part has no gradients. Call backward() on the loss there."
    if not by_part[k].messages("recv") or case.chain[k + 1] not in {peer for peer, _ in by_part[k].messages("recv")}:
        return (
            f"{case}: the parts on ranks up to rank {rank} have no gradients: nothing comes back over the cut. The "
            "part after sends the gradient of its input (x.grad), and this one goes on with y.backward(that gradient)."
        )
    return f"{case}: rank {rank} receives a gradient and does nothing with it. Call y.backward(gradient)."


def _tied(by_part: Sequence[Seen]) -> tuple[bool, set[str], set[str]]:
    """Return whether the tied weight is off, how it compares on its two ranks, and how the rest compares."""
    tied: set[str] = set()
    others: set[str] = set()
    for place, seen in enumerate(by_part):
        for name, kind in seen.gradients.items():
            ends = (place == 0 and name == "token.weight") or (place == len(by_part) - 1 and name == "output.weight")
            (tied if ends else others).add(kind)
    return tied != {"right"}, tied, others


def _why_tied(case: Case, kinds: set[str]) -> str:
    if kinds == {"own use only"}:
        return (
            f"{case}: all gradients are right but those of the tied weight: each copy has the gradient of its own use "
            "only. Add the two, over the group `tied`, on both ranks."
        )
    if "own use only" in kinds:
        return (
            f"{case}: the tied weight is right on one of its two ranks only. Both need the sum (all_reduce gives it)."
        )
    if kinds == {"times 0.5"}:
        return (
            f"{case}: the gradient of the tied weight is half of what it should be: you average. One weight, two uses: "
            "add."
        )
    if kinds == {"times 2"}:
        return f"{case}: the gradient of the tied weight is twice what it should be: the sum is made two times."
    again = " In micro-batches: once, after the last backward pass." if case.micro_batches else ""
    return (
        f"{case}: all gradients are right but those of the tied weight. Its two gradients are to be added once.{again}"
    )


def _why_factor(case: Case, factor: float) -> str:
    m, p = case.micro_batches or 1, len(case.chain)
    if m > 1 and math.isclose(factor, m, rel_tol=0.01):
        return (
            f"{case}: every gradient is {m} times too large. Each micro-batch's loss is a mean, and {m} of them add up"
            ": weigh each by its share of the batch."
        )
    if m > 1 and math.isclose(factor, m / p, rel_tol=0.01):
        return (
            f"{case}: every gradient is {factor:.3g} times what it should be: you divide by the {p} parts instead of "
            "by the micro-batches."
        )
    if math.isclose(factor, 1 / p, rel_tol=0.01):
        return (
            f"{case}: every gradient is 1/{p} of what it should be. Parts are not replicas: there is nothing to "
            "average over them."
        )
    return (
        f"{case}: every gradient is {factor:.3g} times what it should be. Something scales the loss or the gradients "
        "sent back."
    )


# ---------------------------------------------------------------------------------------------------------------------
# What the messages say


def judge_messages(case: Case, by_part: Sequence[Seen]) -> Finding | None:
    m = case.micro_batches or 1
    ends = (case.chain[0], case.chain[-1])
    for place, seen in enumerate(by_part):
        rank = case.chain[place]
        neighbours = {case.chain[k] for k in (place - 1, place + 1) if 0 <= k < len(case.chain)}
        collectives = [op for op, *_ in seen.log if op not in ("send", "recv", "forward", "backward")]
        # The two gradients of the tied weight may meet by all-gather as well: over two ranks it sends the same bytes.
        if [op for op in collectives if not op.startswith(("allreduce", "allgather") if rank in ends else "allreduce")]:
            return "messages", (
                f"{case}: rank {rank} calls {collectives[0]}. What crosses a cut concerns two ranks: send and receive; "
                "only the tied weight needs a sum over its group."
            )
        if len(collectives) > (rank in ends):
            where = "one is enough, over `tied`" if rank in ends else "none is needed"
            return "messages", (
                f"{case}: rank {rank} calls {len(collectives)} all-reduces; {where}, after all backward passes."
            )
        sent = Counter(peer for peer, _ in seen.messages())
        sizes: Counter[int] = Counter()
        for peer, size in seen.messages():
            sizes[peer] += size
        for peer in sizes:
            weight = VOCAB * case.width * BYTES if {rank, peer} == set(ends) and not collectives else 0
            if peer not in neighbours and not weight:
                return "messages", f"{case}: rank {rank} sends to rank {peer}, which is neither `before` nor `after`."
            allowed = m * (peer in neighbours) + bool(weight)
            if sent[peer] > allowed:
                return "messages", (
                    f"{case}: rank {rank} sends {sent[peer]} messages to rank {peer} where {allowed} "
                    f"{'is' if allowed == 1 else 'are'} enough: activations go forward once, their gradients back once."
                )
            if peer in neighbours and sent[peer] < m:
                return "messages", (
                    f"{case}: rank {rank} sends {sent[peer]} message{'s' * (sent[peer] != 1)} to rank {peer} where {m} "
                    "are expected: cut the batch into m pieces and send each as soon as it is ready."
                )
            if sizes[peer] > case.activations * (peer in neighbours) + weight:
                return "bytes", (
                    f"{case}: rank {rank} sends {sizes[peer]} bytes to rank {peer}; activations (or their gradients) "
                    f"are {case.activations}. Parameters and tokens do not cross a cut."
                )
    return None


def judge_order(case: Case, by_part: Sequence[Seen]) -> Finding | None:
    """Find micro-batches that do not overlap: the first part waits for a gradient when it could go on."""
    if not case.micro_batches:
        return None
    order = "".join(by_part[0].order)
    ahead = len(order) - len(order.lstrip("F"))
    if ahead < min(case.micro_batches, len(case.chain)):
        return "order", (
            f"{case}: the gradients are right, but the first part works in the order {order}: it waits for a gradient "
            f"after {ahead} micro-batch{'es' * (ahead != 1)}, and meanwhile most parts are idle. Send all of them "
            "forward first, then take the gradients."
        )
    return None


# ---------------------------------------------------------------------------------------------------------------------
# When the ranks did not come through


def explain_stop(case: Case, by_part: Sequence[Seen], done: Sequence[Case], error: Any) -> Finding:
    """Explain a trial that raised or hung."""
    raised = {rank: state for rank, state in error.states.items() if state.status == "raised" and rank in case.chain}
    own = error.cause == "raised" and raised
    if not case.in_order and any(len(c.chain) == len(case.chain) for c in done):
        return "messages", _why_wrong(case, by_part, set(), done)
    if finding := _misfit(case, by_part):
        return finding
    if own:
        rank, state = min(raised.items())
        return "error", f"{case}: rank {rank} raised {state.name}: {state.message}{_remedy(state.message)}"
    return "deadlock", _why_stuck(case, by_part)


def _remedy(message: str) -> str:
    if "NoneType" in message:
        return (
            " A gradient is None: what came in over the cut was not watched by autograd. After receiving, "
            "x.requires_grad_(), and use x itself (not a copy) for the forward pass."
        )
    if "does not require grad" in message:
        return " The outputs know nothing of their inputs: run the part outside no_grad, and detach only what you send."
    if "can be implicitly created only for scalar" in message:
        return " Only the last part has a loss. The others call y.backward(gradient) with the gradient that came back."
    return ""


def _misfit(case: Case, by_part: Sequence[Seen]) -> Finding | None:
    """Look for a message that meets a buffer of another size."""
    place_of = {rank: place for place, rank in enumerate(case.chain)}
    for (a, sender), (b, receiver) in itertools.permutations(place_of.items(), 2):
        sent = [size for peer, size in by_part[sender].messages() if peer == b]
        room = [size for peer, size in by_part[receiver].messages("recv") if peer == a]
        for message, buffer in zip(sent, room, strict=False):
            if message != buffer:
                return "messages", (
                    f"{case}: rank {a} sends {message} bytes into a buffer of {buffer} bytes on rank {b}. Activations "
                    "are [sequences, context, width]: take the sizes from tokens and part.config, not from the lesson."
                )
    return None


def _why_stuck(case: Case, by_part: Sequence[Seen]) -> str:
    """Say why the ranks wait for each other, from what each had begun."""
    stuck = [place for place, seen in enumerate(by_part) if not seen.finished]
    last = {place: by_part[place].log[-1] for place in stuck if by_part[place].log}
    all_receive = len(last) == len(by_part) > 1 and all(op == "recv" for op, *_ in last.values())
    if all_receive and not any(seen.messages() for seen in by_part):
        return (
            f"{case}: all parts wait in a receive and none has sent anything. The first part has its input: it begins."
        )
    sending = [case.chain[place] for place, entry in last.items() if entry[0] == "send"]
    for place, (op, peer, _) in last.items():
        if op == "send" and peer in sending:
            return (
                f"{case}: ranks {case.chain[place]} and {peer} both wait in a send to each other. On gloo a send ends "
                "when the other side receives: use isend, and wait for it at the end."
            )
    for place, (op, peer, _) in last.items():
        if op != "recv" or peer not in case.chain:
            continue
        rank, sender = case.chain[place], case.chain.index(peer)
        gone_on = by_part[sender].finished or last.get(sender, ("",))[0].startswith("allreduce")
        if gone_on and _count(by_part[sender].messages(), rank) < _count(by_part[place].messages("recv"), peer):
            what = "a gradient" if sender == place + 1 else "activations"
            return (
                f"{case}: rank {rank} waits for {what} from rank {peer}, which has gone on and never sends them. Every "
                "receive needs its send."
            )
    for place, (op, *_) in last.items():
        if op.startswith("allreduce"):
            return (
                f"{case}: rank {case.chain[place]} waits in the sum of the tied weight; both ends of the chain must "
                "join it, and equally often."
            )
    return f"{case}: the ranks wait for each other for ever. Write down by rank, in order, who sends and who receives."


def _count(messages: Sequence[tuple[int, int]], peer: int) -> int:
    return sum(other == peer for other, _ in messages)
