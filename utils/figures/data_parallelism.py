"""Pictures of the data-parallelism lesson: one model copied, one batch cut, and what goes wrong.

Every function gets data and returns (figure, description).
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from utils import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn: TypeAlias = "tuple[Figure, str]"


def promise(network: Any, tokens: Any, ranks: int) -> Drawn:
    """Draw one batch cut in `ranks` shards, and the copy of the model that each of them meets.

    network: a module whose parameters are counted by block. tokens: int64 [sequences, context].
    """
    sizes: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        part = ".".join(name.split(".")[:2]) if name.startswith("blocks") else name.split(".")[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    shards = [len(shard) for shard in tokens.tensor_split(ranks)]
    fig, (left, right) = figures.new(1, 2, width=7.6, height=3.6, width_ratios=[1, 1.3])
    edges = (0, tokens.shape[1], len(tokens), 0)
    left.imshow(tokens, aspect="auto", cmap="Greys", interpolation="nearest", extent=edges)
    top = 0
    for rank, size in enumerate(shards):
        box = (0, top), tokens.shape[1], size
        left.add_patch(_rectangle(*box, facecolor=figures.colour(rank), alpha=0.35))
        left.text(tokens.shape[1] / 2, top + size / 2, f"to rank {rank}", ha="center", va="center", weight="bold",
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2})
        top += size
    left.set(title=f"one batch: {len(tokens)} sequences", xlabel="position (grey: which character)", ylabel="sequence")
    left.grid(False)
    for rank in range(ranks):
        bottom = 0.0
        for size in sizes.values():
            right.bar(rank, size / 1e3, 0.72, bottom, color=figures.colour(rank), alpha=0.35, edgecolor="black",
                      linewidth=0.6)
            bottom += size / 1e3
    right.set(title=f"{ranks} whole copies of one model", ylabel="parameters (thousands), piece by piece",
              xticks=range(ranks), xticklabels=[f"rank {rank}" for rank in range(ranks)])
    right.grid(False, axis="x")
    total = sum(sizes.values())
    return fig, (
        f"Left: one batch of {len(tokens)} sequences of {tokens.shape[1]} characters, cut into {ranks} shards of "
        f"{_listed(shards)} sequences, one a rank. Right: {ranks} equal stacks, since every rank holds all "
        f"{total:,} parameters of the model: {len(sizes)} pieces, embeddings below and blocks above."
    )


def _rectangle(corner: tuple[float, float], width: float, height: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, **style)


def _listed(values: Sequence[Any]) -> str:
    """Write 8, 8, 7 and 7."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def apart(runs: Mapping[str, Mapping[str, Sequence[Any]]]) -> Drawn:
    """Draw two or more broken trainings: the loss of each rank, and how far the ranks' parameters are apart.

    runs: by title, {"losses": by step a list by rank (nats), "distance": by step (largest difference)}.
    """
    fig, axes = figures.new(2, len(runs), width=7.6, height=4.6, sharex=True, sharey="row")
    words = []
    for (title, run), (above, below) in zip(runs.items(), axes.T, strict=True):
        by_rank = list(zip(*run["losses"], strict=True))
        for rank, losses in enumerate(by_rank):
            above.plot(losses, color=figures.colour(rank), linestyle=figures.LINES[rank % 4], label=f"rank {rank}")
        below.plot(run["distance"], color="black", linestyle="-")
        above.set(title=title)
        below.set(xlabel="step", ylim=(0, None))
        first, last = run["distance"][0], run["distance"][-1]
        words.append(
            f"{title}: each rank's loss falls, from about {_mean(row[0] for row in by_rank):.1f} to about "
            f"{_mean(row[-1] for row in by_rank):.1f} nats; the largest distance between two ranks' parameters goes "
            f"from {first:.2f} to {last:.2f}."
        )
    axes[0, 0].set_ylabel("loss of its shard (nats)")
    axes[1, 0].set_ylabel("largest distance\nbetween ranks")
    axes[0, -1].legend(ncols=2, fontsize="small")
    return fig, " ".join(words)


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def factor(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Drawn:
    """Draw, for each optimizer, the loss by step with averaged and with summed gradients; NaN ends a curve.

    runs: by title, {"mean": losses, "sum": losses} in nats.
    """
    fig, axes = figures.new(1, len(runs), width=7.6, height=2.9, sharey=True)
    words = []
    for (title, run), ax in zip(runs.items(), axes, strict=True):
        for index, (label, losses) in enumerate(run.items()):
            ax.plot(losses, label=label, color=figures.colour(index), linestyle=figures.LINES[index],
                    linewidth=3 if index == 0 else 1.8)
        lost = next((step for step, loss in enumerate(run["sum"]) if not math.isfinite(loss)), None)
        if lost is not None:
            ax.text(lost, ax.get_ylim()[1] * 0.5 + ax.get_ylim()[0] * 0.5, f" sum: NaN\n from step {lost}")
        ax.set(title=title, xlabel="step")
        ends = f"sum is NaN from step {lost}, mean ends at {run['mean'][-1]:.1f}" if lost is not None else (
            f"mean ends at {run['mean'][-1]:.2f}, sum at {run['sum'][-1]:.2f}")
        words.append(f"{title}: {ends}.")
    axes[0].set_ylabel("loss (nats)")
    axes[0].set_ylim(2.2, 5.2)
    axes[0].legend()
    return fig, "Loss by step with gradients averaged (mean) and added up (sum) over four ranks. " + " ".join(words)


def efficiency(ranks: int, sequences: int, megabytes: float, bandwidth: float, second_per_sequence: float) -> Drawn:
    """Draw speed-up by number of ranks, from time = compute / N + messages, and mark one number of ranks.

    sequences: in the global batch, split over the ranks. megabytes: of gradients. bandwidth: gigabytes a second that a
    rank can send. second_per_sequence: computing time of one sequence. Messages overlap with nothing.
    """
    numbers = [2**power for power in range(11)]
    numbers = sorted({*(n for n in numbers if n <= sequences), ranks})

    def speed_up(n: int) -> float:
        compute = sequences * second_per_sequence
        return compute / (compute / n + 2 * (n - 1) / n * megabytes / 1e3 / bandwidth)

    fig, ax = figures.new(width=6.4, height=3.2)
    ax.plot(numbers, numbers, color="grey", linestyle=":", label="perfect")
    ax.plot(numbers, [speed_up(n) for n in numbers], marker="o", label="compute / N + messages")
    ax.plot([ranks], [speed_up(ranks)], marker="D", markersize=10, color=figures.colour(5))
    reached = speed_up(ranks)
    ax.annotate(f"{reached:.1f} times\nefficiency {reached / ranks:.0%}", (ranks, reached), (12, -24),
                textcoords="offset points")
    ax.set(xscale="log", yscale="log", xlabel="ranks", ylabel="speed-up over one worker", xticks=numbers[::2],
           xticklabels=[str(n) for n in numbers[::2]])
    ax.legend(loc="upper left")
    return fig, (
        f"Speed-up by number of ranks for a batch of {sequences} sequences, {megabytes:,.0f} MB of gradients and "
        f"{bandwidth:g} GB a second: {ranks} ranks are {reached:.1f} times as fast as one, an efficiency of "
        f"{reached / ranks:.0%}. The curve leaves the perfect line as messages weigh more than computing."
    )


def best_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Find where a parabola through the lowest point and its two neighbours is lowest, rates on a log scale."""
    lowest = min(range(len(losses)), key=lambda i: losses[i])
    lowest = min(max(lowest, 1), len(losses) - 2)
    x = [math.log(rates[lowest + i]) for i in (-1, 0, 1)]
    y = [losses[lowest + i] for i in (-1, 0, 1)]
    bend = (y[2] - y[1]) / (x[2] - x[1]) - (y[1] - y[0]) / (x[1] - x[0])
    if bend <= 0:
        return rates[lowest]
    slope = ((y[2] - y[1]) / (x[2] - x[1]) + (y[1] - y[0]) / (x[1] - x[0])) / 2
    place = x[1] - slope / (bend / ((x[2] - x[0]) / 2))
    return math.exp(min(max(place, x[0]), x[2]))


def rates(losses: Mapping[int, Mapping[float, float]]) -> Drawn:
    """Draw the loss by learning rate, a curve a batch, with the best rate of each and where two rules point.

    losses: by batch (sequences), by rate: validation loss in nats after equally many tokens.
    """
    fig, ax = figures.new(width=6.8, height=3.6)
    batches = sorted(losses)
    best = {}
    for index, batch in enumerate(batches):
        tried = sorted(losses[batch])
        values = [losses[batch][rate] for rate in tried]
        best[batch] = best_rate(tried, values)
        ax.plot(tried, values, marker="o", color=figures.colour(index), linestyle=figures.LINES[index],
                label=f"batch {batch}")
        ax.plot([best[batch]], [min(values)], marker="v", markersize=11, color=figures.colour(index))
        if index:
            times = batch / batches[0]
            for name, rate in (("root", best[batches[0]] * times**0.5), ("linear", best[batches[0]] * times)):
                ax.annotate(name, (rate, min(values)), (rate, min(values) - 0.13), ha="center", fontsize="small",
                            color=figures.colour(index), arrowprops={"arrowstyle": "-", "linestyle": ":"})
    ax.set(xscale="log", xlabel="learning rate (AdamW)", ylabel="validation loss (nats)")
    ax.legend()
    found = _listed([f"{best[batch]:.1g} at batch {batch}" for batch in batches])
    grew = best[batches[-1]] / best[batches[0]]
    times = batches[-1] / batches[0]
    return fig, (
        "Validation loss by learning rate after equally many tokens, one U-shaped curve a batch. The best rate is "
        f"about {found}: {grew:.0f} times as high for a batch {times:.0f} times as large. The root rule says "
        f"{times**0.5:.0f} times, the linear rule {times:.0f} times."
    )


def who_reads(shards: Sequence[Sequence[Sequence[int]]], samples: int) -> Drawn:
    """Draw which rank reads which sample in each epoch: a square a sample, coloured and numbered by rank.

    shards: by epoch, by rank, the samples it reads in order. What is read twice shows both ranks; what nobody reads
    stays empty.
    """
    fig, ax = figures.new(width=7.2, height=0.7 + 0.55 * len(shards))
    missed = repeated = 0
    for epoch, by_rank in enumerate(shards):
        for sample in range(samples):
            readers = [rank for rank, shard in enumerate(by_rank) for one in shard if one == sample]
            missed, repeated = missed + (not readers), repeated + max(0, len(readers) - 1)
            for index, rank in enumerate(readers):
                share = 1 / len(readers)
                ax.add_patch(_rectangle((sample - 0.45 + 0.9 * index * share, epoch - 0.4), 0.9 * share, 0.8,
                                        facecolor=figures.colour(rank), alpha=0.45, hatch=figures.pattern(rank),
                                        edgecolor="black", linewidth=0.5))
                ax.text(sample - 0.45 + 0.9 * (index + 0.5) * share, epoch, str(rank), ha="center", va="center",
                        fontsize="small", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
    ax.set(xlim=(-0.7, samples - 0.3), ylim=(len(shards) - 0.4, -0.6), xlabel="sample (number in the square: its rank)",
           ylabel="epoch", xticks=range(samples), yticks=range(len(shards)))
    ax.grid(False)
    rows = "; ".join(
        f"epoch {epoch}: " + ", ".join(f"rank {rank} reads {' '.join(map(str, shard)) or 'nothing'}"
                                       for rank, shard in enumerate(by_rank))
        for epoch, by_rank in enumerate(shards)
    )
    return fig, f"Which rank reads which of {samples} samples. {rows}. Read twice: {repeated}; never read: {missed}."
