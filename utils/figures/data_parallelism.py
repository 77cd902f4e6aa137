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
    total = sum(sizes.values())
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
        for name, size in sizes.items():
            right.bar(rank, size / 1e3, 0.72, bottom, color=figures.colour(rank), alpha=0.35, edgecolor="black",
                      linewidth=0.6)
            if size > total / 10:
                right.text(rank, (bottom + size / 2e3), name.replace("blocks.", "block "), ha="center", va="center",
                           fontsize=8)
            bottom += size / 1e3
    right.set(title=f"{ranks} whole copies of one model", ylabel="parameters (thousands), piece by piece",
              xticks=range(ranks), xticklabels=[f"rank {rank}" for rank in range(ranks)])
    right.grid(False, axis="x")
    return fig, (
        f"Left: one batch of {len(tokens)} sequences of {tokens.shape[1]} characters, cut into {ranks} shards of "
        f"{_listed(shards)}. Right: {ranks} equal stacks, for every rank holds all {total:,} parameters, in "
        f"{len(sizes)} pieces: {_listed([name.replace('blocks.', 'block ') for name in sizes])}."
    )


def _rectangle(corner: tuple[float, float], width: float, height: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, **style)


def _listed(values: Sequence[Any]) -> str:
    """Write 8, 8, 7 and 7."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def apart(by_rank: Sequence[Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> Drawn:
    """Draw broken trainings side by side: the loss of each rank, and how far the ranks' parameters are apart.

    by_rank: for each rank, by title, (losses by step in nats, largest difference between ranks by step).
    """
    titles = list(by_rank[0])
    fig, axes = figures.new(2, len(titles), width=7.6, height=4.6, sharex=True, sharey="row")
    words = []
    for title, (above, below) in zip(titles, axes.T, strict=True):
        losses, distance = [run[title][0] for run in by_rank], by_rank[0][title][1]
        for rank, values in enumerate(losses):
            above.plot(values, color=figures.colour(rank), linestyle=figures.LINES[rank % 4], label=f"rank {rank}")
        below.plot(distance, color="black", linestyle="-")
        above.set(title=title)
        below.set(xlabel="step")
        words.append(
            f"{title.capitalize()}: the ranks' losses fall from {_mean(v[0] for v in losses):.1f} to "
            f"{_mean(v[-1] for v in losses):.1f} nats; the largest difference of parameters goes from "
            f"{distance[0]:.1f} to {distance[-1]:.1f}."
        )
    axes[0, 0].set_ylabel("loss of its shard (nats)")
    axes[1, 0].set_ylabel("largest difference\nbetween ranks")
    axes[1, 0].set_ylim(0, 1.05 * max(max(run[1]) for run in by_rank[0].values()))
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
            ax.text(0.95, 0.84, f"sum: NaN\nfrom step {lost}", transform=ax.transAxes, ha="right")
        ax.set(title=title, xlabel="step")
        last = {name: "NaN" if not math.isfinite(losses[-1]) else f"{losses[-1]:.1f}" for name, losses in run.items()}
        ends = f"mean ends at {last['mean']}, sum at {last['sum']}"
        words.append(f"{title}: {ends}.")
    axes[0].set_ylabel("loss (nats)")
    axes[0].set_ylim(2.7, 5.2)
    axes[0].legend()
    return fig, "Loss by step with gradients averaged (mean) and added up (sum) over four ranks. " + " ".join(words)


def efficiency(ranks: int, tokens_a_rank: int, gigabytes_a_second: float, operations_a_second: float) -> Drawn:
    """Draw efficiency by number of ranks, (computing / N) / (computing / N + messages), and mark one number of ranks.

    A rank computes 6 x parameters x its tokens operations and sends 2 (N-1)/N x 4 x parameters bytes; the parameters
    cancel. Messages overlap with nothing.
    """
    numbers = [2**power for power in range(11)]

    def efficient(n: int) -> float:
        compute = 6 * tokens_a_rank / operations_a_second  # seconds for each parameter, as below
        return compute / (compute + 2 * (n - 1) / n * 4 / (gigabytes_a_second * 1e9))

    reached = efficient(ranks)
    fig, ax = figures.new(width=6.4, height=3)
    ax.plot(numbers, [efficient(n) for n in numbers], marker="o")
    ax.plot([ranks], [reached], marker="D", markersize=11, color=figures.colour(5))
    above = reached < 0.5
    ax.annotate(f"{ranks} ranks: {reached:.0%}\n{ranks * reached:.1f} times as fast as one", (ranks, reached),
                (0, 14 if above else -16), textcoords="offset points", ha="center", va="bottom" if above else "top")
    ax.set(xscale="log", xlabel="ranks", ylabel="efficiency", ylim=(0, 1.05), xlim=(0.7, 1500), xticks=numbers[::2],
           xticklabels=[f"{n:,}" for n in numbers[::2]])
    ax.minorticks_off()
    return fig, (
        f"Efficiency by number of ranks; each computes {operations_a_second:.0e} operations a second: "
        f"{efficient(2):.0%} with 2 ranks, {efficient(1024):.0%} with 1,024. {ranks} reach {reached:.0%} and are "
        f"{ranks * reached:.1f} times as fast as one."
    )


def clock(trainer: Any, tokens: Any, targets: Any, repeats: int = 3) -> dict[str, float]:
    """Time, on the ranks, pieces of a step as ratios to one worker with the whole batch (the best of some tries).

    Call it on all ranks, with a trainer that has `net`, `loss_of`, `update`; the ratios mean something on rank 0.
    """
    import time

    import torch.distributed as dist

    rank, n = dist.get_rank(), dist.get_world_size()
    mine, theirs = tokens.tensor_split(n)[rank], targets.tensor_split(n)[rank]

    def best(work: Any, alone: bool) -> float:
        times = []
        for _ in range(repeats):
            dist.barrier()
            start = time.perf_counter()
            if rank == 0 or not alone:
                work()
            times.append(time.perf_counter() - start)
        return min(times)

    whole = best(lambda: trainer.loss_of(tokens, targets).backward(), alone=True)
    shard = best(lambda: trainer.loss_of(mine, theirs).backward(), alone=True)
    together = best(lambda: trainer.loss_of(mine, theirs).backward(), alone=False)
    step = best(lambda: trainer.update(mine, theirs), alone=False)
    return {"its shard, alone": shard / whole, f"its shard, {n} ranks at once": together / whole,
            "a whole step": step / whole}


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
    """Draw the loss by learning rate, a curve a batch; beside it the best rate by batch, and what two rules say.

    losses: by batch (sequences), by rate: validation loss in nats after equally many tokens.
    """
    fig, (left, right) = figures.new(1, 2, width=7.6, height=3.4, width_ratios=[1.35, 1])
    batches = sorted(losses)
    best = {}
    for index, batch in enumerate(batches):
        tried = sorted(losses[batch])
        values = [losses[batch][rate] for rate in tried]
        best[batch] = best_rate(tried, values)
        style = {"color": figures.colour(index), "linestyle": figures.LINES[index]}
        left.plot(tried, values, marker="o", label=f"batch {batch}", **style)
        left.axvline(best[batch], linewidth=1, **style)
    left.set(xscale="log", xlabel="learning rate (AdamW)", ylabel="validation loss (nats)", xticks=tried,
             xticklabels=[f"{rate:g}" for rate in tried])
    left.minorticks_off()
    left.legend()
    first = batches[0]
    for label, power, index in (("linear rule", 1.0, 1), ("root rule", 0.5, 2)):
        right.plot(batches, [best[first] * (batch / first) ** power for batch in batches], label=label, marker="",
                   color=figures.colour(index), linestyle=figures.LINES[index])
    right.plot(batches, [best[batch] for batch in batches], marker="D", label="measured", color="black", linestyle="-")
    right.set(xscale="log", yscale="log", xlabel="batch (sequences)", ylabel="best learning rate", xticks=batches,
              xticklabels=[str(batch) for batch in batches])
    highest = 1.1 * best[first] * batches[-1] / first
    ticks = [tick for tick in (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08) if tick <= highest]
    right.set(yticks=ticks, yticklabels=[f"{tick:g}" for tick in ticks])
    right.minorticks_off()
    right.legend()
    times = batches[-1] / first
    return fig, (
        "Left: validation loss by learning rate after equally many tokens, a U-shaped curve a batch, lowest at about "
        f"{_listed([f'{best[b]:.1g} for batch {b}' for b in batches])}. Right: these rates by batch. From batch "
        f"{first} to {batches[-1]} the best rate grows {best[batches[-1]] / best[first]:.0f} times; the root rule says "
        f"{times**0.5:.0f}, the linear rule {times:.0f}."
    )


def who_reads(deals: Mapping[str, Sequence[Sequence[int]]], samples: int) -> Drawn:
    """Draw which rank reads which sample, a row a deal: a square a sample, coloured and numbered by rank.

    deals: by name (an epoch), by rank, the samples it reads in order. What is read twice shows both ranks; what nobody
    reads stays empty.
    """
    fig, ax = figures.new(width=7.2, height=0.7 + 0.5 * len(deals))
    words = []
    for row, (name, by_rank) in enumerate(deals.items()):
        missed = repeated = 0
        for sample in range(samples):
            readers = [rank for rank, shard in enumerate(by_rank) for one in shard if one == sample]
            missed, repeated = missed + (not readers), repeated + max(0, len(readers) - 1)
            for index, rank in enumerate(readers):
                share = 0.9 / len(readers)
                left = sample - 0.45 + index * share
                ax.add_patch(_rectangle((left, row - 0.4), share, 0.8, facecolor=figures.colour(rank), alpha=0.45,
                                        hatch=figures.pattern(rank), edgecolor="black", linewidth=0.5))
                ax.text(left + share / 2, row, str(rank), ha="center", va="center", fontsize="small",
                        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
        lists = ", ".join(f"rank {rank} {' '.join(map(str, shard)) or '-'}" for rank, shard in enumerate(by_rank))
        words.append(f"{name}: {lists} ({repeated} twice, {missed} never).")
    ax.set(xlim=(-0.7, samples - 0.3), ylim=(len(deals) - 0.4, -0.6), xlabel="sample (number in the square: its rank)",
           xticks=range(samples), yticks=range(len(deals)), yticklabels=list(deals))
    ax.grid(False)
    return fig, f"Which rank reads which of {samples} samples. {' '.join(words)}"


# ---------------------------------------------------------------------------------------------------------------------
# What a learner's function does

NOT_WRITTEN = "Not written yet: put your code into the cell above and run it."


def _trial(name: str, case: Any) -> Any:
    """Run the function once on the ranks; return what they saw, or None, said on the page, if it does not work yet."""
    from utils import ranks
    from utils.check.gradients import run_case

    try:
        return [seen for seen in ranks.call(run_case, name, case) if seen is not None]
    except ranks.RanksError as error:
        unwritten = any(state.name in ("NotImplementedError", "KeyError") for state in error.states.values())
        print(NOT_WRITTEN if unwritten else error)
        return None


def shards(function: Any, samples: int = 18, ranks: int = 4, epochs: int = 3) -> None:
    """Show which rank reads which sample in each epoch."""
    try:
        by_epoch = {f"epoch {epoch}": [[int(one) for one in function(samples, rank, ranks, epoch)]
                                       for rank in range(ranks)] for epoch in range(epochs)}
    except NotImplementedError:
        print(NOT_WRITTEN)
        return
    figures.show(*who_reads(by_epoch, samples))


def training(name: str = "train_as_one") -> None:
    """Show the losses of the learner's training on four ranks beside those of one worker."""
    from utils.check.gradients import RATE, Case, parts_of, truth, vector

    sizes = [(3, 3, 2, 2), (2, 2, 2, 2), (2, 1, 1, 1), (4, 1, 2, 1)] * 3
    case = Case("train_as_one", "12 steps, shards of unequal sizes and token counts", 4, tuple(sizes), ragged=True)
    seen = _trial(name, case)
    if seen is None:
        return
    network, pieces, alone = case.network(), case.pieces(), []
    for step in range(len(sizes)):
        gradient, loss = truth(parts_of(network, [[row[step]] for row in pieces]))
        alone.append(loss)
        _descend(network, gradient, RATE)
    yours = seen[0].returned if isinstance(seen[0].returned, list) else []
    ends = [vector(one.tensors) for one in seen]
    distance = max(float((end - ends[0]).abs().max()) for end in ends)
    off = float((ends[0] - vector(dict(network.named_parameters()))).abs().max())
    fig, ax = figures.new(width=6.4, height=2.8)
    ax.plot(alone, label="one worker", linewidth=4, alpha=0.6)
    ax.plot(yours, label="your four ranks, as rank 0 returns it", linestyle="--", marker="o", markersize=4)
    ax.set(xlabel="step", ylabel="loss (nats)")
    ax.legend()
    last = f"{yours[-1]:.3f}" if yours else "nothing"
    figures.show(fig, (
        f"Loss by step on shards of unequal sizes and token counts. One worker ends at {alone[-1]:.3f}, your four "
        f"ranks at {last}. Largest distance between two ranks' parameters at the end: {distance:.1g}; between rank 0 "
        f"and one worker: {'below 0.00001' if off < 1e-5 else f'{off:.1g}'}."
    ))


def _descend(network: Any, gradient: Any, rate: float) -> None:
    """Take a step of plain gradient descent with one long vector."""
    import torch

    parameters = list(network.parameters())
    with torch.no_grad():
        for parameter, piece in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
            parameter -= rate * piece.reshape(parameter.shape).to(parameter.dtype)


def accumulation(name: str = "accumulate_once") -> Any:
    """Tabulate bytes, memory and result of the learner's accumulation for growing numbers of micro-batches."""
    from utils.check.gradients import Case, parts_of, truth, vector
    from utils.figures.table import Table

    rows = []
    for micro in (1, 2, 4, 8):
        case = Case("accumulate", f"{micro} micro-batches", 4, ((1,) * micro,) * 4, ragged=True)
        seen = _trial(name, case)
        if seen is None:
            return None
        network = case.network()
        true, _ = truth(parts_of(network, case.pieces()))
        distance = float((vector(seen[0].tensors) - true).norm() / true.norm())
        size = sum(parameter.nbytes for parameter in network.parameters())
        rows.append([micro, f"{seen[0].sent_except() / size:.2f} times the gradients", seen[0].alive,
                     "right" if distance < 1e-4 else f"off by {distance:.0%}"])
    heads = ("micro-batches on each rank", "bytes handed to collectives", "activations held at once, of", "gradient")
    return Table(heads, rows, "Your accumulation on four ranks, sequences with unequal numbers of target tokens")
