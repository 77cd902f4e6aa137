"""Pictures of the lesson on ranks and collectives: tensors by rank, the ring step by step, the time of a message.

The lesson's numbers carry their history: position p of rank r holds (p + 1) * 10**r. A digit tells the position it
came from, its place in the number (ones, tens, hundreds, ...) the rank. So the colours below are read off the
values themselves: a cell shows the colour of every rank that has a digit in it.

Importing this module in a notebook registers %%drawn.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from utils.check.messages import Message

Values = Sequence[float]
State = Sequence[Values]  # the numbers of each rank, by rank
GAP = 1.3  # between two panels, in cells


# ---------------------------------------------------------------------------------------------------------------------
# Tensors by rank


def contributors(value: float) -> list[int]:
    """Return the ranks whose digit is in `value`: 1110 -> [1, 2, 3]. Empty if the value is not of the lesson's kind."""
    if not 1 <= value < 10 ** len(figures.COLOURS) or value != int(value):
        return []
    return [place for place, digit in enumerate(reversed(str(int(value)))) if digit != "0"]


def flat(value: Any) -> list[float]:
    """Return the numbers in a tensor, a number or a list of them, in order; nothing for None."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in flat(part)]
    if hasattr(value, "flatten"):
        return [float(number) for number in value.flatten().tolist()]
    return [float(value)]


def _text(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else f"{value:.2g}"


def describe(name: str, by_rank: State) -> str:
    """Return what the ranks hold as text."""
    own = [[(position + 1) * 10**rank for position in range(len(values))] for rank, values in enumerate(by_rank)]
    if by_rank[0] and list(by_rank) == own:
        return f"{name}: each rank's own numbers."
    held = [", ".join(map(_text, values)) or "nothing" for values in by_rank]
    if len(set(held)) == 1:
        return f"{name}: every rank holds {held[0]}."
    return f"{name}: {'; '.join(f'rank {rank} holds {what}' for rank, what in enumerate(held))}."


def _tint(rank: int) -> tuple[float, float, float]:
    """Return the colour of a rank, light enough for black digits."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 - 0.5 * (1 - part) for part in to_rgb(figures.colour(rank)))
    return red, green, blue


def _cell(axes: Axes, x: float, y: float, value: float, strong: bool) -> None:
    """Draw one number on the colours of the ranks that it came from, the highest rank on the left, as in the digits."""
    from matplotlib.patches import Rectangle

    colours = [_tint(rank) for rank in reversed(contributors(value))] or [(1.0, 1.0, 1.0)]
    width = 1 / len(colours)
    for i, colour in enumerate(colours):
        axes.add_patch(Rectangle((x + i * width, y), width, 0.8, facecolor=colour, linewidth=0))
    axes.add_patch(Rectangle((x, y), 1, 0.8, fill=False, edgecolor="black", linewidth=2.4 if strong else 0.7, zorder=3))
    axes.text(x + 0.5, y + 0.4, _text(value), ha="center", va="center", fontsize=9, color="black", zorder=4)


def _table(axes: Axes, left: float, top: float, name: str, by_rank: State, previous: State | None = None) -> None:
    """Draw what each rank holds, one row a rank; what differs from `previous` gets a thick frame."""
    axes.text(left, top - 0.2, name, fontsize=10, fontweight="bold", va="bottom")
    for rank, values in enumerate(by_rank):
        if not values:
            axes.text(left + 0.5, top + rank + 0.4, "–", ha="center", va="center", color="#555555")
        for position, value in enumerate(values):
            strong = previous is not None and value != previous[rank][position]
            _cell(axes, left + position, top + rank, value, strong)


def _canvas(columns: float, rows: float, ranks: int, row_tops: Sequence[float] = (0,)) -> tuple[Figure, Axes]:
    """Return a figure whose unit is one cell, with the names of the ranks on the left."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(0.5 * (columns + 1.8), 0.33 * (rows + 1.0)))
    fig.set_layout_engine("none")
    axes = fig.add_axes((0, 0, 1, 1))
    axes.set_xlim(-1.7, columns + 0.1)
    axes.set_ylim(rows + 0.05, -0.95)
    axes.axis("off")
    for top in row_tops:
        for rank in range(ranks):
            axes.text(-0.25, top + rank + 0.4, f"rank {rank}", ha="right", va="center", fontsize=9)
    return fig, axes


def grid(panels: Mapping[str, State]) -> tuple[Figure, str]:
    """Draw tables side by side, with arrows between: `panels` maps a title to the numbers of each rank."""
    widths = [max([1, *map(len, by_rank)]) for by_rank in panels.values()]
    ranks = max(len(by_rank) for by_rank in panels.values())
    fig, axes = _canvas(sum(widths) + GAP * (len(widths) - 1), ranks, ranks)
    left = 0.0
    for (name, by_rank), width in zip(panels.items(), widths, strict=True):
        if left:
            middle = (ranks - 0.2) / 2
            axes.annotate(
                "", (left - 0.2, middle), (left - GAP + 0.2, middle), arrowprops={"arrowstyle": "->", "lw": 1.5}
            )
        _table(axes, left, 0, name, by_rank)
        left += width + GAP
    return fig, " ".join(describe(name, by_rank) for name, by_rank in panels.items())


def draw(*names: str) -> None:
    """Fetch these variables from all ranks and draw them side by side."""
    from utils import ranks

    figures.show(*grid({name: [flat(value) for value in ranks.gather(name)] for name in names}))


def _register() -> None:
    """Register %%drawn if this import happens in IPython: it runs a cell as %%ranks does, then draws variables."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or "rank" in shell.user_ns:
        return

    def drawn(line: str, cell: str) -> None:
        """Run this cell on every rank, as %%ranks does, then draw the variables named: %%drawn x y."""
        names = line.split()
        if not names or not all(name.isidentifier() for name in names):
            raise ValueError("Name the variables to draw after %%drawn, with spaces between: %%drawn x y")
        shell.run_cell_magic("ranks", "", cell)
        draw(*names)

    shell.register_magic_function(drawn, "cell", "drawn")


_register()


# ---------------------------------------------------------------------------------------------------------------------
# The ring


def _step_name(step: int, ranks: int) -> str:
    if step == 0:
        return "at the start"
    phase, number = ("reduce-scatter", step) if step < ranks else ("all-gather", step - ranks + 1)
    return f"{phase} {number}"


def by_step(trace: Sequence[Sequence[Values]]) -> list[State]:
    """Turn what each rank recorded, by rank and step, into what all ranks held, by step and rank."""
    return [[flat(values) for values in state] for state in zip(*trace, strict=True)]


def ring(trace: Sequence[Sequence[Values]], step: int) -> tuple[Figure, str]:
    """Draw one step of a recorded ring: what every rank holds, and the chunk that just arrived in a thick frame."""
    states = by_step(trace)
    ranks, state = len(states[0]), states[step]
    width = len(state[0])
    fig, axes = _canvas(width + 3.4, ranks, ranks)
    _table(axes, 0, 0, f"step {step}: {_step_name(step, ranks)}", state, states[step - 1] if step else None)
    text = describe(f"Step {step} of {len(states) - 1}, {_step_name(step, ranks)}", state)
    if step:
        for rank in range(ranks):
            last = rank == ranks - 1
            axes.annotate(
                "", (width + 0.3, 0.4 if last else rank + 1.3), (width + 0.3, rank + 0.5),
                arrowprops={"arrowstyle": "->", "lw": 1.5, "connectionstyle": f"arc3,rad={0.5 if last else -0.5}"},
            )  # fmt: skip
        axes.text(width + 1.6, ranks / 2 - 0.1, "one chunk\neach", fontsize=9, va="center")
        text += " Every rank has just received one chunk from its left neighbour."
    return fig, text


def film(trace: Sequence[Sequence[Values]]) -> tuple[Figure, str]:
    """Draw all steps of a recorded ring, the first phase in the upper row and the second in the lower."""
    states = by_step(trace)
    ranks, width = len(states[0]), len(states[0][0])
    columns = ranks * (width + 0.7) - 0.7
    fig, axes = _canvas(columns, 2 * ranks + 1, ranks, (0, ranks + 1))
    for step, state in enumerate(states):
        row, column = (0, step) if step < ranks else (1, step - ranks)
        left, top = column * (width + 0.7), row * (ranks + 1)
        _table(axes, left, top, _step_name(step, ranks), state, states[step - 1] if step else None)
    text = (
        f"{len(states) - 1} steps of a ring of {ranks} ranks; in each, every rank receives one chunk. "
        + describe(f"After {ranks - 1} steps", states[ranks - 1])
        + " "
        + describe("At the end", states[-1])
    )
    return fig, text


# ---------------------------------------------------------------------------------------------------------------------
# Bytes and time


def sent(by_name: Mapping[str, Sequence[int]]) -> tuple[Figure, str]:
    """Draw the bytes that each rank put on the wire, one group of bars for each way of doing it."""
    fig, axes = figures.new(width=6.4, height=2.6)
    ranks = max(len(by_rank) for by_rank in by_name.values())
    width = 0.8 / len(by_name)
    for i, (name, by_rank) in enumerate(by_name.items()):
        places = [rank + (i - (len(by_name) - 1) / 2) * width for rank in range(len(by_rank))]
        millions = [number / 1e6 for number in by_rank]
        bars = axes.bar(places, millions, width * 0.92, label=name, color=figures.colour(i), hatch=figures.pattern(i))
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
    axes.set_ylabel("sent (MB)")
    axes.grid(False, axis="x")
    axes.margins(y=0.15)
    fig.legend(loc="outside upper center", ncols=len(by_name))
    parts = [f"{name}: " + ", ".join(f"{b / 1e6:.1f}" for b in by_rank) for name, by_rank in by_name.items()]
    return fig, "Megabytes sent by ranks 0 to " + f"{ranks - 1}. " + "; ".join(parts) + "."


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def message_times(sizes: Values, seconds: Values, alpha: float, beta: float) -> tuple[Figure, str]:
    """Draw measured times of one message by size, and the line alpha + size / beta through them."""
    fig, axes = figures.new(width=6.4, height=3.2)
    micro = [1e6 * s for s in seconds]
    model = [1e6 * (alpha + size / beta) for size in sizes]
    axes.loglog(sizes, micro, "o", color=figures.colour(0), label="measured")
    axes.loglog(sizes, model, "-", color=figures.colour(5), label="alpha + size / beta")
    axes.axvline(alpha * beta, color="#555555", linestyle=":", linewidth=1.2)
    words, beside = f"alpha x beta = {_size(alpha * beta)} ", axes.get_xaxis_transform()  # above the flat part
    axes.text(alpha * beta, 0.6, words, transform=beside, fontsize=9, ha="right", va="center")
    axes.set_xlabel("size of the message (bytes)")
    axes.set_ylabel("time, one way (µs)")
    axes.legend(loc="upper left")
    worst = max(max(m / t, t / m) for m, t in zip(model, micro, strict=True))
    text = (
        f"Time of one message by size, both axes logarithmic: {micro[0]:.0f} microseconds for {_size(sizes[0])}, "
        f"{micro[-1]:.0f} for {_size(sizes[-1])}. The fitted line is flat up to about {_size(alpha * beta)} and "
        f"proportional to the size beyond; it misses the measured points by at most a factor of {worst:.1f}."
    )
    return fig, text


def ring_seconds(size: float, n: int, alpha: float, beta: float) -> float:
    """Return the time of a ring all-reduce by the model: 2(n-1) steps, each with one n-th of the payload."""
    return 2 * (n - 1) * (alpha + size / n / beta)


def tree_seconds(size: float, n: int, alpha: float, beta: float) -> float:
    """Return the time of a tree all-reduce by the model: up and down ceil(log2 n) levels, the payload in each."""
    return 2 * math.ceil(math.log2(n)) * (alpha + size / beta)


def crossing(n: int, alpha: float, beta: float) -> float:
    """Return the payload in bytes at which ring and tree take equally long (0 if the ring is never slower)."""
    steps, levels = n - 1, math.ceil(math.log2(n))
    return alpha * beta * (steps - levels) / (levels - steps / n)


def ring_or_tree(n: int, alpha: float, beta: float) -> tuple[Figure, str]:
    """Draw the time of ring and tree all-reduce by payload for n ranks, by the fitted model."""
    fig, axes = figures.new(width=6.4, height=3.2)
    sizes = [4.0 * 2**k for k in range(31)]
    for i, (name, seconds) in enumerate({"ring": ring_seconds, "tree": tree_seconds}.items()):
        axes.loglog(sizes, [1e3 * seconds(size, n, alpha, beta) for size in sizes], label=name, color=figures.colour(i))
    where = crossing(n, alpha, beta)
    text = f"All-reduce on {n} ranks by the fitted model, time by payload, both axes logarithmic. "
    if where > sizes[0]:
        axes.axvline(where, color="#555555", linestyle=":", linewidth=1.2)
        axes.annotate(f" {_size(where)}", (where, 1e3 * ring_seconds(4, n, alpha, beta)), fontsize=9, va="top")
        text += f"Below {_size(where)} the tree is faster, above it the ring."
    else:
        text += "The ring is at least as fast at every size."
    axes.set_ylim(1e3 * alpha, 2e3 * tree_seconds(sizes[-1], 1024, alpha, beta))
    axes.set_title(f"{n} ranks")
    axes.set_xlabel("payload (bytes)")
    axes.set_ylabel("time (ms)")
    axes.legend()
    return fig, text


# ---------------------------------------------------------------------------------------------------------------------
# What an exercise's function did


def space_time(messages: Sequence[Message] | None, ranks: int) -> None:
    """Show messages as arrows from rank to rank, in logical time; say so if there is nothing to draw yet."""
    if messages is None:
        print("Not written yet: the messages of your function will be drawn here.")
        return
    end = max((message.start + 1 for message in messages), default=1)
    fig, axes = figures.new(width=min(9.0, 2.0 + 0.9 * end), height=0.6 + 0.5 * ranks)
    for message in messages:
        head = (message.start + 1, message.receiver)
        colour = figures.colour(message.sender) if message.taken else "#b00020"
        style = {"arrowstyle": "->", "color": colour, "lw": 1.8, "linestyle": "-" if message.taken else ":"}
        axes.annotate("", head, (message.start, message.sender), arrowprops=style)
    axes.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
    axes.set_ylim(ranks - 0.5, -0.5)
    axes.set_xlim(-0.1, end + 0.1)
    axes.set_xticks(range(end + 1))
    axes.set_xlabel("round")
    lost = sum(not message.taken for message in messages)
    rounds = [
        f"round {start + 1}: " + ", ".join(sorted(f"{m.sender} to {m.receiver}" for m in messages if m.start == start))
        for start in range(end)
    ]
    text = f"{len(messages)} messages in {end} rounds. {'; '.join(rounds[:8])}{'; and so on' * (end > 8)}."
    figures.show(fig, text + f" {lost} of them were never received (dotted)." * bool(lost))
