"""Pictures of the lesson on model parallelism and its exercises, drawn from recorded or replayed pieces of work.

A piece is (part, "F" or "B", micro-batch, start, end), times in seconds or in any one unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from utils.check.pipelines import Seen

Piece = tuple[int, str, int, float, float]
KINDS = {"F": ("forward", 0), "B": ("backward", 1)}  # name, and number of its colour and pattern
NOT_WRITTEN = "Not written yet: what your function does will be shown here."


# ---------------------------------------------------------------------------------------------------------------------
# Who works when


def idle_share(pieces: Sequence[Piece], parts: int) -> float:
    """Return the share of all parts' time, from the first start to the last end, in which they do not work."""
    span = max(piece[4] for piece in pieces) - min(piece[3] for piece in pieces)
    return 1 - sum(piece[4] - piece[3] for piece in pieces) / (parts * span)


def timeline(rows: Mapping[str, Sequence[Piece]], unit: str = "ms", scale: float = 1000.0) -> tuple[Figure, str]:
    """Draw one panel for each title: a bar for each piece of work, by rank, over one common axis of time.

    scale: what times are multiplied by to be in `unit`. The description gives span and idle share of each panel.
    """
    parts = 1 + max(piece[0] for pieces in rows.values() for piece in pieces)
    longest = max(_span(pieces) for pieces in rows.values()) * scale
    fig, axes = figures.new(len(rows), 1, width=7.2, height=0.55 + len(rows) * (0.55 + 0.32 * parts), squeeze=False)
    words = []
    for ax, (title, pieces) in zip(axes[:, 0], rows.items(), strict=True):
        share = idle_share(pieces, parts)
        _bars(ax, pieces, parts, scale, longest)
        ax.set_title(f"{title}: {share:.0%} idle", loc="left")
        words.append(f"{title}: {_span(pieces) * scale:,.0f} {unit}, {share:.2f} of the ranks' time idle.")
    axes[-1, 0].set_xlabel(f"time ({unit})")
    _legend(fig)
    order = "Bars by rank; forward passes go down from rank 0 to the last, backward passes come up again."
    return fig, f"{order} {' '.join(words)}"


def _span(pieces: Sequence[Piece]) -> float:
    return max(piece[4] for piece in pieces) - min(piece[3] for piece in pieces)


def _bars(ax: Axes, pieces: Sequence[Piece], parts: int, scale: float, longest: float) -> None:
    begin = min(piece[3] for piece in pieces)
    several = len({piece[2] for piece in pieces}) > 1
    for part, kind, micro, start, end in pieces:
        number = KINDS[kind][1]
        left, width = (start - begin) * scale, (end - start) * scale
        ax.barh(part, width, left=left, height=0.74, color=figures.colour(number), edgecolor="white", linewidth=0.6,
                hatch=figures.pattern(number), alpha=0.9)  # fmt: skip
        if several and width > longest / 100:
            box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
            size = 7 if width > longest / 45 else 6
            ax.text(left + width / 2, part, str(micro), ha="center", va="center", fontsize=size, bbox=box)
    ax.set_xlim(0, longest * 1.01)
    ax.set_ylim(parts - 0.4, -0.6)
    ax.set_yticks(range(parts), [f"rank {part}" for part in range(parts)])
    ax.grid(axis="y", visible=False)


def _legend(fig: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=figures.colour(n), hatch=figures.pattern(n), edgecolor="white", label=name)
        for name, n in KINDS.values()
    ]
    fig.legend(handles=handles, loc="outside upper right", ncols=2)


# ---------------------------------------------------------------------------------------------------------------------
# What fits, and what it costs


def against_limit(megabytes: Mapping[str, Mapping[str, float]], limit: float) -> tuple[Figure, str]:
    """Draw the memory of several holders, stacked by kind, against one limit; all in MB."""
    fig, ax = figures.new(height=0.9 + 0.42 * len(megabytes))
    kinds = list(next(iter(megabytes.values())))
    for row, held in enumerate(megabytes.values()):
        left = 0.0
        for number, kind in enumerate(kinds):
            ax.barh(row, held[kind], left=left, height=0.6, color=figures.colour(number), edgecolor="white",
                    hatch=figures.pattern(number), label=kind if row == 0 else None)  # fmt: skip
            left += held[kind]
    ax.axvline(limit, color="black", linestyle="--", linewidth=1.5)
    ax.text(limit, -0.62, f" limit: {limit:g} MB", va="center")
    ax.set_yticks(range(len(megabytes)), list(megabytes))
    ax.set_ylim(len(megabytes) - 0.5, -0.95)
    ax.set_xlabel("MB on one rank")
    ax.grid(axis="y", visible=False)
    fig.legend(loc="outside lower center", ncols=len(kinds))
    sums = [f"{name} {sum(held.values()):.0f} MB" for name, held in megabytes.items()]
    return fig, f"Memory of one rank, by kind, against a limit of {limit:g} MB: {'; '.join(sums)}."


def which(costs: Mapping[str, Mapping[str, float]], memory: float) -> tuple[Figure, str]:
    """Draw, for each method, the memory of a rank against the limit, and the time of a step by what it is spent on.

    costs: by method, "memory" in MB and "compute", "idle", "messages" in seconds.
    """
    fig, (left, right) = figures.new(1, 2, width=7.6, height=2.6, sharey=True)
    names = list(costs)
    for row, cost in enumerate(costs.values()):
        fits = cost["memory"] <= memory
        left.barh(row, cost["memory"], height=0.6, color=figures.colour(4), edgecolor="black",
                  hatch="" if fits else "xx")  # fmt: skip
        left.text(cost["memory"], row, " fits" if fits else " does not fit", va="center")
        start = 0.0
        for number, kind in enumerate(("compute", "idle", "messages")):
            colour = ("#0072B2", "#dddddd", "#E69F00")[number]
            right.barh(row, cost[kind], left=start, height=0.6, color=colour, edgecolor="white",
                       hatch=("", "", "///")[number], label=kind if row == 0 else None)  # fmt: skip
            start += cost[kind]
    left.axvline(memory, color="black", linestyle="--")
    left.set_xlim(0, 1.45 * max(memory, *(cost["memory"] for cost in costs.values())))
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel(f"MB on one rank (limit {memory:g})")
    right.set_xlabel("seconds a step")
    fig.legend(loc="outside upper right", ncols=3)
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    return fig, " ".join(_in_words(name, cost, memory) for name, cost in costs.items())


def _in_words(name: str, cost: Mapping[str, float], memory: float) -> str:
    time = sum(cost[kind] for kind in ("compute", "idle", "messages"))
    fits = "fits" if cost["memory"] <= memory else "does not fit"
    return f"{name.capitalize()}: {cost['memory']:.0f} MB a rank, {fits}; {time:.2g} s a step."


# ---------------------------------------------------------------------------------------------------------------------
# What a learner's function does


def _trial(name: str, case: Any) -> list[Seen] | None:
    """Run the function once on the ranks and return what was seen by part; None, said on the page, if not written."""
    from utils import ranks
    from utils.check.pipelines import last_seen, run_trial

    try:
        seen = ranks.call(run_trial, name, case)
    except ranks.RanksError as error:
        print(error)
        seen = ranks.call(last_seen)
    if "not written" in seen:
        print(NOT_WRITTEN)
        return None
    return [seen[rank] for rank in case.chain]


def cuts(name: str = "across_the_cuts") -> Any:
    """Tabulate, by rank, what the function sends and how the gradients compare with the whole model's (3 parts)."""
    from utils.check.pipelines import Case
    from utils.figures.table import Table

    case = Case((0, 1, 2), (1, 1, 1))
    by_part = _trial(name, case)
    if by_part is None:
        return None
    rows = []
    for rank, seen in zip(case.chain, by_part, strict=True):
        sent = ", ".join(f"{size} B to {peer}" for peer, size in seen.messages()) or "nothing"
        right = len(seen.are("right"))
        others = sorted({kind for kind in seen.gradients.values() if kind != "right"})
        compared = f"{right} of {len(seen.gradients)} right" + (f", else: {', '.join(others)}" if others else "")
        rows.append([f"rank {rank}", " ".join(seen.order) or "nothing", sent, compared, seen.returned or "nothing"])
    heads = ["rank", "work", "sends", "gradients", "returns"]
    return Table(heads, rows, f"{case}: activations are {case.activations} bytes")


def micro_batches(name: str = "in_micro_batches", micro: int = 4) -> None:
    """Draw when the function's pieces of work could run on 3 ranks, a backward piece taken as two slots."""
    from utils.check.pipelines import Case, replay

    by_part = _trial(name, Case((0, 1, 2), (1, 1, 1), sequences=8, micro_batches=micro))
    if by_part is None:
        return
    orders = []
    for seen in by_part:
        counted = {"F": 0, "B": 0}
        order = []
        for kind in seen.order:
            order.append((kind, counted[kind], 1.0 if kind == "F" else 2.0))
            counted[kind] += 1
        orders.append(order)
    try:
        pieces = replay(orders)
    except ValueError:
        print(f"The work cannot be laid out in time: {' | '.join(''.join(seen.order) for seen in by_part)}")
        return
    if pieces:
        figures.show(*timeline({f"{micro} micro-batches on 3 ranks": pieces}, unit="slots", scale=1.0))


def balanced(function: Callable[[list[float], int], Any], costs: Sequence[float], parts: int) -> None:
    """Draw what each part costs in the function's cut, beside the cut into equal numbers of layers."""
    try:
        answer = [list(part) for part in function(list(costs), parts)]
    except NotImplementedError:
        print(NOT_WRITTEN)
        return
    each, more = divmod(len(costs), parts)
    ends = [each * (k + 1) + min(k + 1, more) for k in range(parts)]
    equal = [list(range(end - each - (k < more), end)) for k, end in enumerate(ends)]
    fig, axes = figures.new(1, 2, width=7.2, height=0.9 + 0.4 * parts, sharex=True)
    words = []
    for ax, title, cut in zip(axes, ("equal numbers of layers", "your cut"), (equal, answer), strict=True):
        sums = [sum(costs[layer] for layer in part) for part in cut]
        for row, part in enumerate(cut):
            left = 0.0
            for layer in part:
                ax.barh(row, costs[layer], left=left, height=0.65, color=figures.colour(4), edgecolor="white")
                ax.text(left + costs[layer] / 2, row, str(layer), ha="center", va="center", fontsize=8)
                left += costs[layer]
        ax.axvline(max(sums), color="black", linestyle="--")
        ax.set(title=f"{title}: slowest {max(sums):g}", xlabel="cost", ylim=(len(cut) - 0.5, -0.5))
        ax.set_yticks(range(len(cut)), [f"part {k}" for k in range(len(cut))])
        ax.grid(axis="y", visible=False)
        words.append(f"{title}: {', '.join(f'{s:g}' for s in sums)}")
    figures.show(fig, f"Cost of each part, its layers by number. {'; '.join(words)}.")


def idle(function: Callable[[list[float], list[float], int], float]) -> Any:
    """Tabulate the function's idle share beside that of a replay, and draw the replay of the last row."""
    from utils.check.model_parallelism import pipeline
    from utils.check.pipelines import idle_share_of, replay
    from utils.figures.table import Table

    cases = [([1, 1, 1], [2, 2, 2], 1), ([1, 1, 1], [2, 2, 2], 3), ([1, 1, 1, 1], [2, 2, 2, 2], 12),
             ([1, 1, 2], [2, 2, 4], 4)]  # fmt: skip
    rows: list[list[Any]] = []
    for forward, backward, m in cases:
        replayed = replay(pipeline(forward, backward, m))
        try:
            said: Any = round(float(function(list(forward), list(backward), m)), 4)
        except NotImplementedError:
            print(NOT_WRITTEN)
            return None
        share = round(idle_share_of(replayed, len(forward)), 4)
        rows.append([f"{forward} and {backward}", m, said, share])
    figures.show(*timeline({f"{forward} and {backward}, {m} micro-batches": replayed}, unit="slots", scale=1.0))
    return Table(["forward and backward", "micro-batches", "your idle share", "replayed"], rows, "Idle share")
