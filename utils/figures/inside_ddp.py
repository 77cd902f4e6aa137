"""Pictures of the lesson inside DDP: when gradients are ready, how they are packed, and what hides behind backward.

Every function gets data and returns (figure, description), or shows what a learner's function does.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from utils import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn: TypeAlias = "tuple[Figure, str]"
Span: TypeAlias = tuple[int, float, float]  # number of a bucket, sent, arrived (seconds)
KIB = 1024


def readiness(names: Sequence[str], order: Sequence[str]) -> Drawn:
    """Draw in which order gradients became ready, against the order in which the model registers its parameters.

    names: as registered. order: as their hooks fired.
    """
    place = {name: index for index, name in enumerate(names)}
    groups = {name: _group(name) for name in names}
    shown = list(dict.fromkeys(groups.values()))
    fig, ax = figures.new(width=7.2, height=3.6)
    for index, group in enumerate(shown):
        points = [(turn, place[name]) for turn, name in enumerate(order) if groups[name] == group]
        ax.plot(*zip(*points, strict=True), linestyle="", marker="osD^v<>ph"[index % 9], markersize=5,
                color=figures.colour(index), label=group)
    last = order[-1]
    ax.annotate(last, (len(order) - 1, place[last]), (-16, 24), textcoords="offset points", ha="right",
                arrowprops={"arrowstyle": "->"})
    ax.annotate(order[0], (0, place[order[0]]), (18, -2), textcoords="offset points", va="center",
                arrowprops={"arrowstyle": "->"})
    ax.set(xlabel="turn in which the hook fired", ylabel="place in net.parameters()")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return fig, (
        f"Hooks by the turn in which they fired. {len(order)} hooks for {len(names)} parameters. First "
        f"{order[0]} (place {place[order[0]]} of {len(names) - 1}), then backwards through the blocks; last "
        f"{order[-2]} and {last} (places {place[order[-2]]} and {place[last]})."
    )


def _group(name: str) -> str:
    return "block " + name.split(".")[1] if name.startswith("blocks") else "embeddings" if "norm" not in name else "norm"


def by_pieces(seconds: Mapping[int, float]) -> Drawn:
    """Draw what it takes to all-reduce the same bytes in 1, 2, 4, ... messages, as a ratio to one message."""
    numbers = sorted(seconds)
    ratios = [seconds[n] / seconds[numbers[0]] for n in numbers]
    fig, ax = figures.new(width=6.4, height=2.8)
    ax.plot(numbers, ratios, marker="o")
    ax.axhline(1, color="black", linewidth=1, linestyle=":")
    ax.set(xscale="log", xlabel="messages that carry the same gradients", ylabel="time / time of one message",
           xticks=numbers, xticklabels=[str(n) for n in numbers], ylim=(0, None))
    ax.minorticks_off()
    listed = ", ".join(f"{n}: {r:.1f}" for n, r in zip(numbers, ratios, strict=True))
    return fig, f"Time of an all-reduce of all gradients by the number of messages, one message being 1. {listed}."


# ---------------------------------------------------------------------------------------------------------------------
# Overlap: recorded, and replayed with another network


def timeline(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Drawn:
    """Draw recorded backward passes: above the computing of each rank, below it its messages in flight.

    runs: by title, by rank {"backward": seconds, "spans": [(bucket, sent, arrived)], "end": seconds}, from the start
    of that rank's backward pass.
    """
    fig, axes = figures.new(len(runs), 1, width=8.6, height=1.0 + 1.75 * len(runs), sharex=True, squeeze=False)
    words = []
    for (title, by_rank), ax in zip(runs.items(), axes[:, 0], strict=True):
        for rank, run in enumerate(by_rank):
            _row(ax, rank, run["backward"], run["spans"], label=rank == 0)
        ax.set(title=title, yticks=range(len(by_rank)), yticklabels=[f"rank {rank}" for rank in range(len(by_rank))])
        ax.invert_yaxis()
        ax.grid(False)
        early = sum(any(sent < run["backward"] for _, sent, _ in run["spans"]) for run in by_rank)
        words.append(f"{title}: {len(by_rank[0]['spans'])} messages a rank; on {early} of {len(by_rank)} ranks the "
                     f"first leaves before backward ends; {hidden(by_rank):.0%} of the time in flight lies behind it.")
    axes[-1, 0].set_xlabel("milliseconds since backward began")
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return fig, "Backward pass and messages by rank, recorded. " + " ".join(words)


def hidden(by_rank: Sequence[Mapping[str, Any]]) -> float:
    """Return which share of the messages' time in flight lies behind a backward pass that still computes."""
    flight = sum(arrived - sent for run in by_rank for _, sent, arrived in run["spans"])
    behind = sum(max(0.0, min(arrived, run["backward"]) - sent)
                 for run in by_rank for _, sent, arrived in run["spans"] if sent < run["backward"])
    return behind / flight if flight else 0.0


def _row(ax: Any, rank: int, backward: float, spans: Sequence[Span], label: bool, unit: float = 1e3) -> None:
    ax.barh(rank - 0.22, unit * backward, height=0.36, color=figures.colour(0), label="backward" if label else None)
    for index, (number, sent, arrived) in enumerate(sorted(spans)):
        ax.barh(rank + 0.2, unit * (arrived - sent), left=unit * sent, height=0.36, color=figures.colour(1),
                hatch="///", edgecolor="black", linewidth=0.6, alpha=0.75,
                label="in flight" if label and not index else None)
        if len(spans) < 12:
            ax.text(unit * (sent + arrived) / 2, rank + 0.2, str(number), ha="center", va="center", fontsize=7,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6})


def packed(ready: Sequence[tuple[float, int]], cap: float) -> list[tuple[float, int]]:
    """Fill buckets in the order of readiness; return for each when it is full, and its bytes.

    ready: (seconds, bytes) of each gradient, in order. cap: bytes at which a bucket is closed.
    """
    found, size = [], 0
    for index, (moment, nbytes) in enumerate(ready):
        size += nbytes
        if size >= cap or index == len(ready) - 1:
            found.append((moment, size))
            size = 0
    return found


def flights(buckets: Sequence[tuple[float, int]], latency: float, bandwidth: float, ranks: int) -> list[Span]:
    """Send full buckets one after the other: each takes `latency` seconds and its share of the bandwidth (bytes/s)."""
    spans: list[Span] = []
    for number, (full, nbytes) in enumerate(buckets):
        sent = max(full, spans[-1][2] if spans else 0.0)
        spans.append((number, sent, sent + latency + 2 * (ranks - 1) / ranks * nbytes / bandwidth))
    return spans


def replay(
    ready: Sequence[tuple[float, int]], backward: float, cap_kib: float, latency: float, bandwidth: float,
    ranks: int = 4,
) -> Drawn:
    """Replay a recorded backward pass over a network of our choice; beside it the step's length for every cap.

    ready: (seconds, bytes) of each gradient in the order of readiness, recorded. backward: seconds. latency and
    bandwidth are relative: a message costs `latency` of the backward pass, and all gradients in one ring take
    `bandwidth` of it.
    """
    total = sum(nbytes for _, nbytes in ready)
    alpha, beta = latency * backward, 2 * (ranks - 1) / ranks * total / (bandwidth * backward)

    def length(cap: float) -> float:
        return max(backward, flights(packed(ready, cap), alpha, beta, ranks)[-1][2]) / backward

    caps = [2**power for power in range(1, 12)]
    chosen = flights(packed(ready, cap_kib * KIB), alpha, beta, ranks)
    fig, (left, right) = figures.new(1, 2, width=8.6, height=2.7, width_ratios=[1.6, 1])
    _row(left, 0, backward, chosen, label=True, unit=1 / backward)
    left.set(xlabel="time / backward", yticks=[], xlim=(0, max(2.05, 1.05 * length(cap_kib * KIB))), ylim=(0.75, -0.6))
    left.grid(False)
    left.legend(loc="upper right", fontsize="small")
    right.plot(caps, [length(cap * KIB) for cap in caps], marker="o", markersize=4)
    right.plot([cap_kib], [length(cap_kib * KIB)], marker="D", markersize=10, color=figures.colour(5), linestyle="")
    right.axhline(1, color="black", linewidth=1, linestyle=":")
    right.set(xscale="log", xlabel="cap (KiB)", ylabel="step / backward", ylim=(0.9, None), xticks=caps[1::3],
              xticklabels=[str(cap) for cap in caps[1::3]])
    right.minorticks_off()
    best = min(caps, key=lambda cap: length(cap * KIB))
    return fig, (
        f"A recorded backward pass replayed over another network. Cap {cap_kib:g} KiB: {len(chosen)} messages, the "
        f"gradients are there after {length(cap_kib * KIB):.2f} times the backward pass. Of the caps from "
        f"{caps[0]} to {caps[-1]:,} KiB the best is {best} with {length(best * KIB):.2f}; one message for all takes "
        f"{length(2 * total):.2f}."
    )


def side_by_side(mine: Any, theirs: Any, batch: tuple[Any, Any], pairs: int = 9, steps: int = 2) -> float:
    """Return, on the ranks, how long a step of `mine` takes as a ratio to `theirs`: the median of pairs taken in turns.

    Call it on all ranks; rank 0's answer is as good as any.
    """
    import statistics
    import time

    import torch.distributed as dist

    def seconds(trainer: Any) -> float:
        dist.barrier()
        start = time.perf_counter()
        for _ in range(steps):
            trainer.step(*batch)
        return time.perf_counter() - start

    return statistics.median(seconds(mine) / seconds(theirs) for _ in range(pairs))


# ---------------------------------------------------------------------------------------------------------------------
# BatchNorm


def batch_means(by_rank: Sequence[Sequence[float]], whole: Sequence[float]) -> Drawn:
    """Draw the mean that each rank's BatchNorm takes for each feature, and that of the whole batch."""
    fig, ax = figures.new(width=7.2, height=2.7)
    features = range(len(whole))
    ax.hlines(whole, [f - 0.42 for f in features], [f + 0.42 for f in features], color="black", label="whole batch")
    for rank, means in enumerate(by_rank):
        ax.plot([f - 0.24 + 0.16 * rank for f in features], means, linestyle="", marker="osD^"[rank % 4], markersize=4,
                color=figures.colour(rank), label=f"rank {rank}")
    ax.set(xlabel="feature", ylabel="mean", xticks=list(features))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    off = max(abs(m - w) for means in by_rank for m, w in zip(means, whole, strict=True))
    return fig, (
        f"The mean of each of {len(whole)} features: by rank, over its {len(by_rank)}th of the batch, and over the "
        f"whole batch. The ranks' means scatter around it, by up to {off:.1f}."
    )


# ---------------------------------------------------------------------------------------------------------------------
# What a learner's function does

NOT_WRITTEN = "Not written yet: put your code into the cell above and run it."
