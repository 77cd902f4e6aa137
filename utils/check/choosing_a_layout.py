"""Checks of the exercises on choosing a layout: states by ZeRO stage, exposed traffic, the deepest model, the choice.

All are plain functions. The first two are held against a count and a clock of their own, the others against the
planner: a layout is scored by its **regret**, the share of the best layout's speed that it gives away.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from utils import plan
from utils.check.verdict import NotYet, exercise

# ---------------------------------------------------------------------------------------------------------- zero bytes

ZERO = [(7_000_000_001, 1, 1), (7_000_000_001, 1, 64), (70_553_706_496, 8, 16), (1_000_003, 3, 7), (999, 2, 4)]


def zero_reference(parameters: int, model_ranks: int, data_ranks: int, stage: int, each: Sequence[int] = (2, 4, 12),
                   up: bool = True) -> int:  # fmt: skip
    """Count the bytes of states on the rank that holds most; up: pieces that do not divide are rounded up."""
    held = _part(parameters, model_ranks, up)
    piece = _part(held, data_ranks, up)
    return sum(size * (piece if stage >= first else held) for size, first in zip(each, (3, 2, 1), strict=True))


def _part(whole: int, ranks: int, up: bool) -> int:
    return -(-whole // ranks) if up else whole // ranks


def _zero_mistakes(p: int, m: int, d: int, stage: int) -> dict[str, float]:
    """Give what known mistakes lead to: hint -> bytes."""
    held = _part(p, m, True)
    return {
        "Gradients are kept in 32 bits here: 4 bytes for each, not 2.": zero_reference(p, m, d, stage, (2, 2, 12)),
        "Adam's states are 12 bytes: two averages, and the copy of the parameter in 32 bits.":
            zero_reference(p, m, d, stage, (2, 4, 8)),
        "You share out everything as soon as the stage is above 0. Each stage shares one kind more: states, gradients, "
        "parameters.": 18 * _part(held, d, True) if stage else 18 * held,
        "Your stages are one too far: stage 1 shares the states only.": zero_reference(p, m, d, stage + 1),
        "Your stages come one too late: stage 1 shares the states already.": zero_reference(p, m, d, stage - 1),
        "Stage 3 shares the parameters too.": zero_reference(p, m, d, min(stage, 2)),
        "Tensor and pipeline ranks divide the model first: only what one of them holds is shared over data ranks.":
            zero_reference(p, 1, d, stage),
        "Data ranks that share nothing do not make a rank's part smaller: without ZeRO each holds all of it.":
            18 * _part(held, d, True),
        "Pieces that do not divide are rounded up: the rank that holds most counts.":
            zero_reference(p, m, d, stage, up=False),
        "You divide without rounding. Parameters are whole; the rank that holds most counts.":
            sum(size * (p / m / d if stage >= first else p / m) for size, first in ((2, 3), (4, 2), (12, 1))),
        "Return bytes, not gigabytes.": zero_reference(p, m, d, stage) / 1e9,
        "Return bytes, not GiB.": zero_reference(p, m, d, stage) / 2**30,
        "You return the whole cluster's bytes; one rank's are asked for.": zero_reference(p, m, d, stage) * m * d,
    }  # fmt: skip


@exercise(judges=("result",))
def zero_bytes(function: Callable[[int, int, int, int], float]) -> NotYet | None:
    """Bytes of parameters, gradients and optimizer states on one rank, by ZeRO stage."""
    cases = [(*case, stage) for case in ZERO for stage in range(4)]
    answers = [_number(function(*case)) for case in cases]
    rights = [float(zero_reference(*case)) for case in cases]
    return _explained(answers, rights, [_zero_mistakes(*case) for case in cases], cases,
                      "Take it apart: what one model rank holds, then which of the three kinds this stage shares.",
                      ("parameters", "model ranks", "data ranks", "stage"))  # fmt: skip


def _number(value: Any) -> float:
    """Take the learner's answer as a number."""
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        value = value.item()  # of NumPy or torch
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        kind = "None: is there a `return`?" if value is None else f"of type `{type(value).__name__}`"
        raise NotYet("result", f"Return a number; yours is {kind}.")
    return float(value)


def _explained(answers: Sequence[float], rights: Sequence[float], mistakes: Sequence[dict[str, float]],
               cases: Sequence[Any], otherwise: str, names: Sequence[str]) -> NotYet | None:  # fmt: skip
    """Return None if all answers are right, else the hint of the one mistake that gives them all."""

    def same(a: float, b: float) -> bool:
        return math.isclose(a, b, rel_tol=1e-10, abs_tol=2e-12)

    wrong = [i for i, (a, right) in enumerate(zip(answers, rights, strict=True)) if not same(a, right)]
    if not wrong:
        return None
    first = wrong[0]
    asked = ", ".join(f"{name} {value:,}" for name, value in zip(names, cases[first], strict=True))
    detail = f"{asked}: your {answers[first]:,.12g}, right is {rights[first]:,.12g}"
    for hint in mistakes[0]:
        if all(same(max(a, 0.0), table[hint]) for a, table in zip(answers, mistakes, strict=True)):
            return NotYet("result", hint, detail)
    return NotYet("result", otherwise, detail)


# ----------------------------------------------------------------------------------------------------- exposed seconds

EVEN = [(0.01, 100e6)] * 12
UNEVEN = [(0.003, 10e6), (0.02, 300e6), (0.001, 0.0), (0.004, 90e6), (0.05, 20e6), (0.002, 500e6), (0.006, 41e6)]
TRAFFIC: list[tuple[list[tuple[float, float]], float, float, float]] = [
    (EVEN, 20e9, 1e-4, 100e6), (EVEN, 5e9, 1e-3, 1.0), (EVEN, 5e9, 2e-3, 250e6), (EVEN, 50e9, 1e-3, 1e12),
    (UNEVEN, 10e9, 1e-3, 100e6), (UNEVEN, 2e9, 5e-3, 300e6), (UNEVEN[::-1], 4e9, 2e-3, 60e6),
    ([(0.01, 5e6)], 1e9, 1e-3, 1e6),
]  # fmt: skip


@dataclass(frozen=True)
class Habits:
    """Hold how messages are sent; each field is a mistake where it is not as it is here."""

    queue: bool = True  # one message at a time
    ready: bool = True  # a layer's gradient is there once its backward is done, not when it begins
    latency: str = "message"  # paid for each "message", "layer", "once" or "never"
    bucket: bool = True
    full: bool = True  # a bucket that is just full is sent
    rest: bool = True  # what is left at the end is sent
    overlap: bool = True
    answer: str = "exposed"  # or "end", "traffic"


def exposed_reference(layers: Sequence[tuple[float, float]], bandwidth: float, latency: float, bucket: float,
                      habits: Habits = Habits()) -> float:  # fmt: skip
    """Play the backward pass against a clock; return how much later than it the last message ends."""
    now = free = held = traffic = 0.0
    inside = 0
    for place, (seconds, size) in enumerate(layers):
        start, now = now, now + seconds
        held, inside, last = held + size, inside + 1, place == len(layers) - 1
        enough = held >= bucket if habits.full else held > bucket
        if not (enough or not habits.bucket or (last and habits.rest)):
            continue
        paid = {"message": 1, "layer": inside, "once": float(traffic == 0), "never": 0}[habits.latency] * latency
        takes = paid + held / bandwidth
        begin = now if habits.ready else start
        free = (max(free, begin) if habits.queue else begin) + takes if habits.queue else max(free, begin + takes)
        traffic, held, inside = traffic + takes, 0.0, 0
    end = free if habits.overlap else now + traffic
    return {"exposed": max(0.0, end - now), "end": end, "traffic": traffic}[habits.answer]


WRONG_HABITS = {
    "Nothing runs beside the backward pass in your answer: a full bucket can leave while later layers still compute.":
        Habits(overlap=False),
    "That is the time of all messages. Only what outlasts the backward pass is exposed.": Habits(answer="traffic"),
    "That is when the last message ends. Exposed is what comes after the end of the backward pass.":
        Habits(answer="end"),
    "Messages share one network: a bucket waits until the one before it has gone.": Habits(queue=False),
    "A gradient is there when its layer's backward pass is done, not when it begins.": Habits(ready=False),
    "You pay the latency for each layer; a bucket is one message.": Habits(latency="layer"),
    "You pay the latency once; every message has its own.": Habits(latency="once"),
    "The latency is missing: a message takes latency + bytes / bandwidth.": Habits(latency="never"),
    "You send each layer by itself: collect until there are at least `bucket` bytes.": Habits(bucket=False),
    "A bucket with just `bucket` bytes is full and leaves at once.": Habits(full=False),
    "What is left when the backward pass ends was never sent.": Habits(rest=False),
}


def _exposed_mistakes(layers: Sequence[tuple[float, float]], bandwidth: float, latency: float, bucket: float
                      ) -> dict[str, float]:  # fmt: skip
    network = (bandwidth, latency, bucket)
    found = {hint: exposed_reference(layers, *network, habits) for hint, habits in WRONG_HABITS.items()}
    traffic = exposed_reference(layers, *network, Habits(answer="traffic"))
    backward = sum(seconds for seconds, _ in layers)
    last = latency + layers[-1][1] / bandwidth
    return found | {
        "Traffic less backward pass is the least it could be. Early gradients can leave early, the last ones cannot.":
            max(0.0, traffic - backward),
        "The layers come in the order in which the backward pass reaches them: go through them from the front.":
            exposed_reference(layers[::-1], *network),
        "That is the last layer's message alone. Others may still wait before it.": last,
    }  # fmt: skip


@exercise(judges=("result",))
def exposed_seconds(function: Callable[[Sequence[tuple[float, float]], float, float, float], float]) -> NotYet | None:
    """Seconds of an all-reduce in buckets that outlast the backward pass."""
    answers = [round(_number(function(list(case[0]), *case[1:])), 12) for case in TRAFFIC]
    rights = [round(exposed_reference(*case), 12) for case in TRAFFIC]
    names = ("layers", "bytes/s", "latency", "bucket")
    cases = [(len(layers), bandwidth, latency, bucket) for layers, bandwidth, latency, bucket in TRAFFIC]
    mistakes = [{hint: round(value, 12) for hint, value in _exposed_mistakes(*case).items()} for case in TRAFFIC]
    return _explained(answers, rights, mistakes, cases,
                      "Keep two clocks: when the backward pass gets to a layer, and when the network is free.",
                      names)  # fmt: skip


# --------------------------------------------------------------------------------------------------------- most layers


STATES = ("parameters", "gradients", "optimizer")


def _deep_cases() -> list[tuple[plan.Model, plan.Cluster, plan.Layout]]:
    return [
        (plan.LLAMA_8B, plan.Cluster(8, plan.A100), plan.Layout(data=8, zero=3, micro_batch=2, recompute="full")),
        (plan.LLAMA_8B, plan.Cluster(8, plan.H100), plan.Layout(data=2, tensor=4, zero=1, recompute="none")),
        (plan.LLAMA_70B, plan.Cluster(32, plan.H100),
         plan.Layout(data=1, tensor=8, pipeline=4, zero=0, accumulate=8, recompute="full")),
        (plan.GPT_22B, plan.Cluster(16, plan.H200),
         plan.Layout(data=2, tensor=2, pipeline=4, zero=1, accumulate=8, recompute="none")),
        (plan.LLAMA_405B, plan.Cluster(8, plan.V100), plan.Layout(data=8, zero=1, recompute="full")),
    ]  # fmt: skip


def _deepest(
    model: plan.Model, cluster: plan.Cluster, layout: plan.Layout, fits: Callable[[plan.Estimate], bool]
) -> int:
    """Find the largest number of layers for which `fits` holds; 0 if there is none. Memory grows with the layers."""

    def right(layers: int) -> bool:
        return fits(plan.estimate(replace(model, layers=layers), cluster, layout, simulate=None))

    low, high = max(0, layout.stages - 3), max(1, layout.stages - 2)
    while right(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if right(middle) else (low, middle)
    return low


@functools.cache
def _deep_answers() -> list[tuple[int, dict[str, int]]]:
    """Give, for each case, the right number and what known mistakes lead to."""
    found = []
    for model, cluster, layout in _deep_cases():
        right = _deepest(model, cluster, layout, lambda e: e.fits)
        mistakes = {
            "Part of a GPU's memory is not for you: ask `.fits`, or compare with `.limit_bytes`.":
                _deepest(model, cluster, layout, lambda e: e.memory_bytes <= e.cluster.gpu.memory),
            "You count the states only. Activations and buffers need room too.":
                _deepest(model, cluster, layout, lambda e: sum(e.memory[k] for k in STATES) <= e.limit_bytes),
            "Every stage has to fit, not their mean: look at the fullest GPU, `memory_bytes`.":
                _deepest(model, cluster, layout,
                         lambda e: sum(sum(r.values()) for r in e.memory.ranks) / len(e.memory.ranks) <= e.limit_bytes),
            "That is the first number that does not fit; the one before it does.": right + 1,
            "One more still fits: where does your search end?": max(0, right - 1),
            "Numbers that the stages do not divide evenly are allowed: do not step by `pipeline`.":
                right // layout.pipeline * layout.pipeline,
            "The layers of the given model are no limit: go on until it does not fit.": min(right, model.layers),
            "You stop too early: double the number until it does not fit, then search between.": min(right, 128),
            "That is the layers of one stage; the model's are asked for.": right // layout.stages,
            "Where not even one layer fits, return 0.": max(1, right),
            "Return the number of layers, not of parameters.": replace(model, layers=max(1, right)).parameters,
        }  # fmt: skip
        found.append((right, mistakes))
    return found


@exercise(judges=("result",))
def most_layers(function: Callable[[plan.Model, plan.Cluster, plan.Layout], int]) -> NotYet | None:
    """The largest number of layers with which a model fits, under a given layout."""
    cases = _deep_cases()
    answers = [_number(function(*case)) for case in cases]
    rights = [float(right) for right, _ in _deep_answers()]
    mistakes: list[dict[str, float]] = [{hint: float(n) for hint, n in table.items()} for _, table in _deep_answers()]
    named = [(model.name, cluster.gpus, str(layout)) for model, cluster, layout in cases]
    off = [i for i, (a, right) in enumerate(zip(answers, rights, strict=True)) if a != right]
    if not off:
        return None
    i = off[0]
    asked = f"{named[i][0]}, {named[i][1]} GPUs, {named[i][2]}"
    detail = f"{asked}: your {answers[i]:,.0f} layers, right is {rights[i]:,.0f}"
    for hint in mistakes[0]:
        if all(a == table[hint] for a, table in zip(answers, mistakes, strict=True)):
            return NotYet("result", hint, detail)
    otherwise = "Ask `plan.estimate(replace(model, layers=n), cluster, layout).fits` for one number after another."
    return NotYet("result", otherwise, detail)


# ---------------------------------------------------------------------------------------------------------- the choice

BUDGET, MEAN, WORST = 100, 0.05, 0.15


@dataclass(frozen=True)
class Case:
    """A model, a cluster and a batch, to choose a layout for."""

    model: plan.Model
    cluster: plan.Cluster
    batch: int

    def __str__(self) -> str:
        return f"{self.model.name}, {self.cluster.gpus} {self.cluster.gpu.name}, {self.batch} sequences"


SHOWN = (
    Case(plan.LLAMA_8B, plan.Cluster(64, plan.H100), 256),
    Case(plan.GPT_22B, plan.Cluster(64, plan.A100), 256),
    Case(plan.LLAMA_70B, plan.Cluster(256, plan.H100), 256),
)
WITHHELD = (
    Case(plan.LLAMA_8B, plan.Cluster(16, plan.A100_40), 64),
    Case(plan.GPT_175B, plan.Cluster(256, plan.A100), 512),
    Case(plan.LLAMA_70B, plan.Cluster(64, plan.H100), 128),
    Case(plan.GPT_1_7B, plan.Cluster(32, plan.V100), 512),
    Case(plan.LLAMA_405B, plan.Cluster(256, plan.H100), 128),
)
SLOW = {
    "recompute": "It computes a whole forward pass again. Try what fits without recomputation, on more model ranks.",
    "tensor": "Tensor ranks wait for their messages: take as few as memory allows, and never more than a node has.",
    "bubble": "Its pipeline idles: fewer stages, or smaller micro-batches, so that more of them follow each other.",
    "data": "Gradients or parameters travel for too long: fewer data ranks, or another ZeRO stage.",
    "compute": "It computes for longer than the best: matrices cut too thin, or stages of unequal work.",
}


class Refused(Exception):
    """Say that the function broke a rule of the game: what is off, and how."""

    def __str__(self) -> str:
        return str(self.args[-1])


@functools.cache
def best(case: Case) -> plan.Estimate:
    """Give the planner's best layout without context ranks and without interleaving."""
    found = plan.search(case.model, case.cluster, case.batch, keep=1, context=(1,), schedule=("1f1b",), virtual=(1,))
    return found[0]


def judged(function: Callable[[plan.Model, plan.Cluster, int], plan.Layout], case: Case) -> tuple[plan.Estimate, int]:
    """Call the function, count its estimates and refuse a search; return its layout's estimate, and the count."""
    estimate, search, used = plan.estimate, plan.search, 0

    def counted(*arguments: Any, **options: Any) -> plan.Estimate:
        nonlocal used
        used += 1
        if used > BUDGET:
            raise Refused("estimates", f"{case}: more than {BUDGET} estimates. Leave out what cannot win.")
        return estimate(*arguments, **options)

    def refused(*_: Any, **__: Any) -> None:
        raise Refused("search", "`plan.search` is what you play against. Choose with `plan.estimate`.")

    inside = sys.modules["utils.plan.search"]  # `plan.search` is the function
    try:
        plan.estimate, plan.search, inside.search = counted, refused, refused  # type: ignore[assignment, attr-defined]
        layout = function(case.model, case.cluster, case.batch)
    finally:
        plan.estimate, plan.search, inside.search = estimate, search, search  # type: ignore[attr-defined]
    if not isinstance(layout, plan.Layout):
        raise Refused("result", f"{case}: return a `plan.Layout`, not {type(layout).__name__}.")
    if layout.context > 1 or layout.virtual > 1:
        raise Refused("result", f"{case}, {layout}: context ranks and interleaving are out of the game.")
    try:
        e = estimate(case.model, case.cluster, layout)
    except plan.PlanError as error:
        raise Refused("result", f"{case}, {layout}: {error}") from None
    if layout.global_batch != case.batch:
        parts = f"{layout.data} x {layout.micro_batch} x {layout.accumulate} = {layout.global_batch}"
        raise Refused("batch", f"{case}: data x micro-batch x accumulate has to be the batch; yours is {parts}.")
    return e, used


@exercise(judges=("memory", "batch", "regret"))
def choose(function: Callable[[plan.Model, plan.Cluster, int], plan.Layout]) -> NotYet | None:
    """A layout for clusters that were not shown, nearly as fast as the planner's best."""
    found: list[tuple[float, Case, plan.Estimate]] = []
    for case in WITHHELD:
        try:
            e, _ = judged(function, case)
        except Refused as refused:
            return NotYet(*refused.args)
        if not e.fits:
            kind = max(e.memory.kinds, key=lambda name: e.memory.kinds[name])
            size, limit = e.memory_bytes / 2**30, e.limit_bytes / 2**30
            return NotYet("memory", f"{case}, {e.layout}: it needs {size:.0f} GiB of {limit:.0f}, most of it {kind}. "
                                    "Fit comes first: ask `.fits` of every candidate.")  # fmt: skip
        found.append((1 - e.tokens_per_second_per_gpu / best(case).tokens_per_second_per_gpu, case, e))
    mean, (worst, case, e) = sum(regret for regret, _, _ in found) / len(found), max(found, key=lambda item: item[0])
    if mean <= MEAN and worst <= WORST:
        return None
    return NotYet("regret", f"{case}, {e.layout}: {SLOW[_loss(e, best(case))]}",
                  *(f"{c}: regret {100 * regret:.1f} %" for regret, c, _ in found),
                  f"Mean {100 * mean:.1f} % (at most {100 * MEAN:.0f}), worst {100 * worst:.1f} % (at most "
                  f"{100 * WORST:.0f}).")  # fmt: skip


def _loss(mine: plan.Estimate, other: plan.Estimate) -> str:
    """Name the term in which a layout loses most against another."""

    def spent(e: plan.Estimate) -> dict[str, float]:
        t = e.time.terms
        return {"recompute": t["recompute"], "tensor": t["tensor"] + t["context"], "data": t["data"] + t["optimizer"],
                "bubble": t["bubble"] + t["pipeline"], "compute": t["compute"] + t["host"]}  # fmt: skip

    a, b = spent(mine), spent(other)
    return max(a, key=lambda term: a[term] - b[term])
