"""Pictures of the first notebook: who holds what under each method, and how a step's time divides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.figures import colour, new, pattern

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What one rank holds: the blocks of the model, and the sequences of the batch that pass through it.
Held = tuple[Sequence[int], Sequence[int]]


def who_holds_what(title: str, ranks: Sequence[Held], blocks: int, sequences: int, ax: Axes) -> str:
    """Draw one row a rank: filled squares for the blocks and the sequences it holds. Return the description."""
    for rank, (own, seen) in enumerate(ranks):
        for x in range(blocks):
            _square(ax, x, rank, x in own, 0)
        for x in range(sequences):
            _square(ax, blocks + 1 + x, rank, x in seen, 1)
    ax.set(xlim=(-0.6, blocks + sequences + 0.6), ylim=(len(ranks) - 0.4, -1.1), title=title, aspect="equal")
    ax.set_yticks(range(len(ranks)), [f"rank {rank}" for rank in range(len(ranks))])
    ax.text((blocks - 1) / 2, -0.75, f"{blocks} blocks of the model", ha="center", fontsize=9)
    ax.text(blocks + (sequences + 1) / 2, -0.75, f"{sequences} sequences of the batch", ha="center", fontsize=9)
    ax.set_xticks([])
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0)
    held = [f"rank {r} {_span('block', own)} and {_span('sequence', seen)}" for r, (own, seen) in enumerate(ranks)]
    return f"{title}: {'; '.join(held)}."


def two_methods(data: Sequence[Held], model: Sequence[Held], blocks: int, sequences: int) -> tuple[Figure, str]:
    """Draw data parallelism above model parallelism: who holds which blocks, and which sequences pass through whom."""
    fig, (above, below) = new(rows=2, width=7.2, height=3.5)
    said = [
        who_holds_what("Data parallelism", data, blocks, sequences, above),
        who_holds_what("Model parallelism", model, blocks, sequences, below),
    ]
    return fig, " ".join(said) + " Filled squares are held by the rank, empty ones are not."


def _square(ax: Axes, x: float, y: float, filled: bool, kind: int) -> None:
    from matplotlib.patches import Rectangle

    face = colour(kind) if filled else "white"
    hatch = pattern(kind) if filled else ""
    ax.add_patch(Rectangle((x - 0.4, y - 0.4), 0.8, 0.8, facecolor=face, hatch=hatch, edgecolor="#555555"))


def _span(name: str, numbers: Sequence[int]) -> str:
    """Write consecutive numbers as a range: "blocks 0 to 5"."""
    if len(numbers) == 1:
        return f"{name} {numbers[0]}"
    return f"{name}s {min(numbers)} to {max(numbers)}"


def step_time(compute: float, messages: float, workers: int, alone: float) -> tuple[Figure, str]:
    """Draw the time of a step, in ms, of one worker and of several: arithmetic, then messages."""
    fig, ax = new(height=2.4)
    rows = [("1 worker", alone, 0.0), (f"{workers} workers", compute, messages)]
    for y, (_, first, second) in enumerate(rows):
        ax.barh(y, first, color=colour(0), edgecolor="white", label="arithmetic" if not y else None)
        ax.barh(y, second, left=first, color=colour(1), hatch="///", edgecolor="white", label=None if y else "messages")
    ax.set_yticks(range(2), [name for name, _, _ in rows])
    ax.invert_yaxis()
    ax.set(xlabel="ms a step", xlim=(0, 1.25 * alone))
    ax.legend(loc="lower right")
    ax.grid(axis="y", visible=False)
    total = compute + messages
    speedup = alone / total
    ax.set_title(f"{speedup:.1f} times as fast; {speedup / workers:.0%} of what {workers} workers could be")
    return fig, (
        f"One worker takes {alone:.0f} ms a step. {workers} workers take {total:.0f} ms: {compute:.0f} of arithmetic "
        f"and {messages:.0f} of messages. That is {speedup:.1f} times as fast: an efficiency of "
        f"{speedup / workers:.0%}."
    )
