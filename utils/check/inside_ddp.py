"""Checks of the exercises inside DDP: a bucket plan, an overlapped reducer, a tied weight, accumulation with DDP.

`bucket_plan` is a plain function, judged by the rules a plan must keep. The other three run on the ranks, in trials of
`utils.check.reducers`, and are judged by the gradients they leave, their messages, and when these leave.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from utils.check import gradients, reducers
from utils.check.bucket_plans import judge_plan, plan_cases
from utils.check.gradients import tried
from utils.check.reducers import Trace, Trial
from utils.check.verdict import NotYet, exercise

# ---- a bucket plan: a plain function


@exercise(judges=("result",))
def bucket_plan(function: Any) -> None:
    """Judge a bucket plan by its rules, on many lists of parameters."""
    for parameters, cap, first_cap in plan_cases():
        judge_plan(function([*parameters], cap, first_cap), parameters, cap, first_cap)


# ---- an overlapped reducer

OVERLAP = (
    Trial("overlap", "4 ranks, three buckets", 4),
    Trial("overlap", "4 ranks, two steps", 4, steps=2),
    Trial("overlap", "3 ranks", 3),
    Trial("overlap", "4 ranks; on rank 2 gradients become ready in another order", 4, swapped=(2,)),
    Trial("overlap", "4 ranks, one bucket for all", 4, whole=True),
    Trial("overlap", "4 ranks, three buckets, the first is full last", 4, backwards=True),
)
OVERLAP_HINTS = {
    "not a function": "Return a function without arguments: it is called after every `backward()`.",
    "no messages": "No gradient travels. The hook must count, for each bucket, the gradients that are missing, and "
                   "send "
                   "the bucket when none is.",
    "not waited": "`async_op=True` only begins a message. Before its numbers are used `finish` has to wait for the "
                  "work "
                  "that the call has returned.",
    "never copied": "The messages travel, but every `.grad` is still this rank's own: copy the averages back.",
    "sum": "The gradients are added up and not averaged.",
    "four": "This is right only on 4 ranks: divide by what `dist.get_world_size()` says.",
    "second step": "The first step is right, the next one is not. The hooks stay and fire in every step; the counts "
                   "and "
                   "the list of messages must begin anew.",
    "mixed up": "Gradients land in the wrong parameters. Cut the flat tensor in the order in which it was joined.",
    "other": "The gradients are not the averages over the ranks.",
    "order": "On rank 2 the second bucket is full before the first. It may not leave before it: the second all-reduce "
             "of "
             "one rank meets the second of the others. Send full buckets in their order.",
    "next bucket": "A bucket that was full early never leaves when the ones before it are full last: no hook comes "
                   "after theirs. After each bucket look at the next one, too (`while`, not `if`).",
    "deadlock": "Not all ranks make the same calls in the same order.",
    "each gradient": "The result is right, but every gradient is a message of its own. Join those of a bucket.",
    "messages": "The result is right, but the number of messages is not that of the buckets.",
    "bytes": "The result is right, but the messages hold more than the gradients, once each.",
    "after backward": "The result is right, but nothing is hidden: all messages leave after `backward()`. Send from "
                      "the "
                      "hook, when a bucket's last gradient is ready.",
    "late": "The result is right, but buckets wait longer than they must: each may leave as soon as it is full and "
            "those "
            "before it have left.",
    "waits": "The result is right, but the hook waits for its message, and the backward pass with it. Begin it with "
             "`async_op=True` and wait in `finish`.",
}  # fmt: skip


@exercise(judges=("result", "messages", "bytes", "overlap"), ranks=4)
def overlapped_reducer(name: str) -> None:
    """Average gradients from hooks, bucket by bucket, while the backward pass goes on."""
    for trial in OVERLAP:
        _judge_overlap(trial, _run(name, trial, _why_overlap_stops(trial)))


def _why_overlap_stops(trial: Trial) -> str:
    return OVERLAP_HINTS["order" if trial.swapped else "deadlock"]


def _run(name: str, trial: Trial, hint: str) -> list[Trace]:
    """Run a trial; a program that cannot go on gets `hint`."""
    from utils import ranks

    try:
        seen = [one for one in ranks.call(reducers.run_trial, name, trial) if one is not None]
    except ranks.RanksError as error:
        unwritten = any(state.name == "NotImplementedError" for state in error.states.values())
        details = (f"Tried: {trial.title}.", *str(error).splitlines()[:8])
        if trial.backwards and error.cause == "raised" and not unwritten:  # `finish` missed buckets that never left
            raise NotYet("messages", OVERLAP_HINTS["next bucket"], *details) from None
        if unwritten or error.cause not in ("skipped", "order", "unmatched", "mismatch"):
            raise
        raise NotYet("messages" if error.cause == "mismatch" else "deadlock", hint, *details) from None
    if problem := next((one.problem for one in seen if one.problem), ""):
        raise NotYet("result", problem, f"Tried: {trial.title}.")
    return seen


def _judge_overlap(trial: Trial, seen: list[Trace]) -> None:
    said = f"Tried: {trial.title}."
    sent = [call for call in seen[0].calls if call.payload]
    if not sent:
        raise NotYet("messages", OVERLAP_HINTS["no messages"], said)
    if trial.backwards and len(sent) < len(trial.buckets()):
        raise NotYet("messages", OVERLAP_HINTS["next bucket"], said)
    if any(one.unwaited for one in seen):
        raise NotYet("result", OVERLAP_HINTS["not waited"], said)
    truth = reducers.averages(trial)
    for step, right in enumerate(truth):
        for rank, one in enumerate(seen):
            _judge_averages(trial, step, one.gradients[step], right, reducers.own(trial, rank)[step], said)
    buckets = trial.buckets()
    if len(sent) != trial.steps * len(buckets):
        each = len(sent) == trial.steps * sum(map(len, buckets))
        raise NotYet("messages", OVERLAP_HINTS["each gradient" if each and not trial.whole else "messages"],
                     f"{len(sent)} messages in {trial.steps} step(s) with {len(buckets)} bucket(s).", said)
    if sum(call.payload for call in sent) > trial.steps * reducers.gradient_bytes(trial):
        raise NotYet("bytes", OVERLAP_HINTS["bytes"], said)
    if any(one.waits_in_backward for one in seen):
        raise NotYet("overlap", OVERLAP_HINTS["waits"], said)
    if any(call.phase != "backward" for call in sent):
        everything = all(call.phase != "backward" for call in sent)
        raise NotYet("overlap", OVERLAP_HINTS["after backward" if everything else "late"], said)
    if not (trial.swapped or trial.whole or trial.backwards) and (late := _late(trial, seen[0])):
        raise NotYet("overlap", OVERLAP_HINTS["late"], late, said)


def _late(trial: Trial, one: Trace) -> str:
    """Say which bucket of the first step left after more gradients were ready than it needs, if any."""
    needed = 0
    for index, (bucket, call) in enumerate(zip(trial.buckets(), one.calls, strict=False)):
        needed += len(bucket)
        if call.ready > needed:
            return f"Bucket {index} could leave when {needed} gradients were ready; it left when {call.ready} were."
    return ""


def _judge_averages(trial: Trial, step: int, found: Any, right: Any, own: Any, said: str) -> None:
    """Compare one rank's gradients (one long vector) of a step with the averages, and say why they differ."""
    def near(a: Any, b: Any) -> bool:
        return bool((a - b).norm() <= gradients.CLOSE * b.norm())

    if near(found, right):
        return
    details = (f"Step {step + 1}. {said}",)
    if step:
        raise NotYet("result", OVERLAP_HINTS["second step"], *details)
    if near(found, own):
        raise NotYet("result", OVERLAP_HINTS["never copied"], *details)
    for factor, key in ((trial.n, "sum"), (trial.n / 4, "four")):
        if factor != 1 and near(found, factor * right):
            raise NotYet("result", OVERLAP_HINTS[key], *details)
    same = bool((found.sort().values - right.sort().values).norm() <= 1e-3 * right.norm())
    raise NotYet("result", OVERLAP_HINTS["mixed up" if same else "other"], *details)


# ---- a tied weight: find the bug

TIED = (
    Trial("sums", "4 ranks, a tied weight", 4),
    Trial("sums", "4 ranks, output weights that are not tied", 4, tied=False),
    Trial("sums", "4 ranks, a frozen parameter", 4, frozen=True),
    Trial("sums", "3 ranks, a tied weight", 3),
    Trial("sums", "4 ranks, no sequences on rank 3", 4, idle=(3,)),
)
TIED_HINTS = {
    "no messages": "No gradient travels.",
    "tied twice": "`token.weight` is too large by the number of ranks, and it alone: two modules hold it, so a walk "
                  "over "
                  "modules comes past it twice, and the second sum adds up what is summed already.",
    "tied scaled": "`token.weight` alone has another factor. Do not mend it afterwards: let it be summed once.",
    "tied missing": "`token.weight` alone is still this rank's own: a parameter that stands in two modules has to be "
                    "summed "
                    "once, not never.",
    "untied": "With output weights of their own, `output.weight` is never summed: it is left out by its name. Whether "
              "two "
              "modules share a parameter is a question of identity.",
    "some missing": "Some parameters are still this rank's own. Two parameters are one only if they are the same "
                    "object: "
                    "equal names inside their modules, or equal shapes, do not make them so.",
    "mean": "The gradients are averaged. Here each rank's loss is divided by the tokens of all ranks already: add up.",
    "frozen": "The frozen parameter has a gradient now. It has none on any rank, and nothing to send.",
    "idle": "A rank without sequences has gradients of `None` and leaves calls out that the others wait in. It takes "
            "part with zeros.",
    "order": "Not all ranks make the same calls in the same order.",
    "other": "The gradients are not the sums over the ranks.",
    "twice the messages": "The result is right, but the tied weight is sent twice. Each gradient travels once.",
    "bytes": "The result is right, but more is sent than each gradient once.",
}  # fmt: skip


@exercise(judges=("result", "messages", "bytes"), ranks=4)
def sum_gradients_once(name: str) -> None:
    """Sum every gradient over the ranks exactly once, whatever shares, lacks or needs none."""
    for trial in TIED:
        hint = TIED_HINTS["idle" if trial.idle else "order"]
        _judge_sums(trial, _run(name, trial, hint))


def _judge_sums(trial: Trial, seen: list[Trace]) -> None:
    said = f"Tried: {trial.title}."
    if not seen[0].calls:
        raise NotYet("messages", TIED_HINTS["no messages"], said)
    right = reducers.sums(trial)
    for rank, one in enumerate(seen):
        if trial.frozen and one.named.get(gradients.FROZEN) is not None:
            raise NotYet("result", TIED_HINTS["frozen"], said)
        own = reducers.own_named(trial, rank)
        off = {name: _ratio(one.named[name], tensor) for name, tensor in right.items()}
        off = {name: ratio for name, ratio in off.items() if ratio is None or abs(ratio - 1) > 1e-3}
        if off:
            unsummed = [name for name in off if one.named[name] is None or _ratio(one.named[name], own[name]) == 1]
            listed = ", ".join(f"`{name}`" for name in list(off)[:3])
            raise NotYet("result", TIED_HINTS[_why_sums(trial, off, unsummed)],
                         f"Off on rank {rank}: {listed}{' ...' if len(off) > 3 else ''}.", said)
    needed = sum(tensor.nbytes for tensor in right.values())
    sent = sum(call.payload for call in seen[0].calls)
    if sent > needed:
        extra = right["token.weight"].nbytes == sent - needed
        raise NotYet("bytes", TIED_HINTS["twice the messages" if extra else "bytes"],
                     f"{sent:,} bytes are sent; the gradients have {needed:,}.", said)


def _ratio(found: Any, right: Any) -> float | None:
    """Return k where found is k times right, 1 to within rounding being 1; None if there is no such k."""
    if found is None or not float(right.norm()):
        return None
    k = float((found * right).sum() / right.square().sum())
    if float((found - k * right).norm()) > 1e-3 * float(found.norm() or 1):
        return None
    return 1 if abs(k - 1) < 1e-3 else k


def _why_sums(trial: Trial, off: dict[str, float | None], unsummed: Sequence[str]) -> str:
    names, ratios = list(off), [ratio for ratio in off.values() if ratio]
    if len(names) > 1 and len(unsummed) < len(names) and ratios and all(abs(r * trial.n - 1) < 1e-2 for r in ratios):
        return "mean"
    if names == ["token.weight"]:
        if unsummed:
            return "tied missing"
        return "tied twice" if ratios and abs(ratios[0] - trial.n) < 1e-2 else "tied scaled"
    if names == ["output.weight"] and unsummed:
        return "untied"
    return "some missing" if unsummed else "other"


# ---- accumulation with DDP

ACCUMULATE = (
    Trial("accumulate", "4 ranks, four micro-batches on each", 4, micro=(4, 4, 4, 4)),
    Trial("accumulate", "4 ranks, one micro-batch on each", 4, micro=(1, 1, 1, 1)),
    Trial("accumulate", "3 ranks, three micro-batches on each", 3, micro=(3, 3, 3)),
    Trial("accumulate", "4 ranks with 4, 2, 3 and 1 micro-batches", 4, micro=(4, 2, 3, 1)),
)
ACCUMULATE_HINTS = {
    "module": "The forward pass goes through `ddp.module`, past DDP, so DDP never prepares to send. Call "
              "`ddp(tokens)`.",
    "never": "Every micro-batch stands inside `no_sync()`, so the gradients never travel. The last one has to stand "
             "outside.",
    "not the last": "A micro-batch sends, but it is not the last: what comes after it stays on its rank.",
    "ranks differ": "The ranks hold different gradients at the end.",
    "not divided": "You add up the means of the micro-batches. The loss of each has to be multiplied by the number of "
                   "ranks "
                   "and divided by `total`.",
    "divided by total": "The gradient is too small by the number of ranks: DDP divides by it as well. Multiply the "
                        "loss by it.",
    "own count": "Each rank divides by its own number of micro-batches. The mean is over those of all ranks: `total`.",
    "cleared": "Only the last micro-batch is left: gradients are cleared inside the loop.",
    "other": "The gradient is not that of the mean loss over all micro-batches of all ranks.",
    "every micro-batch": "The gradient is right, and every micro-batch sends: an average of averages is right as well, "
                         "so only "
                         "the messages show it. `ddp.no_sync()` is never used.",
    "forward outside": "The gradient is right, and every micro-batch sends, although `backward()` stands inside "
                       "`no_sync()`. "
                       "DDP decides in the forward pass: it belongs inside, too.",
    "by hand": "The gradient is right, but it is sent in other messages than DDP's buckets. Let the last micro-batch's "
               "`backward()` send.",
    "some": "The gradient is right, but more than one micro-batch sends.",
    "graphs": "The activations of several micro-batches are held at once. Call `backward()` in the loop.",
    "deadlock": "Not all ranks send equally often. Which micro-batch sends may not hang on any other number than its "
                "own: it is "
                "the last one of this rank.",
}  # fmt: skip


@exercise(judges=("result", "messages", "memory"), ranks=4)
def accumulate_ddp(name: str) -> None:
    """Accumulate over micro-batches with DDP and send once."""
    for trial in ACCUMULATE:
        _judge_accumulation(trial, _run(name, trial, ACCUMULATE_HINTS["deadlock"]))


def _judge_accumulation(trial: Trial, seen: list[Trace]) -> None:
    case = trial.case()
    said, first = tried(case), seen[0]
    found = [gradients.vector(one.named) for one in seen]
    buckets, sent = first.buckets, len(first.calls)
    if not sent or max(float((one - found[0]).norm()) for one in found) > gradients.CLOSE * float(found[0].norm()):
        key = "not the last" if sent else "module" if not first.through_ddp else "never"
        raise NotYet("messages", ACCUMULATE_HINTS[key], said)
    parts = gradients.parts_of(case.network(), case.pieces())
    _judge_gradient(trial, found[0], parts, said)
    if sent != buckets:
        times, micro = f"{sent} messages; DDP has {buckets} buckets.", max(trial.micro)
        if sent == micro * buckets and micro > 1:
            key = "forward outside" if first.quiet else "every micro-batch"
            raise NotYet("messages", ACCUMULATE_HINTS[key], times, said)
        raise NotYet("messages", ACCUMULATE_HINTS["some" if sent % buckets == 0 else "by hand"], times, said)
    if max(one.alive for one in seen) > 1:
        raise NotYet("memory", ACCUMULATE_HINTS["graphs"], said)


def _judge_gradient(trial: Trial, found: Any, parts: Any, said: str) -> None:
    """Compare with the truth, and with what well-known mistakes give."""
    right, _ = gradients.truth(parts)
    total = sum(trial.micro)

    def near(vector: Any) -> bool:
        return float((found - vector).norm()) <= 5 * gradients.CLOSE * float(vector.norm())

    if near(right):
        return
    by_rank = [sum(piece.mean for piece in row) for row in parts]
    guesses = {
        "not divided": sum(by_rank) / trial.n,
        "divided by total": right / trial.n,
        "own count": sum(g / len(row) for g, row in zip(by_rank, parts, strict=True)) / trial.n,
        "cleared": sum(row[-1].mean for row in parts) / total,
    }
    for key, guess in guesses.items():
        if near(guess):
            raise NotYet("result", ACCUMULATE_HINTS[key], said)
    distance = float((found - right).norm() / right.norm())
    raise NotYet("result", ACCUMULATE_HINTS["other"], f"Relative distance: {distance:.2g}.", said)
