"""Pictures of the lesson on choosing a layout and of its exercises, drawn from estimates and published figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils import figures, plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GIB = 2**30
NOT_WRITTEN = "Not written yet: what your function does will be shown here."
KINDS = ("parameters", "gradients", "optimizer", "activations", "logits", "transient")
TERMS = {
    "compute": ("compute", "optimizer", "host"), "recompute": ("recompute",), "tensor": ("tensor",),
    "data": ("data",), "context, expert": ("context", "expert"), "pipeline": ("pipeline",), "bubble": ("bubble",),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def memory(model: plan.Model, cluster: plan.Cluster, layout: plan.Layout) -> tuple[Figure, str]:
    """Draw what pipeline ranks hold at their peak, by kind, against what a GPU has; of many ranks four are drawn.

    A layout that this model or this cluster cannot have is said to be so, with the rule.
    """
    try:
        e = plan.estimate(model, cluster, layout, simulate=None)
    except plan.PlanError as refused:
        fig, ax = figures.new(width=7.2, height=2.2)
        ax.set_axis_off()
        ax.text(0, 0.5, _wrapped(f"Refused. {refused}"), va="center")
        return fig, f"Layout {layout} is refused. {refused}"
    last = len(e.memory.ranks) - 1
    shown = sorted({0, last // 3, 2 * last // 3, last})
    fig, ax = figures.new(width=7.2, height=1.35 + 0.36 * len(shown))
    for row, rank in enumerate(shown):
        left = 0.0
        for number, kind in enumerate(KINDS):
            size = e.memory.ranks[rank].get(kind, 0.0) / GIB
            ax.barh(row, size, left=left, height=0.62, color=figures.colour(number), hatch=figures.pattern(number),
                    edgecolor="white", label=kind if row == 0 else None)  # fmt: skip
            left += size
    have, usable = cluster.gpu.memory / GIB, e.limit_bytes / GIB
    ax.axvline(have, color="black")
    ax.axvline(usable, color="black", linestyle="--")
    ax.text(have, -0.75, f" {have:.0f} GiB", va="center")
    ax.text(usable, -0.75, "usable ", va="center", ha="right")
    ax.set_yticks(range(len(shown)), [f"stage {rank}" for rank in shown])
    ax.set_ylim(len(shown) - 0.5, -1.1)
    ax.set_xlim(0, max(1.25 * have, 1.05 * e.memory_bytes / GIB))
    ax.set_xlabel("GiB on one GPU")
    ax.grid(axis="y", visible=False)
    fig.legend(loc="outside lower center", ncols=len(KINDS), fontsize=8, handlelength=1.4, columnspacing=1)
    verdict = "It fits" if e.fits else "It does not fit"
    kinds = ", ".join(f"{kind} {size / GIB:.1f}" for kind, size in e.memory.kinds.items() if size)
    return fig, (
        f"Memory of one GPU by kind, {layout}. The fullest, on stage {e.memory.fullest}, holds "
        f"{e.memory_bytes / GIB:.1f} GiB of {have:.0f} ({usable:.0f} usable): {kinds}. {verdict}."
    )


def _wrapped(text: str, width: int = 88) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


# ---------------------------------------------------------------------------------------------------------------------
# Time


def bandwidths(measured: Mapping[int, float], formula: Mapping[int, float], link: float) -> tuple[Figure, str]:
    """Draw the bus bandwidth (GB/s) of an all-reduce by the number of nodes: measured, and by formula.

    link: GB/s of a GPU's links inside the node, drawn as a line.
    """
    fig, ax = figures.new(width=6.4, height=3)
    ax.plot(list(formula), list(formula.values()), label="latency + bytes / bandwidth")
    ax.plot(list(measured), list(measured.values()), "o", color="black", label="measured, 256 MB")
    ax.axhline(link, color="#888888", linewidth=1, linestyle=":", label="a GPU's links, data sheet")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(list(measured), [str(nodes) for nodes in measured])
    ax.set_yticks([30, 100, 300], ["30", "100", "300"])
    ax.minorticks_off()
    ax.set(xlabel="nodes of 8 GPUs", ylabel="GB/s")
    ax.legend(loc="lower left")
    points = ", ".join(f"{nodes}: {measured[nodes]:.0f} and {formula[nodes]:.0f}" for nodes in measured)
    return fig, f"GB/s of an all-reduce by nodes, measured and by formula. {points}."


def predicted(rows: Mapping[str, tuple[float, float]]) -> tuple[Figure, str]:
    """Draw, for each run, how far the estimate (first number) lies from the published seconds (second)."""
    off = {name: 100 * (said / known - 1) for name, (said, known) in rows.items()}
    fig, ax = figures.new(width=6.4, height=0.9 + 0.27 * len(rows))
    for row, (name, error) in enumerate(off.items()):
        ax.barh(row, error, height=0.55, color=figures.colour(0), edgecolor="white")
        side = "left" if error >= 0 else "right"
        said, known = rows[name]
        ax.text(error, row, f" {said:.3g} for {known:g} s ", va="center", ha=side, fontsize=8)
    widest = max(12.0, 2.1 * max(abs(error) for error in off.values()))
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(-widest, widest)
    ax.set_xlabel("estimate above or below the published time (%)")
    ax.grid(axis="y", visible=False)
    mean = sum(abs(error) for error in off.values()) / len(off)
    worst = max(abs(error) for error in off.values())
    words = "; ".join(f"{name} {said:.3g}, {known:g}" for name, (said, known) in rows.items())
    return fig, f"Seconds estimated, published: {words}. Mean error {mean:.1f} %, worst {worst:.1f} %."


def terms(estimates: Mapping[str, plan.Estimate]) -> tuple[Figure, str]:
    """Draw the seconds of a step by what they are spent on, one bar for each layout; says which do not fit."""
    fig, ax = figures.new(width=7.4, height=1.2 + 0.34 * len(estimates))
    words = []
    for row, (name, e) in enumerate(estimates.items()):
        left, spent = 0.0, {}
        for number, (term, parts) in enumerate(TERMS.items()):
            seconds = sum(e.time[part] for part in parts)
            spent[term] = seconds
            ax.barh(row, seconds, left=left, height=0.62, color=figures.colour(number), hatch=figures.pattern(number),
                    edgecolor="white", label=term if row == 0 else None)  # fmt: skip
            left += seconds
        fits = "" if e.fits else f" does not fit: {e.memory_bytes / GIB:.0f} GiB"
        ax.text(left, row, fits, va="center", fontsize=8)
        words.append(f"{name} {left:.1f}, compute {spent['compute']:.1f}{',' * bool(fits)}{fits}")
    ax.set_yticks(range(len(estimates)), list(estimates))
    ax.set_ylim(len(estimates) - 0.5, -0.5)
    ax.set_xlim(0, 1.25 * max(e.step_seconds for e in estimates.values()))
    ax.set_xlabel("seconds a step")
    ax.grid(axis="y", visible=False)
    fig.legend(loc="outside lower center", ncols=len(TERMS), fontsize=8, handlelength=1.4, columnspacing=1)
    return fig, f"Seconds of a step: {'; '.join(words)}."


def best_by_memory(estimates: Sequence[plan.Estimate]) -> list[plan.Estimate]:
    """Keep the estimates that nothing beats in both memory and speed, from the leanest to the fastest."""
    kept: list[plan.Estimate] = []
    for e in sorted(estimates, key=lambda e: (e.memory_bytes, e.step_seconds)):
        if not kept or e.step_seconds < kept[-1].step_seconds:
            kept.append(e)
    return kept


def frontier(estimates: Sequence[plan.Estimate]) -> tuple[Figure, str]:
    """Draw memory and speed of many layouts, the limit of memory, and the layouts that nothing beats in both."""
    fig, ax = figures.new(width=7.2, height=3.6)
    limit, have = estimates[0].limit_bytes / GIB, estimates[0].cluster.gpu.memory / GIB
    groups = ((True, 0, "o", "fits"), (False, 5, "x", "does not fit"))
    for fits, number, mark, label in groups:
        some = [e for e in estimates if e.fits is fits]
        ax.plot([e.memory_bytes / GIB for e in some], [e.tokens_per_second_per_gpu for e in some], mark,
                color=figures.colour(number), markersize=3.5, alpha=0.5, linestyle="none", label=label)  # fmt: skip
    edge = best_by_memory(estimates)
    ax.step([e.memory_bytes / GIB for e in edge], [e.tokens_per_second_per_gpu for e in edge], where="post",
            color="black", linewidth=1.5, label="nothing beats these")  # fmt: skip
    ax.axvline(limit, color="black", linestyle="--", linewidth=1)
    ax.axvline(have, color="black", linewidth=1)
    ax.set_xscale("log")
    ticks = [10, 20, 40, 80, 160, 320, 640, 1280]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.8 * min(e.memory_bytes for e in estimates) / GIB, min(1500, 2.0 * max(
        e.memory_bytes for e in estimates) / GIB))  # fmt: skip
    ax.set(xlabel=f"GiB on the fullest GPU (lines: {limit:.0f} usable of {have:.0f})", ylabel="tokens/s on a GPU")
    fig.legend(loc="outside upper right", ncols=3)
    inside = [e for e in edge if e.fits]
    best = inside[-1]
    first = edge[0]
    return fig, (
        f"{len(estimates):,} layouts by memory and speed; {sum(e.fits for e in estimates):,} fit. {len(edge)} are "
        f"beaten by none in both, from {first.memory_bytes / GIB:.0f} GiB and {first.tokens_per_second_per_gpu:,.0f} "
        f"tokens/s to {best.memory_bytes / GIB:.0f} GiB and {best.tokens_per_second_per_gpu:,.0f} tokens/s within the "
        "limit."
    )


# ---------------------------------------------------------------------------------------------------------------------
# What a learner's function does


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it; None, said on the page, if it is not written."""
    try:
        return function(*arguments)
    except NotImplementedError:
        print(NOT_WRITTEN)
        return None


def zero(function: Callable[[int, int, int, int], float]) -> None:
    """Draw the bytes of a rank by data ranks, one line for each ZeRO stage: 70 billion parameters, 8 model ranks."""
    ways = [1, 2, 4, 8, 16, 32, 64]
    lines = []
    for stage in range(4):
        values = [_called(function, 70_000_000_000, 8, n, stage) for n in ways[:1]]
        if values[0] is None:
            return
        lines.append([function(70_000_000_000, 8, n, stage) / GIB for n in ways])
    fig, ax = figures.new(width=6.4, height=3)
    for stage, line in enumerate(lines):
        ax.plot(ways, line, label=f"ZeRO-{stage}")
    ax.axhline(80, color="black", linewidth=1)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ways, [str(n) for n in ways])
    ax.set(xlabel="data ranks", ylabel="GiB on one GPU (line: 80)", ylim=(0, None))
    fig.legend(loc="outside upper right", ncols=4)
    ends = "; ".join(f"ZeRO-{stage} from {line[0]:.0f} to {line[-1]:.0f} GiB" for stage, line in enumerate(lines))
    figures.show(fig, f"States of a rank by data ranks, 1 to 64, of 70 billion parameters on 8 model ranks: {ends}.")


def overlap(function: Callable[[Sequence[tuple[float, float]], float, float, float], float]) -> None:
    """Draw what stays exposed by the size of a bucket, for 128 layers of 100 MB, with two latencies."""
    layers, sizes = [(0.0025, 100e6)] * 128, [100e6 * 2**k for k in range(8)]
    lines = {}
    for latency in (1e-3, 5e-3):
        first = _called(function, layers, 45e9, latency, sizes[0])
        if first is None:
            return
        lines[latency] = [1e3 * function(layers, 45e9, latency, size) for size in sizes]
    fig, ax = figures.new(width=6.4, height=3)
    for mark, (latency, line) in zip("os", lines.items(), strict=True):
        ax.plot([size / 1e6 for size in sizes], line, marker=mark, label=f"latency {1e3 * latency:g} ms")
    ax.set_xscale("log", base=2)
    ax.set_xticks([size / 1e6 for size in sizes], [f"{size / 1e6:,.0f}" for size in sizes])
    ax.set(xlabel="bucket (MB)", ylabel="exposed (ms)", ylim=(0, None))
    fig.legend(loc="outside upper right", ncols=2)
    words = "; ".join(
        f"latency {1e3 * latency:g} ms: {line[0]:.1f} ms at 100 MB, least {min(line):.1f}, {line[-1]:.1f} in one bucket"
        for latency, line in lines.items()
    )
    figures.show(fig, f"Exposed milliseconds by bucket, 128 layers of 2.5 ms and 100 MB each. {words}.")


def depth(function: Callable[[plan.Model, plan.Cluster, plan.Layout], int]) -> None:
    """Draw the memory of a GPU by the number of layers around the function's answer, for two layouts."""
    cluster = plan.Cluster(32, plan.H100)
    fig, ax = figures.new(width=6.4, height=3)
    words = []
    for number, mode in enumerate(("full", "none")):
        layout = plan.Layout(data=2, tensor=8, pipeline=2, accumulate=8, recompute=mode)
        answer = _called(function, plan.LLAMA_70B, cluster, layout)
        if answer is None:
            return
        counts = range(max(1, int(answer) - 20), int(answer) + 21)
        held = [held_with(plan.LLAMA_70B, cluster, layout, count) / GIB for count in counts]
        ax.plot(list(counts), held, color=figures.colour(number), label=f"recompute {mode}")
        ax.plot([answer], [held_with(plan.LLAMA_70B, cluster, layout, int(answer)) / GIB], "o", color="black")
        words.append(f"recompute {mode}: your {answer} layers hold {held[min(20, int(answer) - 1)]:.1f} GiB")
    usable = plan.estimate(plan.LLAMA_70B, cluster, layout, simulate=None).limit_bytes / GIB
    ax.axhline(usable, color="black", linestyle="--", linewidth=1)
    ax.set(xlabel="layers (your answers: dots)", ylabel="GiB on the fullest GPU")
    ax.legend(loc="upper left")
    figures.show(fig, f"Memory by layers, {usable:.1f} GiB are usable. {'; '.join(words)}.")


def held_with(model: plan.Model, cluster: plan.Cluster, layout: plan.Layout, layers: int) -> float:
    """Give the bytes of the fullest GPU for a model of so many layers."""
    from dataclasses import replace

    return plan.estimate(replace(model, layers=layers), cluster, layout, simulate=None).memory_bytes


def regrets(function: Callable[[plan.Model, plan.Cluster, int], plan.Layout]) -> Any:
    """Tabulate the function's layouts on three clusters beside the planner's best, with the regret of each."""
    from utils.check.choosing_a_layout import SHOWN, best, judged
    from utils.figures.table import Table

    rows: list[list[Any]] = []
    for case in SHOWN:
        try:
            e, used = judged(function, case)
        except NotImplementedError:
            print(NOT_WRITTEN)
            return None
        except Exception as wrong:
            rows.append([str(case), f"{wrong}"[:200], "", "", "", ""])
            continue
        regret = f"{100 * (1 - e.tokens_per_second_per_gpu / best(case).tokens_per_second_per_gpu):.1f} %"
        held = f"{e.memory_bytes / GIB:.1f} GiB" + ("" if e.fits else ": does not fit")
        rows.append([str(case), str(e.layout), str(best(case).layout), held, regret if e.fits else "", used])
    heads = ["case", "your layout", "the planner's", "yours holds", "regret", "estimates"]
    return Table(heads, rows, "Your layouts beside the planner's")
