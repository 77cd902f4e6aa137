"""Draw a ledger: pairs of bars, what was predicted and what was counted, one panel a unit."""
from __future__ import annotations

from typing import TYPE_CHECKING

from utils import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from utils.ledger import Ledger, Row


def _panel(ax: Axes, rows: list[Row], unit: str) -> None:
    from utils.ledger import amount, each

    greatest = max([each(v) for row in rows for v in (row.predicted, row.counted) if v is not None] + [0.0]) or 1.0
    for place, row in enumerate(rows):
        for kind, value, shift in ((0, row.predicted, -0.2), (1, row.counted, 0.2)):
            if value is None:
                ax.text(0, place + shift, " not counted", va="center", fontsize=8)
                continue
            ax.barh(place + shift, each(value), 0.36, color=figures.colour(kind), edgecolor="white",
                    hatch=figures.pattern(kind))
            ax.text(each(value), place + shift, f" {amount(each(value), unit)}", va="center", fontsize=8)
    ax.set_yticks(range(len(rows)), [row.name for row in rows])
    ax.set_ylim(len(rows) - 0.45, -0.55)
    ax.set_xlim(0, greatest * 1.25)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("bytes (by rank: the mean)" if unit == "bytes" else unit)
    if unit == "bytes":
        ax.xaxis.set_major_formatter(lambda value, _: amount(value, unit) if value else "0")


def draw(book: Ledger) -> tuple[Figure, str]:
    """Draw all rows; where values are by rank, their mean. Returns the figure and its description."""
    if not len(book):
        raise ValueError("this ledger has no rows yet: write some with book.row(name, formula, predicted, counted)")
    from matplotlib.patches import Patch

    units = list(dict.fromkeys(row.unit for row in book))
    by_unit = {unit: [row for row in book if row.unit == unit] for unit in units}
    heights = [len(rows) for rows in by_unit.values()]
    fig, axes = figures.new(len(units), 1, height=0.55 * sum(heights) + 0.8 * len(units), squeeze=False,
                            gridspec_kw={"height_ratios": heights})
    for ax, (unit, rows) in zip(axes[:, 0], by_unit.items(), strict=True):
        _panel(ax, rows, unit)
    keys = [Patch(facecolor=figures.colour(kind), hatch=figures.pattern(kind), edgecolor="white", label=label)
            for kind, label in enumerate(("predicted", "counted"))]
    axes[0, 0].legend(handles=keys, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return fig, describe(book)


def describe(book: Ledger) -> str:
    """Say every row with its numbers."""
    lines = []
    for row in book:
        name, _, predicted, counted, ratio = row.texts()
        tail = f", ratio {ratio}" if ratio else ""
        found = counted if row.counted is None else f"counted {counted}"
        lines.append(f"{name}: predicted {predicted}, {found}{tail}.")
    return " ".join([f"Predicted and counted, {len(lines)} row{'s' * (len(lines) != 1)}.", *lines])
