"""Pictures of the lesson on sharded data parallelism: what is cut, what each stage saves, and what padding costs.

Every function gets data and returns (figure, description); those at the end run a learner's function and show it.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from utils import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from utils.ledger import Memory

Drawn: TypeAlias = "tuple[Figure, str]"

KINDS = ("parameters", "gathered", "gradients", "optimizer_state")
STAGES = ("data parallelism", "ZeRO-1", "ZeRO-2", "ZeRO-3")
# Rajbhandari et al. 2020 (arXiv:1910.02054), table 1: gigabytes of model states on each GPU, by parameters and GPUs:
# ZeRO-1, ZeRO-2, ZeRO-3. Mixed precision with Adam: 2 bytes a parameter, 2 its gradient, 12 the states.
PUBLISHED: dict[float, dict[int, tuple[float, float, float]]] = {
    7.5e9: {1: (120, 120, 120), 4: (52.5, 41.3, 30), 16: (35.6, 21.6, 7.5), 64: (31.4, 16.6, 1.88),
            256: (30.4, 15.4, 0.47), 1024: (30.1, 15.1, 0.12)},
    128e9: {1: (2048, 2048, 2048), 4: (896, 704, 512), 16: (608, 368, 128), 64: (536, 284, 32), 256: (518, 263, 8),
            1024: (513, 257, 2)},
    1e12: {1: (16000, 16000, 16000), 4: (7000, 5500, 4000), 16: (4750, 2875, 1000), 64: (4187, 2218, 250),
           256: (4046, 2054, 62.5), 1024: (4011, 2013, 15.6)},
}  # fmt: skip


def layout(network: Any, ranks: int) -> Drawn:
    """Draw the parameters of a network laid end to end, and the cuts that make one shard of them for each rank.

    What is missing until the ranks divide the length is padding.
    """
    sizes: dict[str, int] = {}
    for name, p in network.named_parameters():
        piece = "block " + name.split(".")[1] if name.startswith("blocks") else "embeddings" if p.dim() > 1 else "norm"
        sizes[piece] = sizes.get(piece, 0) + p.numel()
    total = sum(sizes.values())
    each = math.ceil(total / ranks)
    padding = each * ranks - total
    fig, ax = figures.new(width=7.6, height=2.1)
    left = 0
    for index, (name, size) in enumerate(sizes.items()):
        ax.barh(0, size, 0.6, left, color=figures.colour(index % 2 * 4), edgecolor="black", linewidth=0.6, alpha=0.55)
        if size > total / 60:
            ax.text(left + size / 2, 0, name, ha="center", va="center", fontsize="small", zorder=5,
                    rotation=90 if size < total / 14 else 0,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
        left += size
    if padding:
        ax.barh(0, padding, 0.6, left, color="white", edgecolor="black", hatch="///")
    for rank in range(ranks):
        if rank:
            ax.axvline(rank * each, color="black", linewidth=2.2)
        ax.text((rank + 0.5) * each, 0.52, f"rank {rank} keeps {each:,}", ha="center", va="bottom", weight="bold")
    ax.set(xlim=(0, each * ranks), ylim=(-0.4, 0.85), yticks=[], xlabel="elements of the flat row")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.grid(False)
    return fig, (
        f"One row of {total:,} elements, {len(sizes)} pieces end to end. Equal cuts give each of {ranks} ranks "
        f"{each:,} elements, {padding} of them padding in all."
    )


def stages(held: Mapping[str, Memory], predicted: Mapping[str, float]) -> Drawn:
    """Draw what rank 0 holds under each scheme, by kind, activations aside, and what a formula says of it.

    held: by scheme, as the ledger counted it. predicted: by scheme, bytes of parameters, gradients and states at rest.
    """
    fig, ax = figures.new(width=7.2, height=3.4)
    words = []
    for place, (name, memory) in enumerate(held.items()):
        bottom = 0.0
        for index, kind in enumerate(KINDS):
            value = getattr(memory, kind)[0] / 1e6
            ax.bar(place, value, 0.62, bottom, color=figures.colour(index), hatch=figures.pattern(index),
                   edgecolor="white", label=kind.replace("_", " ") if place == 0 else None)
            bottom += value
        ax.annotate(f"{bottom:.2f} MB", (place, bottom), (0, 4), textcoords="offset points", ha="center")
        formula = predicted[name] / 1e6
        ax.plot([place - 0.4, place + 0.4], [formula, formula], color="black", linewidth=2, linestyle="-",
                label="formula" if place == 0 else None)
        words.append(f"{name} {bottom:.2f} MB (formula {formula:.2f})")
    ax.set(xticks=range(len(held)), xticklabels=list(held), ylabel="MB on rank 0")
    ax.grid(False, axis="x")
    ax.margins(y=0.12)
    ax.legend(loc="upper right", fontsize="small")
    return fig, f"What rank 0 holds at most in a step, activations aside: {'; '.join(words)}."


def states(parameters: float, ranks: int) -> list[float]:
    """Give the gigabytes of model states on a rank: data parallelism, ZeRO-1, ZeRO-2, ZeRO-3 (mixed precision, Adam).

    The formulas of Rajbhandari et al. 2020, section 5: 2 bytes a parameter, 2 its gradient, 12 Adam's states.
    """
    n = ranks
    return [parameters * size / 1e9 for size in (2 + 2 + 12, 2 + 2 + 12 / n, 2 + (2 + 12) / n, (2 + 2 + 12) / n)]


def on_a_rank(billions: float, ranks: int, memory: float) -> Drawn:
    """Draw model states by number of ranks for each stage, the published values, and the memory of one GPU.

    billions: parameters in 10^9. ranks: the number that is marked. memory: gigabytes of one GPU.
    """
    numbers = [2**power for power in range(11)]
    fig, ax = figures.new(width=7.2, height=3.6)
    published = PUBLISHED.get(billions * 1e9, {})
    for index, stage in enumerate(STAGES):
        values = [states(billions * 1e9, n)[index] for n in numbers]
        ax.plot(numbers, values, label=stage, color=figures.colour(index), linestyle=figures.LINES[index])
        if index and published:
            ax.plot(list(published), [row[index - 1] for row in published.values()], linestyle="", marker="o",
                    color=figures.colour(index), label="published" if index == 3 else None)
    here = states(billions * 1e9, ranks)
    ax.axhline(memory, color="black", linewidth=1, linestyle="-")
    ax.text(1100, memory * 0.92, f"one GPU, {memory:g} GB", va="top", ha="right", fontsize="small")
    ax.axvline(ranks, color="grey", linewidth=1, linestyle="-")
    ax.set(xscale="log", yscale="log", xlabel="ranks", ylabel="GB of states on each rank", xticks=numbers[::2],
           xticklabels=[f"{n:,}" for n in numbers[::2]])
    ax.minorticks_off()
    ax.legend(fontsize="small", loc="lower left")
    fits = [stage for stage, value in zip(STAGES, here, strict=True) if value <= memory]
    listed = ", ".join(f"{stage} {value:.3g}" for stage, value in zip(STAGES, here, strict=True))
    dots = " The published values lie on the curves." if published else ""
    return fig, (
        f"States of {billions:g} billion parameters, GB on each of {ranks} ranks: {listed}. Below "
        f"{memory:g} GB: {', '.join(fits) or 'none'}.{dots}"
    )


def against_the_table() -> str:
    """Say how far the formulas are from the published table."""
    pairs = [(ours, theirs) for size, rows in PUBLISHED.items() for n, row in rows.items()
             for ours, theirs in zip(states(size, n)[1:], row, strict=True)]
    worst = max(abs(ours / theirs - 1) for ours, theirs in pairs if theirs > 1)
    return f"{len(pairs)} published values; above 1 GB the formulas differ from them by {worst:.1%} at most"


def overview(held: Mapping[str, Memory], volumes: Mapping[str, int]) -> str:
    """Tabulate, by scheme, what rank 0 holds at most during a step, by kind, and the volume of what is sent."""
    from utils.ledger import amount
    from utils.ledger._book import table

    kinds = (*KINDS, "activations")
    rows = [[scheme, *(amount(getattr(memory, kind)[0]) for kind in kinds), amount(volumes[scheme])]
            for scheme, memory in held.items()]
    return table(["", *(kind.replace("_", " ") for kind in kinds), "volume"], rows, "Rank 0, one step")["text/plain"]


def padding(units: Sequence[int], gathered: Mapping[int, int]) -> Drawn:
    """Draw how many elements the gathers of a step bring, by number of ranks, for two ways to cut.

    units: elements of each unit that is gathered. gathered: by ranks, elements counted where each parameter is cut by
    rows. Beside it, by formula, units laid end to end: each is padded to the next number that the ranks divide.
    """
    needed = sum(units)
    flat = {n: sum(math.ceil(size / n) * n for size in units) for n in gathered}
    fig, ax = figures.new(width=6.4, height=3)
    numbers = sorted(gathered)
    ax.plot(numbers, [gathered[n] / needed for n in numbers], marker="o", label="each parameter cut by rows (counted)")
    ax.plot(numbers, [flat[n] / needed for n in numbers], marker="D", label="laid end to end (formula)")
    for n in numbers:
        if gathered[n] / needed > 1.15:
            ax.annotate(f"{gathered[n] / needed:.1f}", (n, gathered[n] / needed), (-6, 4), textcoords="offset points",
                        ha="right")
    ax.set(xscale="log", yscale="log", xlabel="ranks", ylabel="gathered / needed", xticks=numbers,
           xticklabels=[f"{n:,}" for n in numbers], yticks=[1, 2, 5, 10, 20, 50],
           yticklabels=["1", "2", "5", "10", "20", "50"])
    ax.minorticks_off()
    ax.legend(fontsize="small")
    listed = ", ".join(f"{gathered[n] / needed:.2f} on {n:,}" for n in numbers)
    return fig, (
        f"Elements gathered, as a multiple of the {needed:,} needed, by ranks. Cut by rows: {listed}. Laid end to end: "
        f"{max(flat[n] / needed for n in numbers):.2f} at most."
    )


# ---------------------------------------------------------------------------------------------------------------------
# What a learner's function does

NOT_WRITTEN = "Not written yet: put your code into the cell above and run it."


def _trial(trial: Any, *args: Any) -> Any:
    """Run a trial on the ranks; return what they saw, or None, said on the page, if it does not work yet."""
    from utils import ranks

    try:
        return [seen for seen in ranks.call(trial, *args) if seen is not None]
    except ranks.RanksError as error:
        unwritten = any(state.name in ("NotImplementedError", "KeyError") for state in error.states.values())
        print(NOT_WRITTEN if unwritten else error)
        return None


def cut_row(function: Any) -> None:
    """Show the shards that the learner's function makes of three tensors on four ranks."""
    import torch

    shapes, n = ((3, 4), (5,), (2, 3)), 4
    tensors = [torch.full(shape, float(index + 1)) for index, shape in enumerate(shapes)]
    try:
        shards = [shard.tolist() for shard in function(tensors, n)[0]]
    except NotImplementedError:
        print(NOT_WRITTEN)
        return
    fig, ax = figures.new(width=7.2, height=1.9)
    left, words = 0.0, []
    for rank, shard in enumerate(shards):
        for index, value in enumerate(shard):
            kind = int(value)
            ax.bar(left + index + 0.5, 1, 1, color=figures.colour(kind - 1) if kind else "#cccccc", edgecolor="white",
                   hatch=figures.pattern(kind - 1) if kind else "")
            ax.text(left + index + 0.5, 0.5, str(kind) if kind else "0", ha="center", va="center", fontsize="small",
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
        ax.text(left + len(shard) / 2, 1.08, f"rank {rank}", ha="center", va="bottom")
        words.append(f"rank {rank} {' '.join(str(int(value)) for value in shard)}")
        left += len(shard) + 0.6
    ax.set(xlim=(-0.3, left), ylim=(0, 1.4), xticks=[], yticks=[])
    ax.set_axis_off()
    figures.show(fig, "Shards of a row of tensors 1, 2 and 3 (12, 5 and 6 numbers; 0 is padding): "
                      f"{'; '.join(words)}.")


def steps(name: str = "zero_1_step") -> None:
    """Show the length of the row, step by step, as the learner's ranks have it and as one worker has it."""
    from utils.check import sharded_trials as trials

    n, length, count = 4, 40, 12
    seen = _trial(trials.run_steps, name, n, length, count)
    if seen is None:
        return
    one = [float(row.norm()) for row in trials.descend(n, length, count)]
    fig, ax = figures.new(width=6.4, height=2.8)
    ax.plot(one, label="one worker", linewidth=4, alpha=0.6)
    for rank, view in enumerate(seen):
        ax.plot([float(row.norm()) for row in view.tensors], label=f"your rank {rank}", linestyle=figures.LINES[rank],
                marker="o", markersize=3, color=figures.colour(rank + 1))
    ax.set(xlabel="step", ylabel="norm of the row")
    ax.legend(fontsize="small")
    ends = ", ".join(f"{float(view.tensors[-1].norm()):.3f}" for view in seen)
    figures.show(fig, (
        f"Norm of the row over {count} steps. One worker ends at {one[-1]:.3f}, your ranks at {ends}. `state` holds "
        f"{seen[0].state} elements on rank 0, the row {length}."
    ))


def saw(name: str = "run_sharded") -> None:
    """Show how many elements of parameters are there, by layer, while the learner's function runs on four ranks."""
    from utils.check import sharded_trials as trials

    seen = _trial(trials.run_blocks, name, 4, 3, (2, 2, 2, 2))
    if seen is None:
        return
    levels = seen[0].levels
    fig, ax = figures.new(width=6.4, height=2.6)
    ax.plot(levels, linestyle="-", marker="o", markersize=4)
    ax.fill_between(range(len(levels)), levels, alpha=0.3)
    ax.set(xlabel="before each gather, at the beginning and end of each block, at the end",
           ylabel="elements of parameters\non rank 0", xticks=range(len(levels)))
    ax.set_ylim(bottom=0)
    figures.show(fig, (
        "Elements of parameters on rank 0 before each gather, at the beginning and end of each block, and at the end: "
        f"{', '.join(map(str, levels))}. At "
        f"most {seen[0].most} block{'s' * (seen[0].most != 1)} at once, {seen[0].kept} at the end."
    ))


def norms(name: str = "global_norm") -> Any:
    """Tabulate the norms that the learner's function returns for some ways to share a gradient out."""
    from utils.check import sharded_trials as trials
    from utils.figures.table import Table

    rows = []
    for n, counts, copies in trials.NORMS:
        seen = _trial(trials.run_norm, name, n, counts, copies)
        if seen is None:
            return None
        parts = [trials.parts_of_norm(rank, counts, copies) for rank in range(n)]
        pieces = [g for own, _ in parts for g in own if g is not None] + parts[0][1]
        right = math.sqrt(sum(float(g.square().sum()) for g in pieces))
        yours = ", ".join(f"{value:.3f}" for value in dict.fromkeys(round(one.returned, 3) for one in seen))
        rows.append([f"{n} ranks: {', '.join(map(str, counts))}", copies, yours, f"{right:.3f}"])
    return Table(["sharded gradients by rank", "replicated", "your ranks return", "one worker"], rows,
                 "Norm of the whole gradient")
