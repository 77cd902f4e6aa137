"""Pictures of the lesson on tensor parallelism: two ways to cut a product, seeds of dropout, a mesh, and its limit.

Every function gets data and returns (figure, description).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _cells(ax: Axes, values: Any, left: float, top: float, rank: int | None) -> None:
    """Draw a small matrix as squares with their numbers; the colour and pattern say whose it is (None: everybody's)."""
    from matplotlib.patches import Rectangle

    style: dict[str, Any] = {"facecolor": "white", "edgecolor": "black", "linewidth": 0.7}
    if rank is not None:
        style |= {"facecolor": figures.colour(rank), "alpha": 0.55, "hatch": figures.pattern(rank)}
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            ax.add_patch(Rectangle((left + j, top + i), 1, 1, **style))
            ax.text(left + j + 0.5, top + i + 0.5, f"{value:g}", ha="center", va="center", fontsize=9,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1})  # fmt: skip


def _rows(matrix: Any) -> list[list[float]]:
    return [[float(value) + 0.0 for value in row] for row in matrix]  # + 0.0: no minus before a zero


def two_cuts(by_columns: Sequence[Any], by_rows: Sequence[Any], whole: Any) -> tuple[Figure, str]:
    """Draw what the ranks hold of y = x @ W when W is cut by columns and by rows, and the whole product.

    by_columns, by_rows: matrices by rank. whole: x @ W.
    """
    columns, rows, y = [_rows(m) for m in by_columns], [_rows(m) for m in by_rows], _rows(whole)
    height, width, ranks = len(y), len(y[0]), len(columns)
    fig, ax = figures.new(width=7.6, height=3.1)
    step = width + 1.2
    end = ranks * step
    for top, pieces, sign, words in (
        (0.0, columns, "", "W cut by columns: each rank has columns of y"),
        (height + 2.6, rows, "+", "W cut by rows: each rank has a summand of y"),
    ):
        ax.text(0, top - 0.5, words, weight="bold", va="bottom")
        for rank, piece in enumerate(pieces):
            left = rank * step + (0 if sign else rank * len(piece[0]) * 1.0 / ranks)
            _cells(ax, piece, left, top, rank)
            ax.text(left + len(piece[0]) / 2, top + height + 0.15, f"rank {rank}", ha="center", va="top", fontsize=8)
            if sign and rank:
                ax.text(left - 0.6, top + height / 2, sign, ha="center", va="center", fontsize=13)
        ax.text(end - 0.6, top + height / 2, "=" if sign else "side by\nside =", ha="center", va="center", fontsize=10)
        _cells(ax, y, end + 0.5, top, None)
        ax.text(end + 0.5 + width / 2, top + height + 0.15, "y", ha="center", va="top")
    ax.set(xlim=(-0.3, end + width + 0.8), ylim=(2 * height + 3.9, -1.4))
    ax.set_axis_off()
    joined = [[value for piece in columns for value in piece[i]] for i in range(height)]
    added = [[sum(piece[i][j] for piece in rows) for j in range(width)] for i in range(height)]
    return fig, (
        f"y = x W is {_said(y)}. By columns rank 0 holds {_said(columns[0])}; side by side the {ranks} are "
        f"{'y' if joined == y else 'not y'}. By rows rank 0 holds {_said(rows[0])}; the sum of the {ranks} is "
        f"{'y' if added == y else 'not y'}."
    )


def _said(matrix: Sequence[Sequence[float]]) -> str:
    return " / ".join(" ".join(f"{value:g}" for value in row) for row in matrix)


def masks(drawn: Mapping[str, Sequence[Any]]) -> tuple[Figure, str]:
    """Draw dropout masks by rank (true: kept), one row for each way to seed. The description says which are equal."""
    ranks = len(next(iter(drawn.values())))
    fig, axes = figures.new(len(drawn), ranks, width=7.2, height=0.5 + 1.25 * len(drawn), squeeze=False)
    words = []
    for row, (name, by_rank) in zip(axes, drawn.items(), strict=True):
        for rank, (ax, mask) in enumerate(zip(row, by_rank, strict=True)):
            ax.imshow(_rows(mask), cmap="Greys", vmin=0, vmax=1.4, aspect="auto", interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            for side in ax.spines.values():
                side.set(visible=True, color=figures.colour(rank), linewidth=2)
            if ax in axes[0]:
                ax.set_title(f"rank {rank}")
        row[0].set_ylabel(name)
        different = len({str(_rows(mask)) for mask in by_rank})
        words.append(f"{name}: {different} different mask{'s' * (different > 1)} on {ranks} ranks")
    return fig, f"Dropout masks, dark where a number is kept. {'; '.join(words).capitalize()}."


def rank_table(coordinates: Sequence[Sequence[int]], log: Sequence[Sequence[Any]]) -> tuple[Figure, str]:
    """Draw the ranks of a two-dimensional mesh (data, tensor) as a table, and what each kind of group carries.

    coordinates: by rank its place in the mesh. log: by rank the calls of one step, as `ledger.count(...).log` has them.
    """
    from utils.ledger import amount

    place = {rank: tuple(at) for rank, at in enumerate(coordinates)}
    data, tensor = (1 + max(at[i] for at in place.values()) for i in (0, 1))
    groups = {"tensor": {}, "data": {}}  # type: dict[str, dict[tuple[int, ...], tuple[int, int]]]
    for rank, at in place.items():
        for name, fixed in (("tensor", 0), ("data", 1)):
            members = tuple(r for r, other in place.items() if other[fixed] == at[fixed])
            calls = [call.payload for call in log[rank] if tuple(call.group) == members]
            groups[name][members] = len(calls), sum(calls)
    fig, ax = figures.new(width=7.0, height=3.2)
    for rank, (i, j) in place.items():
        box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "black"}
        words = f"rank {rank}\npart {i} of the batch\npiece {j} of each matrix"
        ax.text(3 * j, 1.7 * i, words, ha="center", va="center", bbox=box)
    said = []
    for number, (name, found) in enumerate(groups.items()):
        for members, (count, payload) in found.items():
            (i, j), (k, m) = place[members[0]], place[members[-1]]
            colour, width = figures.colour(number), 5 if name == "tensor" else 2
            ax.plot([3 * j, 3 * m], [1.7 * i, 1.7 * k], color=colour, linewidth=width, zorder=0,
                    linestyle="-" if name == "tensor" else "--")  # fmt: skip
            if name == "tensor":
                ax.text(1.5 * (j + m), 1.7 * i - 0.12, f"{count} calls\n{amount(payload)}", ha="center", va="bottom",
                        fontsize=9)  # fmt: skip
            else:
                ax.text(3 * j + 0.1, 0.85 * (i + k), f"{count} calls\n{amount(payload)}", va="center", fontsize=9)
            said.append(f"{name} group {', '.join(map(str, members))}: {count} calls, {amount(payload)}")
    ax.plot([], [], color=figures.colour(0), linewidth=5, label="tensor group")
    ax.plot([], [], color=figures.colour(1), linewidth=2, linestyle="--", label="data group")
    ax.set(xlim=(-1.3, 3 * (tensor - 1) + 1.3), ylim=(1.7 * (data - 1) + 0.7, -0.7))
    ax.set_axis_off()
    fig.legend(loc="outside lower center", ncols=2)
    return fig, (
        f"A mesh of {data} x {tensor} ranks: down the rows another part of the batch, along a row another piece of "
        f"each matrix. What a rank sends in one step, by group: {'; '.join(said)}."
    )


def reach(times: Mapping[int, tuple[float, float]], measured: Mapping[int, float], payload: float,
          node: int = 8) -> tuple[Figure, str]:  # fmt: skip
    """Draw a block's time by ranks that share a model, and throughput beside a measurement.

    times: by number of ranks, (computing, messages) in seconds for forward and backward pass of a block. measured: by
    number of ranks, tokens a second for each. payload: bytes of one all-reduce. node: ranks in one machine.
    """
    fig, (left, right) = figures.new(1, 2, width=7.6, height=3.3)
    numbers = list(times)
    for index, (label, which) in enumerate((("computing", 0), ("messages", 1))):
        values = [times[n][which] * 1e3 for n in numbers]
        bottom = [0.0 if which == 0 else times[n][0] * 1e3 for n in numbers]
        left.bar(range(len(numbers)), values, 0.7, bottom, color=figures.colour(index), hatch=figures.pattern(index),
                 edgecolor="white", label=label)  # fmt: skip
    left.set(xticks=range(len(numbers)), xticklabels=numbers, xlabel="ranks that share a model",
             ylabel="ms a block", title=f"one message: {payload / 1e6:,.0f} MB")  # fmt: skip
    left.grid(False, axis="x")
    first = numbers[0]
    speed = {n: (sum(times[first]) * first) / (sum(times[n]) * n) for n in numbers}
    real = {n: measured[n] / measured[first] for n in numbers}
    right.plot(range(len(numbers)), list(speed.values()), marker="o", label="formula")
    right.plot(range(len(numbers)), list(real.values()), marker="D", label="measured, 3B model")
    right.set(xticks=range(len(numbers)), xticklabels=numbers, xlabel="ranks that share a model", ylim=(0, 1.08),
              ylabel="tokens/s of a rank,\nrelative", title="throughput of each rank")  # fmt: skip
    inside = sum(n <= node for n in numbers)
    for ax in (left, right):
        ax.axvline(inside - 0.5, color="black", linewidth=1, linestyle=":")
        ax.text(inside - 0.55, 1.0, "one machine", transform=ax.get_xaxis_transform(), ha="right", va="top", fontsize=8)
        ax.text(inside - 0.45, 1.0, "several", transform=ax.get_xaxis_transform(), ha="left", va="top", fontsize=8)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    left.set_ylim(0, 1.12e3 * max(sum(pair) for pair in times.values()))
    listed = "; ".join(f"{n}: {times[n][1] / sum(times[n]):.0%}, {speed[n]:.2f} ({real[n]:.2f})" for n in numbers)
    return fig, (
        f"A message is {payload / 1e6:,.0f} MB. By ranks, messages' share of a block's time, and throughput of a rank "
        f"(measured): {listed}. Above {node} they leave the machine."
    )


# ---------------------------------------------------------------------------------------------------------------------
# What a learner's function does

NOT_WRITTEN = "Not written yet: put your code into the cell above and run it."


def tried(name: str) -> Any:
    """Tabulate what the learner's function does in each case of its check; None, said on the page, if it does not run.

    name: that of the exercise, `cut_perceptron`, `cut_loss`, `sequence_norm` or `attend_by_heads`.
    """
    from utils import ranks
    from utils.check import tensor_parallelism as checks
    from utils.check import tensor_trials as trials
    from utils.figures.table import Table

    cases = {"cut_perceptron": checks.PERCEPTRON, "cut_loss": checks.LOSS, "sequence_norm": checks.NORM,
             "attend_by_heads": checks.ATTENTION}[name]  # fmt: skip
    rows = []
    for case in cases:
        try:
            seen = [one for one in ranks.call(trials.run_case, name, case) if one is not None]
        except ranks.RanksError as error:
            unwritten = any(state.name in ("NotImplementedError", "KeyError") for state in error.states.values())
            print(NOT_WRITTEN if unwritten else f"{case.title}:\n{error}")
            return None
        rows.append([case.title, *_outcome(case, seen)])
    backward = cases[0].task != "attention"
    heads = ("case", "result", *(("gradients", "bytes forward", "bytes backward", "bytes kept") if backward else
                                 ("bytes handed over", "operations, busiest rank")))  # fmt: skip
    return Table(heads, rows, "What your function returns and what a rank hands over")


def _outcome(case: Any, seen: Sequence[Any]) -> list[Any]:
    """Say for one case whether result and gradients are right, and what the busiest rank handed over and kept."""
    from utils.check import tensor_trials as trials

    y, gradients = trials.truth(case)
    result = "right" if trials.same([one.result for one in seen], [y] * len(seen)) else "off"
    if case.task == "attention":
        return [result, max(one.sent() for one in seen), max(one.flops for one in seen)]
    wrong = "no way back" if any(one.problem for one in seen) else trials.gradients_off(case, seen, gradients)
    sent = [max(one.sent(back=back) for one in seen) for back in (False, True)]
    return [result, f"off: {wrong}" if wrong else "right", *sent, max(one.kept for one in seen)]
