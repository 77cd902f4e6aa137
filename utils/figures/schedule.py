"""A pipeline schedule as the field draws it: time across, ranks down, activations held below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils import figures
from utils.schedule.actions import BACKWARD, FORWARD, INPUT, KINDS, WEIGHT, Action

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from utils.schedule import Simulation

LOOK = {FORWARD: (0, ""), BACKWARD: (1, "///"), INPUT: (1, ""), WEIGHT: (2, "...")}  # colour, hatch
IDLE = "#e8e8e8"
MOST_RANKS = 4  # lines of memory that one can tell apart; of more ranks first, last and two between are drawn


def draw(found: Simulation, until: float | None = None, unit: str = "time") -> tuple[Figure, str]:
    """Draw a simulation: what each rank does when, and how many activations it holds.

    until: draw only what has started by then, for stepping through. unit: the label of the time axis.
    """
    ranks = len(found.schedule.ranks)
    fig, (above, below) = figures.new(
        2, 1, width=9.0, height=1.9 + 0.38 * ranks, sharex=True, height_ratios=(0.5 + 0.38 * ranks, 1.2)
    )
    rows(above, found.times, found.schedule.placement, until)
    above.set_title(f"{found.schedule.name}: bubble {found.bubble:.1%} of the slowest rank's time")
    above.set_xlim(0, found.total)
    memory(below, found, until)
    below.set_xlabel(unit)
    return fig, describe(found)


def rows(
    ax: Axes, times: Mapping[Action, tuple[float, float]], placement: Sequence[int], until: float | None = None,
    span: float | None = None, kinds: set[str] | None = None,
) -> None:  # fmt: skip
    """Draw actions as boxes, one row a rank, on grey ground that shows idle time; the number is the micro-batch.

    Of a rank that holds several stages, later ones are drawn paler. Recorded times of a real run are drawn alike.
    span: the length of the axis, where it is longer than these times. kinds: those that the legend explains, if others
    than are drawn; none: no legend.
    """
    ranks, stages = max(placement) + 1, len(placement)
    total = max(end for _, end in times.values())
    order = {stage: sum(placement[s] == placement[stage] for s in range(stage)) for stage in range(stages)}
    held = max(order.values()) + 1
    ax.barh(range(ranks), total, height=0.86, color=IDLE)
    for (stage, kind, micro_batch), (start, end) in times.items():
        if until is not None and start >= until:
            continue
        index, hatch = LOOK[kind]
        ax.barh(
            placement[stage], end - start, left=start, height=0.86, color=figures.colour(index), hatch=hatch,
            alpha=1 - 0.5 * order[stage] / held, edgecolor="white", linewidth=0.6,
        )  # fmt: skip
        if end - start > (span or total) / 90:
            ax.text((start + end) / 2, placement[stage], str(micro_batch), ha="center", va="center", fontsize=7,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6})  # fmt: skip
    ax.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
    ax.invert_yaxis()
    ax.grid(visible=False)
    kinds = {action.kind for action in times} if kinds is None else kinds
    if kinds:
        ax.legend(handles=_legend(kinds), loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)


def _legend(kinds: set[str]) -> list[Patch]:
    """Explain the colours and patterns of these kinds, all those of a schedule whatever has been drawn of it."""
    from matplotlib.patches import Patch

    boxes = [Patch(facecolor=IDLE, label="idle")]
    for kind in (kind for kind in KINDS if kind in kinds):
        index, hatch = LOOK[kind]
        boxes.append(Patch(facecolor=figures.colour(index), hatch=hatch, edgecolor="white", label=KINDS[kind]))
    return boxes


def memory(ax: Axes, found: Simulation, until: float | None = None, share: float = 1.0) -> None:
    """Draw how many activations each rank holds. share: what one counts, of the activations of a rank's whole part."""
    from matplotlib.ticker import MaxNLocator

    ranks = range(len(found.held))
    chosen = ranks if len(ranks) <= MOST_RANKS else sorted({0, len(ranks) // 3, 2 * len(ranks) // 3, len(ranks) - 1})
    for rank in chosen:
        steps = [(time, count) for time, count in found.held[rank] if until is None or time <= until]
        end = found.total if until is None else min(until, found.total)
        times, counts = zip(*steps, (end, steps[-1][1]), strict=True)
        ax.step(times, [count * share for count in counts], where="post", label=f"rank {rank}")
    ax.set_ylabel("activations\nheld")
    ax.set_ylim(0, max(found.peak_activations) * share * 1.1)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)


def describe(found: Simulation) -> str:
    """Say in words what `draw` shows, with its numbers."""
    s = found.schedule
    stages = "" if s.stages == len(s.ranks) else f" with {s.stages} stages"
    size = f"{len(s.ranks)} ranks{stages}, {s.micro_batches} micro-batch{'es' * (s.micro_batches > 1)}"
    held = ", ".join(map(str, found.peak_activations))
    return f"{s.name}, {size}: step {found.total:.4g}, {idleness(found)}; most activations held, by rank: {held}."


def idleness(found: Simulation) -> str:
    """Say how much is idle: the bubble of the slowest rank, and of the whole step each rank's share."""
    shares = [f"{share:.0%}" for share in found.idle]
    each = f"{shares[0]} on each rank" if len(set(shares)) == 1 else f"{', '.join(shares)} by rank"
    return f"bubble {found.bubble:.1%}, idle {each}"
