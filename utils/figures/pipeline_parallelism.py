"""Pictures of the lesson on pipeline parallelism: schedules side by side, and a sandbox to try them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from utils import figures
from utils import schedule as plans
from utils.figures import schedule as pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from utils.schedule import Simulation

TWO_A_RANK = ("zb-v", "dualpipe-v")  # fold the model into a V: two stages a rank, no more and no less


def together(
    found: Mapping[str, Simulation], unit: str = "time", scale: float = 1.0, one_axis: bool = True
) -> tuple[Figure, str]:
    """Draw simulations, replays or recorded runs below each other, each under its title.

    scale: what times are multiplied by to be in `unit`. one_axis: over one axis of time, so that lengths compare; or
    each as wide as the page, so that orders do. The description gives the length and the bubble of each.
    """
    shares = [0.55 + 0.3 * len(one.schedule.ranks) for one in found.values()]
    fig, axes = figures.new(len(found), 1, width=9.0, height=0.5 + sum(shares), sharex=one_axis, squeeze=False,
                            height_ratios=shares)  # fmt: skip
    longest = max(one.total for one in found.values()) * scale
    kinds = {action.kind for one in found.values() for action in one.times}
    words = []
    for index, (ax, (title, one)) in enumerate(zip(axes[:, 0], found.items(), strict=True)):
        times = {action: (start * scale, end * scale) for action, (start, end) in one.times.items()}
        span = longest if one_axis else one.total * scale
        pictures.rows(ax, times, one.schedule.placement, span=span, kinds=set() if index else kinds)
        total = f"{one.total * scale:.4g}" if one.total * scale < 1000 else f"{one.total * scale:,.0f}"
        ax.set_title(f"{title}: step {total}, bubble {one.bubble:.1%}", loc="left")
        ax.set_xlim(0, span)
        words.append(f"{title}: step {total}, {pictures.idleness(one)}.")
    axes[-1, 0].set_xlabel(unit)
    return fig, " ".join(words)


def stepping(found: Simulation, first: float | None = None) -> None:
    """Show a schedule with a slider over time: what has started by then is drawn. first: where it stands at first."""
    ends = {0.0, *(start for start, _ in found.times.values()), found.total}
    moments = [round(moment, 6) for moment in sorted(ends)]
    start = moments[-1] if first is None else min(moments, key=lambda moment: abs(moment - first))
    figures.slider(lambda until: pictures.draw(found, until=until), until=(moments, start))


# ---------------------------------------------------------------------------------------------------------------------
# The sandbox


def sandbox(
    schedule: str, ranks: int, micro_batches: int, stages_a_rank: int, forward: float, backward_input: float,
    backward_weight: float, transfer: float,
) -> tuple[Figure, str]:  # fmt: skip
    """Draw one schedule at these sizes and costs, and bubble and memory of all schedules beside it.

    Costs are those of one rank's whole share of the model, so that schedules with several stages a rank compare;
    stages_a_rank is for interleaving alone. Memory is in shares of one rank's model: of one micro-batch on all of it.
    """
    costs = (forward, backward_input, backward_weight, transfer)
    every = {name: _simulated(name, ranks, micro_batches, stages_a_rank, costs) for name in plans.NAMES}
    chosen = every[schedule]
    picked = chosen if not isinstance(chosen, str) else None
    height = 0.5 + 0.34 * ranks
    fig, axes = figures.new(3, 1, width=9.0, height=height + 3.4, height_ratios=(height, 0.9, 2.0))
    top, middle, bottom = axes
    if picked is None:
        for ax in (top, middle):
            ax.axis("off")
        words = f"It cannot be built: {chosen}."
        top.text(0.5, 0.5, _wrapped(words), ha="center", va="center", transform=top.transAxes)
    else:
        pictures.rows(top, picked.times, picked.schedule.placement)
        top.set_title(f"{schedule}: step {picked.total:.5g}, bubble {picked.bubble:.1%} of the slowest rank's time")
        pictures.memory(middle, picked, share=ranks / picked.schedule.stages)
        for ax in (top, middle):
            ax.set_xlim(0, picked.total)
        top.tick_params(labelbottom=False)
        words = pictures.describe(picked)
    _all(bottom, every, schedule)
    known = {name: one for name, one in every.items() if not isinstance(one, str)}
    table = ", ".join(f"{name} {one.bubble:.1%} and {_share(one):.3g}" for name, one in known.items())
    return fig, f"{words} Bubble and most activations on a rank: {table}."


def _simulated(
    name: str, ranks: int, micro_batches: int, held: int, costs: tuple[float, float, float, float]
) -> Simulation | str:
    """Simulate, with the costs of a rank shared by its stages; say why not where the schedule cannot be built."""
    held = 2 if name in TWO_A_RANK else held if name == "interleaved-1f1b" else 1
    try:
        built = plans.build(name, ranks * held, micro_batches, per_rank=held)
    except plans.ScheduleError as error:
        return str(error)
    forward, backward_input, backward_weight, transfer = costs
    return plans.simulate(built, forward / held, backward_input / held, backward_weight / held, transfer)


def _share(found: Simulation) -> float:
    """Give the most activations a rank holds, in shares of its part of the model."""
    return max(found.peak_activations) * len(found.schedule.ranks) / found.schedule.stages


def _all(ax: Axes, every: Mapping[str, Simulation | str], chosen: str) -> None:
    """Draw bubble (left) and memory (right) of all schedules as bars from a middle line of names."""
    names = list(every)
    ax.axis("off")
    left, right = ax.inset_axes((0.13, 0, 0.4, 0.9)), ax.inset_axes((0.57, 0, 0.4, 0.9))
    for row, (name, one) in enumerate(every.items()):
        if isinstance(one, str):
            left.text(0, row, " not at these sizes", va="center", fontsize=8)
            continue
        mine = name == chosen
        for side, value, text in (
            (left, 100 * one.bubble, f"{one.bubble:.1%}"),
            (right, _share(one), f"{_share(one):.3g}"),
        ):
            side.barh(row, value, height=0.66, color=figures.colour(0 if mine else 4), hatch="" if mine else "///",
                      edgecolor="white")  # fmt: skip
            side.text(value, row, f" {text}", va="center", fontsize=8)
    for side, title in ((left, "bubble (%)"), (right, "most activations on a rank")):
        side.set_title(title, fontsize=9)
        side.set_ylim(len(names) - 0.5, -0.5)
        side.margins(x=0.18)
        side.set_xlim(left=0)
        side.grid(axis="y", visible=False)
        side.tick_params(labelsize=8)
    left.set_yticks(range(len(names)), names)
    right.set_yticks([])


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 90))
