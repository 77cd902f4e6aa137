"""Pictures of the lesson on one worker: its losses, its speed, its memory, and the two walls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils.figures import LINES, colour, new, pattern
from utils.figures.table import Table as Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from utils.ledger import Memory
    from utils.model import Config

KINDS = ("parameters", "gradients", "optimizer states", "activations")
MARKERS = "osD^vP"
DAY = 86_400.0


def losses(curves: Mapping[str, Sequence[float]], floor: float | None = None, top: float = 6.0) -> tuple[Figure, str]:
    """Draw losses in nats by step; `floor` is what letter frequencies alone give. A NaN ends its curve, with a mark."""
    fig, ax = new()
    said = []
    for index, (name, values) in enumerate(curves.items()):
        good = [value for value in values if math.isfinite(value) and value < 2 * top]
        style = LINES[index % len(LINES)]
        ax.plot(range(1, len(good) + 1), good, color=colour(index), linestyle=style, label=name)
        if len(good) < len(values):
            ax.plot(len(good), min(good[-1], top), "x", color=colour(index), markersize=10, markeredgewidth=3)
            said.append(f"{name}: {good[0]:.1f}, out of the picture by step {len(good) + 1}")
        else:
            said.append(f"{name}: {good[0]:.1f}, then {sum(good[-5:]) / len(good[-5:]):.1f}")
    if floor is not None:
        ax.axhline(floor, color="#444444", linewidth=1.2, linestyle=":")
        words = f"letter frequencies alone: {floor:.2f}"
        ax.annotate(words, (1, floor), (0, 4), xycoords=("axes fraction", "data"), textcoords="offset points",
                    ha="right", fontsize=9)  # fmt: skip
        said.append(f"letter frequencies alone: {floor:.2f}")
    ax.set(xlabel="step", ylabel="loss, nats a character")
    ax.set_ylim(top=min(top, ax.get_ylim()[1]))
    ax.legend(loc="upper right")
    steps = max(len(values) for values in curves.values())
    return fig, f"Loss over {steps} steps, at the first and in the mean of the last five. " + "; ".join(said) + "."


def slowdown(widths: Sequence[int], ratios: Sequence[float]) -> tuple[Figure, str]:
    """Draw the measured time of a step as a multiple of the predicted one, by the width of the model."""
    fig, ax = new(height=2.8)
    ax.plot(widths, ratios, marker="o", color=colour(0))
    ax.axhline(1, color="#444444", linewidth=1.2, linestyle=":")
    ax.annotate("as fast as the matrix product", (widths[0], 1), (0, 4), textcoords="offset points", fontsize=9)
    ax.set_xscale("log", base=2)
    ax.set(xticks=widths, xticklabels=[str(width) for width in widths], xlabel="width of the model")
    ax.set(ylabel="measured / predicted", ylim=(0, 1.15 * max(ratios)))
    pairs = ", ".join(f"{ratio:.1f} at width {width}" for width, ratio in zip(widths, ratios, strict=True))
    return fig, f"Measured over predicted time of a step: {pairs}. One would be ideal."


def by_batch(
    sequences: Sequence[int], counted: Sequence[int], formula: Callable[[float], float], held: Memory
) -> tuple[Figure, str]:
    """Draw bytes by kind for several batches: activations `counted` as marks and by `formula`; the rest as `held`."""
    fig, ax = new()
    fine = [sequences[0] + (sequences[-1] - sequences[0]) * i / 50 for i in range(51)]
    model = (held.parameters[0], held.gradients[0], held.optimizer_state[0])
    lines = {kind: [size] * len(sequences) for kind, size in zip(KINDS[:3], model, strict=True)}
    lines["activations"] = list(counted)
    said = []
    for kind, values in lines.items():
        index = KINDS.index(kind)
        marks = [value / 1e6 for value in values]
        line = [formula(n) / 1e6 for n in fine] if kind == "activations" else [marks[0]] * len(fine)
        ax.plot(fine, line, color=colour(index), linestyle=LINES[index % 4])
        ax.plot(sequences, marks, MARKERS[index], color=colour(index), linestyle="none", label=kind)
        said.append(f"{kind} {marks[0]:.1f} and {marks[-1]:.1f}")
    ax.set(xlabel="sequences in the batch", ylabel="MB", ylim=(0, None))
    ax.legend(title="marks: counted, lines: formula", loc="upper left")
    ends = f"{sequences[0]} and {sequences[-1]} sequences"
    return fig, f"Memory by kind, in MB, of {ends}: " + "; ".join(said) + ". Marks lie on the lines."


def moments(tracker: Any, layers: int) -> list[tuple[str, dict[str, int]]]:
    """Give the memory by kind, in bytes, at the moments of a step that a `MemTracker` saw: (moment, kinds)."""
    seen = {stats.mod_fqn: stats.snapshots for stats in tracker.memory_tracking.values()}
    blocks = [f"GPT.blocks.{index}" for index in range(layers)]
    states = {state.name: state for snapshots in seen.values() for state in snapshots}

    def at(moment: str, name: str, state: str) -> tuple[str, dict[str, int]]:
        (by_kind,) = seen[name][states[state]][-1].values()
        sizes = {getattr(kind, "value", kind): size for kind, size in by_kind.items()}
        return moment, {
            "parameters": sizes["Parameter"],
            "optimizer states": sizes["Optstate"],
            "gradients": sizes["Gradient"],
            "activations": sizes["Activation"] + sizes["Temp"],
        }

    forward = [at(f"{index}", name, "POST_FW") for index, name in enumerate(blocks)]
    backward = [at(f"{layers - 1 - i}", name, "POST_BW") for i, name in enumerate(reversed(blocks))]
    return [at("start", "GPT", "PRE_FW"), *forward, at("loss", "GPT.output", "PRE_BW"), *backward,
            at("end", "GPT", "POST_BW")]


def step_by_step(points: Sequence[tuple[str, Mapping[str, int]]], title: str = "") -> tuple[Figure, str]:
    """Draw what stands in memory through one step, kind upon kind; `points` as `moments` gives them."""
    fig, ax = new(width=7.2)
    kinds = list(points[0][1])
    below = [0.0] * len(points)
    for kind in kinds:
        index = KINDS.index(kind)
        sizes = [sizes_by_kind[kind] / 1e6 for _, sizes_by_kind in points]
        ax.bar(range(len(points)), sizes, 0.8, bottom=below, label=kind, color=colour(index), hatch=pattern(index),
               edgecolor="white", linewidth=0)  # fmt: skip
        below = [low + size for low, size in zip(below, sizes, strict=True)]
    middle = next(index for index, (name, _) in enumerate(points) if name == "loss")
    ax.axvline(middle, color="#444444", linewidth=1, linestyle=":")
    ax.set_xticks(range(len(points)), [name for name, _ in points])
    ax.set(xlabel="forward through the blocks | backward through the blocks", ylabel="MB", title=title)
    ax.set_ylim(top=1.35 * max(below))
    ax.legend(ncols=2, loc="upper left")
    top = max(range(len(points)), key=lambda i: below[i])
    at_top, after = points[top][1], points[-1][1]
    said = ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in at_top.items())
    return fig, (
        f"Memory through one step, in MB: {below[0]:.1f} at the start, at most {below[top]:.1f} at '{points[top][0]}' "
        f"({said}), {below[-1]:.1f} at the end, {after['gradients'] / 1e6:.1f} of it gradients."
    )


def needs(kinds: Mapping[str, float], devices: Sequence[float] = (), title: str = "") -> tuple[Figure, str]:
    """Draw what one model needs by kind (bytes), in one bar, against devices of so many bytes."""
    fig, ax = new(height=2.2)
    unit, name = (1e9, "GB") if sum(kinds.values()) >= 1e9 else (1e6, "MB")
    left = 0.0
    for kind, size in kinds.items():
        index = KINDS.index(kind)
        ax.barh([0], [size / unit], left=left, color=colour(index), hatch=pattern(index), edgecolor="white", label=kind)
        left += size / unit
    shown = [device for device in devices if device / unit < 4 * left]
    for device in shown:
        ax.axvline(device / unit, color="#444444", linestyle="--", linewidth=1.5)
        ax.annotate(f" {device / unit:g} {name}", (device / unit, 0.62), fontsize=9)
    ax.set(yticks=[], ylim=(-0.6, 0.9), xlabel=name, title=title)
    ax.set_xlim(0, 1.1 * max([left, *(device / unit for device in shown)]))
    ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    parts = ", ".join(f"{kind} {size / unit:.3g}" for kind, size in kinds.items())
    verdicts = "".join(
        f" It {'fits' if sum(kinds.values()) <= device else 'does not fit'} in {device / unit:g} {name}."
        for device in devices
    )
    return fig, f"{title + ': ' if title else ''}{left:.3g} {name} in all ({parts}).{verdicts}"


def duration(seconds: float) -> str:
    """Write a time in the unit a person would choose, with two digits."""
    for unit, size in (("years", 365 * DAY), ("days", DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            number = seconds / size
            return f"{number:,.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def two_walls(
    names: Sequence[str], seconds: Sequence[float], states: Sequence[float], devices: Mapping[str, float]
) -> tuple[Figure, str]:
    """Draw, for each model, the training time of one worker and the bytes of its states against devices.

    seconds: of the whole training; states: bytes of parameters, gradients and optimizer states. Both axes are
    logarithmic; what is beyond a year, or beyond the largest device, is hatched.
    """
    fig, (left, right) = new(columns=2, width=8.4, height=3.4, sharey=True)
    largest = max(devices.values())
    marks = {"a day": 1, "a year": 365, "a century": 36_500}
    _walls(left, [second / DAY for second in seconds], 365, [duration(second) for second in seconds])
    left.set_xticks(list(marks.values()), list(marks))
    left.set(xlabel="time on one H100 at 40 %", title="Too slow", xlim=(0.5, 400 * max(seconds) / DAY))
    _walls(right, [size / 1e9 for size in states], largest / 1e9, [_gigabytes(size) for size in states])
    for (name, size), (side, shift) in zip(devices.items(), (("right", -3), ("left", 3)), strict=False):
        right.axvline(size / 1e9, color="#444444", linestyle="--", linewidth=1.5, zorder=0)
        right.annotate(name, (size / 1e9, -0.7), (shift, 0), textcoords="offset points", ha=side, fontsize=9)
    right.set(xlabel="GB for parameters, gradients, optimizer states", title="Too big")
    right.set_xlim(1, 60 * max(states) / 1e9)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -1.1)
    said = "; ".join(
        f"{name} {duration(second)} and {_gigabytes(size)}"
        for name, second, size in zip(names, seconds, states, strict=True)
    )
    fit = ", ".join(f"{sum(size <= limit for size in states)} fit in {name}" for name, limit in devices.items())
    return fig, f"Time on one H100 at 40 %, and memory without activations: {said}. Of {len(names)}, {fit}."


def _walls(ax: Axes, values: Sequence[float], limit: float, words: Sequence[str]) -> None:
    """Draw bars on a logarithmic axis; those beyond the limit are hatched and of another colour."""
    ax.set_xscale("log")
    ax.minorticks_off()
    for index, (value, text) in enumerate(zip(values, words, strict=True)):
        over = value > limit
        ax.barh(index, value, color=colour(5 if over else 0), hatch="///" if over else "", edgecolor="white")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.annotate(text, (value, index), (4, 0), textcoords="offset points", va="center", fontsize=9, bbox=box)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.0f} GB"


def norms_and_losses(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> tuple[Figure, str]:
    """Draw, by step, the norm of the gradient and beside it the loss; a curve is (losses, norms)."""
    fig, (left, right) = new(columns=2, width=8.4, height=3.2)
    said = []
    for index, (name, (lost, norm)) in enumerate(curves.items()):
        style = {"color": colour(index), "linestyle": LINES[index % 4]}
        left.plot(range(1, len(norm) + 1), norm, **style)
        right.plot(range(1, len(lost) + 1), lost, label=name, **style)
        end = [sum(values[-5:]) / len(values[-5:]) for values in (norm, lost)]
        said.append(f"{name}: norm {norm[0]:.1f}, then {end[0]:.1f}, loss {end[1]:.1f}")
    left.set_yscale("log")
    left.set(xlabel="step", ylabel="norm of the gradient")
    right.set(xlabel="step", ylabel="loss, nats a character")
    fig.legend(loc="outside upper center", ncols=len(curves))
    return fig, f"First norm of the gradient, and means of the last five steps. {'; '.join(said)}."


# ------------------------------------------------------------------------------------------ what an exercise's code did

NOT_WRITTEN = "not written yet"


def _yours(function: Callable[..., Any], *arguments: Any) -> Any:
    """Give what the learner's function returns, or that it is not written, or what it raised."""
    try:
        return function(*arguments)
    except NotImplementedError:
        return NOT_WRITTEN
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def work_by_model(
    function: Callable[..., Any], count: Callable[[Config, int], int], configs: Sequence[Config], sequences: int
) -> Table:
    """Set the learner's FLOPs of a step beside the counted ones, for several models."""
    rows = []
    for config in configs:
        mine, counted = _yours(function, config, sequences), count(config, sequences)
        ratio = f"{mine / counted:.3f}" if isinstance(mine, (int, float)) and not isinstance(mine, bool) else ""
        sizes = f"width {config.width}, context {config.context}, vocab {config.vocab}, {config.layers} blocks"
        rows.append((sizes, f"{mine:,.0f}" if ratio else str(mine), f"{counted:,}", ratio))
    heads = ["model", "yours", "counted", "yours / counted"]
    return Table(heads, rows, f"FLOPs of one training step of {sequences} sequences")


def accumulation_by_size(function: Callable[..., Any], case: Callable[[], tuple[Any, Any, Any]]) -> Table:
    """Show what the learner's accumulation does for micro-batches of several sizes: gradient, loss and activations.

    case: gives a new network without gradients, tokens and targets.
    """
    import torch

    from utils import ledger, model

    network, tokens, targets = case()
    model.loss(network(tokens), targets).backward()
    right = torch.cat([p.grad.flatten() for p in network.parameters()])
    rows: list[tuple[Any, ...]] = []
    for size in (1, 3, 4, 5, len(tokens)):
        network, tokens, targets = case()
        with ledger.Meter(network) as meter:
            loss = _yours(function, network, tokens, targets, size)
        if loss == NOT_WRITTEN:
            rows.append((size, NOT_WRITTEN, "", ""))
            continue
        mine = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in network.parameters()])
        off = ((mine - right).norm() / right.norm()).item()
        assert meter.memory is not None
        shown = f"{float(loss):.3f}" if isinstance(loss, (int, float)) else str(loss)[:60]
        megabytes = f"{meter.memory.activations[0] / 1e6:.2f}"
        rows.append((size, shown, "same" if off < 1e-5 else f"{off:.0%} off", megabytes))
    heads = ["at most", "loss returned", "gradient", "activations, MB"]
    return Table(heads, rows, f"A batch of {len(tokens)} sequences, accumulated by your function")


def micro_batch_by_device(
    function: Callable[..., Any], config: Config, sequences: int, devices: Sequence[int]
) -> Table:
    """Show the learner's micro-batch for several devices, with the bytes that it and one sequence more really need."""
    import torch

    from utils import ledger, model

    network = model.GPT(config, seed=0)
    parameters = sum(p.numel() for p in network.parameters())

    def need(size: int) -> str:
        """Count what a micro-batch needs, in MB; a large one by its first 32 sequences."""
        some = torch.zeros(min(size, 32), config.context, dtype=torch.int64)
        with ledger.Meter(network) as meter:
            model.loss(network(some), some)
        assert meter.memory is not None
        return f"{(16 * parameters + meter.memory.activations[0] * size / len(some)) / 1e6:.1f}"

    rows: list[tuple[Any, ...]] = []
    for device in devices:
        mine = _yours(function, config, parameters, sequences, device)
        whole = isinstance(mine, (int, float)) and float(mine).is_integer() and 0 <= mine <= 100_000
        needed = need(int(mine)) if whole and mine else ""
        rows.append((f"{device / 1e6:g} MB", mine, needed, need(int(mine) + 1) if whole else ""))
    heads = ["device", "yours", "needs, MB", "one more needs, MB"]
    return Table(heads, rows, f"The largest micro-batch of a batch of {sequences}, and what it was counted to need")
