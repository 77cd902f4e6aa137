"""Trials of pipeline steps on the ranks: the mended step, and the list of actions carried out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from utils import schedule
from utils.check.pipeline_judge import explain_stop, judge_messages, judge_order, judge_result
from utils.check.pipelines import Case, Seen, batch_of, last_seen, run_trial
from utils.check.verdict import NotAttempted, NotYet

Finding = tuple[str, str]
Judge = Callable[[Any, Sequence[Seen], Sequence[Any]], Finding | None]


@dataclass(frozen=True)
class Run(Case):
    """A trial of lists of actions. order: the schedule's name, for `schedule.build`; rows: lists to take instead."""

    order: str = "1f1b"
    rows: tuple[tuple[str, ...], ...] = ()

    @property
    def built(self) -> schedule.Schedule:
        """Return the schedule: part k is stage k."""
        return schedule.build(self.rows or self.order, len(self.chain), self.micro_batches or 1)

    @property
    def split(self) -> bool:
        """Tell whether its backwards come in two."""
        return any(action.kind == "W" for row in self.built.ranks for action in row)

    def arguments(self, place: int) -> tuple[Any, ...]:
        """Hand over the list of actions of the part at `place`."""
        return (list(self.built.ranks[place]),)

    def __str__(self) -> str:
        return f"{self.order} with {super().__str__()}"


MENDED = (
    Case((0, 1, 2), (1, 1, 1), sequences=8, micro_batches=4),
    Case((0, 1), (1, 1), sequences=7, micro_batches=3),
    Case((0, 1, 2), (1, 1, 1), micro_batches=3, uncounted=(0, 1, 3)),
    Case((3, 1), (1, 1), micro_batches=3, uncounted=(2, 0, 5, 5, 1, 4)),  # nothing counts in one micro-batch
    Case((2,), (1,), sequences=5, micro_batches=2, uncounted=(0, 3)),
)
ACTIONS = (
    Run((0, 1, 2), (1, 1, 1), sequences=8, micro_batches=4, order="gpipe"),
    Run((0, 1, 2, 3), (1, 1, 1, 1), sequences=12, micro_batches=6),
    Run((0, 1), (1, 1), sequences=10, micro_batches=10),
    Run((0, 1, 2), (1, 1, 1), sequences=7, micro_batches=4),
    Run((1, 3, 0), (1, 1, 1), sequences=7, micro_batches=5),
    Run((0, 1, 2), (1, 1, 1), sequences=8, micro_batches=4, order="zb-h1"),
    Run((0, 1, 2, 3), (1, 1, 1, 1), sequences=7, micro_batches=6, order="zb-h2"),
    Run((2, 0), (1, 1), sequences=3, micro_batches=2, order="zb-h1"),
    Run((2, 0), (1, 1), sequences=3, micro_batches=3, order="naive"),
    Run((1,), (2,), sequences=5, micro_batches=2, order="zb-h1"),
)


def judge_mended(name: str) -> NotYet | NotAttempted | None:
    """Judge `mended_step`."""
    return _judged(name, MENDED, _mended)


def judge_actions(name: str) -> NotYet | NotAttempted | None:
    """Judge `run_actions`."""
    return _judged(name, ACTIONS, _carried_out)


def _judged(name: str, cases: Sequence[Case], judge: Judge) -> NotYet | NotAttempted | None:
    """Run the trials one by one and return the first finding."""
    from utils import ranks

    done: list[Case] = []
    for case in cases:
        try:
            answers = ranks.call(run_trial, name, case)
        except ranks.RanksError as error:
            if error.cause == "interrupted":
                raise
            seen = ranks.call(last_seen)
            return NotYet(*_explain(case, [seen[rank] for rank in case.chain], done, error))
        if "not written" in answers:
            return NotAttempted()
        by_part = [answers[rank] for rank in case.chain]
        if finding := judge(case, by_part, done):
            return NotYet(*finding)
        done.append(case)
    return None


def _explain(case: Case, by_part: Sequence[Seen], done: Sequence[Case], error: Any) -> Finding:
    """Explain a trial that raised or hung; more than `explain_stop` where sends wait for each other."""
    what, hint = explain_stop(case, by_part, done, error)
    if "a send to each other" in hint:
        hint += (
            " In this order a rank sends activations down while its neighbour sends a gradient up: waiting at once for "
            "what isend returns is as bad as send."
        )
    if what == "error" and "KeyError" in hint:
        hint += " Keep the inputs and outputs of a forward under its micro-batch's number until its backward."
    if what == "error" and "IndexError" in hint and isinstance(case, Run):
        hint += " How many micro-batches there are stands in `actions`: one for each forward."
    if isinstance(case, Run) and case.split:
        if what == "error":
            found = next((remedy for words, remedy in _SPLIT_ERRORS.items() if words in hint), "")
            hint = hint.partition(" A gradient is None:")[0].partition(" Only the last part")[0] + found
        if what == "deadlock" and "Write down" in hint:
            hint += " Does a gradient leave as soon as `I` is done, before `W`?"
    return what, hint


_BOTH = (
    "Besides `F` and `B` there are `I`, backward for the inputs, and `W`, backward for the weights: every rank has to "
    "do both."
)
_SPLIT_ERRORS = {
    "a second time": " `I` and `W` go through one graph: tell `I` to keep it (retain_graph=True).",
    "parameter `tensor`": f" A parameter has no gradient. {_BOTH}",
    "requires_grad=False": " The first part's inputs are tokens, without gradient: there `I` has nothing to do.",
    "created only for scalar": " `W` needs the gradient that `I` received: keep it until then.",
    "NoneType": " `W` needs the gradient that `I` received: keep it until then.",
}


# ---------------------------------------------------------------------------------------------------------------------
# The mended step


def _mended(case: Case, by_part: Sequence[Seen], done: Sequence[Case]) -> Finding | None:
    kinds = {kind for seen in by_part for kind in seen.gradients.values()}
    if kinds != {"right"}:
        return "result", _why_not_mended(case, by_part, kinds) or _generic(case, by_part, done)
    if "nan" in by_part[-1].returned:
        return "result", (
            f"{case}: the loss is not a number (NaN). In one micro-batch no target counts, and the mean over nothing "
            'is 0 / 0. Add up (`reduction="sum"`) and divide by the number of targets that count in the batch.'
        )
    if by_part[-1].returned != "right" and case.uncounted:
        return "result", (
            f"{case}: the gradients are right, but the last part returns {by_part[-1].returned} where the mean loss "
            "over all targets that count is wanted. Weigh the losses as you weigh the gradients, and add up."
        )
    return judge_result(case, by_part, done) or judge_messages(case, by_part) or judge_order(case, by_part)


def _generic(case: Case, by_part: Sequence[Seen], done: Sequence[Case]) -> str:
    finding = judge_result(case, by_part, done)
    assert finding is not None, "judge_result passes what has wrong gradients"
    return finding[1]


def _why_not_mended(case: Case, by_part: Sequence[Seen], kinds: set[str]) -> str:
    """Name the mistake behind wrong gradients, or nothing. The tied weight mixes two parts, so it is left aside."""
    m = case.micro_batches or 1
    factors = [_factor(place, seen, len(by_part)) for place, seen in enumerate(by_part)]
    if "missing" in kinds:
        return ""
    if factors[-1] is not None and len(factors) > 1 and all(factor is None for factor in factors[:-1]):
        size = "right" if factors[-1] == 1 else f"{factors[-1]:.3g} times what they should be"
        return (
            f"{case}: on the last part the gradients are {size}, on the others they are not even a multiple. The last "
            "part sends the gradient of micro-batch 0 first; which micro-batch do the others apply it to? Nothing "
            "complains, since all have the same shape."
        )
    if None in factors:
        if case.uncounted:
            return _UNCOUNTED.format(case=case)
        return ""
    targets = batch_of(case)[1]
    if case.uncounted and all(_close(factor, (targets != -100).float().mean().item()) for factor in factors if factor):
        return f"{case}: gradients are too small: you divide by all targets, but those that are -100 do not count."
    numbers = [float(factor) for factor in factors if factor is not None]
    if m > 1 and len(numbers) > 1 and _close(numbers[-1], 1) and all(_close(n, m) for n in numbers[:-1]):
        return (
            f"{case}: right on the last part, {m} times too large on the others. You scale gradients on the last part "
            "after it has sent its own away. Scale the loss, before backward: then all that flows back is scaled."
        )
    if m > 1 and len(numbers) > 1 and _close(numbers[-2] * m, numbers[-1]):
        return (
            f"{case}: each part divides again, so the gradients get {m} times smaller with every part on the way back. "
            "Scale once, where the loss is made."
        )
    if m > 1 and all(_close(n, 1 / m) for n in numbers):
        return f"{case}: every gradient is {m} times too small: you divide by m, and then once more."
    return ""


_UNCOUNTED = (
    "{case}: right while all targets count, wrong now that some are -100. A micro-batch weighs by its targets that "
    "count, (targets != -100).sum(), and not by its sequences."
)


def _factor(place: int, seen: Seen, parts: int) -> float | None:
    """Return the one number by which a part's gradients are too large, or None. The tied weight does not count."""
    ends = {"token.weight"} if place == 0 else set()
    ends |= {"output.weight"} if place == parts - 1 else set()
    kinds = {kind for name, kind in seen.gradients.items() if name not in ends}
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    if kind == "right":
        return 1.0
    return float(kind.split()[1]) if kind.startswith("times") else None


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=0.01)


# ---------------------------------------------------------------------------------------------------------------------
# The list of actions


def _carried_out(case: Run, by_part: Sequence[Seen], done: Sequence[Run]) -> Finding | None:
    return (
        _cut_wrongly(case, by_part)
        or _split_wrongly(case, by_part)
        or judge_result(case, by_part, done)
        or judge_messages(case, by_part)
        or _not_in_order(case, by_part)
        or _held_too_long(case, by_part)
    )


def _cut_wrongly(case: Run, by_part: Sequence[Seen]) -> Finding | None:
    """Look for micro-batches that are not all of the batch."""
    if len(case.chain) == 1:
        return None
    sizes = [size for peer, size in by_part[0].messages() if peer == case.chain[1]]
    if len(sizes) == case.micro_batches and sum(sizes) < 0.99 * case.activations:
        return "result", (
            f"{case}: only {sum(sizes)} of {case.activations} bytes of activations cross the first cut, so part of the "
            "batch is left out. Cut it into as many micro-batches as there are forwards in `actions`."
        )
    return None


def _split_wrongly(case: Run, by_part: Sequence[Seen]) -> Finding | None:
    """Look for gradients that show what became of `I` and `W`."""
    if not case.split:
        return None
    if any(seen.changed for seen in by_part):
        return "messages", (
            f"{case}: a tensor is changed while the message with it may still be on its way. `W` adds to `x.grad` a "
            "second time unless it is told which gradients are wanted: inputs=[*part.parameters()]."
        )
    kinds = {kind for seen in by_part for kind in seen.gradients.values()}
    if "missing" in kinds:
        return "result", (f"{case}: some gradients are missing. {_BOTH}")
    if kinds - {"right", "other"} == {"times 2"}:
        return "result", (
            f"{case}: gradients are twice what they should be: both `I` and `W` add to those of the weights. "
            "backward(..., inputs=[x]) leaves the weights alone."
        )
    return None


def _not_in_order(case: Run, by_part: Sequence[Seen]) -> Finding | None:
    """Compare the order of the work, and of the gradients that leave, with the list."""
    for place, (rank, seen, row) in enumerate(zip(case.chain, by_part, case.built.ranks, strict=True)):
        listed = "".join(action.kind for action in row)
        did = "".join(seen.order)
        whole, inputs, weights = (_work(listed, nothing) for nothing in ("", "W", "I"))
        if did != whole and sorted(did) == sorted(whole + "B" * listed.count("B")):
            return "order", f"{case}: on rank {rank} a `B` goes through the graph twice. Do it in one `backward()`."
        if did != whole and (place or did not in (inputs, weights)):  # the first part has nothing to do in `I`
            if did == inputs:
                return "order", (
                    f"{case}: rank {rank} does the whole backward in `I`, and nothing in `W`. Then the gradient leaves "
                    "no sooner than after `B`. Ask in `I` for the inputs' gradient only: backward(..., inputs=[x])."
                )
            return "order", (
                f"{case}: rank {rank} works in the order {did}; its list asks for {listed}. Go through `actions` one "
                "by one, and do what each says before you look at the next."
            )
        if place and _with_sends(case.chain[place - 1], seen) != _work(listed.replace("B", "I"), "", sends="S"):
            return "order", (
                f"{case}: rank {rank} works in the right order, but gradients leave late. The ranks before wait for "
                "them: send as soon as `I` (or `B`) is done."
            )
    return None


def _work(listed: str, nothing: str, sends: str = "") -> str:
    """Turn a list of kinds into F and B as they are seen; `nothing` is the kind that does none, sends follow `I`."""
    kept = (kind for kind in listed if kind != nothing)
    return "".join("F" if kind == "F" else "B" + sends * (kind == "I") for kind in kept)


def _with_sends(before: int, seen: Seen) -> str:
    """Write F and B as they were seen, and S where a message left for the rank before."""
    letters = {"forward": "F", "backward": "B", "send": "S"}
    return "".join(letters[op] for op, peer, _ in seen.log if op in letters and (op != "send" or peer == before))


def _held_too_long(case: Run, by_part: Sequence[Seen]) -> Finding | None:
    """Compare the outputs that were alive with what the schedule has to hold; one more may hang on a variable."""
    peaks = schedule.simulate(case.built).peak_activations
    for rank, seen, peak in zip(case.chain, by_part, peaks, strict=True):
        if seen.held > peak + 1:
            return "memory", (
                f"{case}: rank {rank} has {seen.held} outputs alive at once, where this schedule needs {peak}. After "
                "its backward a micro-batch's output is of no use: take it out of what you keep (`kept.pop(i)`). "
                "Otherwise 1F1B holds as much as GPipe."
            )
    return None
