"""Pictures of the lesson inside DDP: when gradients are ready, how they are packed, and what hides behind backward.

Every function gets data and returns (figure, description), or shows what a learner's function does.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from utils import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn: TypeAlias = "tuple[Figure, str]"
Span: TypeAlias = tuple[int, float, float]  # number of a bucket, sent, arrived (seconds)
KIB = 1024


def readiness(names: Sequence[str], order: Sequence[str]) -> Drawn:
    """Draw in which order gradients became ready, against the order in which the model registers its parameters.

    names: as registered. order: as their hooks fired.
    """
    place = {name: index for index, name in enumerate(names)}
    groups = {name: _group(name) for name in names}
    shown = list(dict.fromkeys(groups.values()))
    fig, ax = figures.new(width=7.2, height=3.6)
    for index, group in enumerate(shown):
        points = [(turn, place[name]) for turn, name in enumerate(order) if groups[name] == group]
        ax.plot(*zip(*points, strict=True), linestyle="", marker="osD^v<>ph"[index % 9], markersize=5,
                color=figures.colour(index), label=group)
    last = order[-1]
    ax.annotate(last, (len(order) - 1, place[last]), (0, 42), textcoords="offset points", ha="center",
                arrowprops={"arrowstyle": "->"})
    ax.annotate(order[0], (0, place[order[0]]), (18, -2), textcoords="offset points", va="center",
                arrowprops={"arrowstyle": "->"})
    ax.set(xlabel="turn in which the hook fired", ylabel="place in net.parameters()")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return fig, (
        f"{len(order)} hooks for {len(names)} parameters, by the turn in which they fired: first {order[0]} (place "
        f"{place[order[0]]} of {len(names) - 1}), then back through the blocks, last {order[-2]} and {last} (places "
        f"{place[order[-2]]} and {place[last]})."
    )


def _group(name: str) -> str:
    if name.startswith("blocks"):
        return "block " + name.split(".")[1]
    return "norm" if "norm" in name else "embeddings"


def by_pieces(seconds: Mapping[int, float]) -> Drawn:
    """Draw what it takes to all-reduce the same bytes in 1, 2, 4, ... messages, as a ratio to one message."""
    numbers = sorted(seconds)
    ratios = [seconds[n] / seconds[numbers[0]] for n in numbers]
    fig, ax = figures.new(width=6.4, height=2.8)
    ax.plot(numbers, ratios, marker="o")
    ax.axhline(1, color="black", linewidth=1, linestyle=":")
    ax.set(xscale="log", xlabel="messages that carry the same gradients", ylabel="time / time of one message",
           xticks=numbers, xticklabels=[str(n) for n in numbers], ylim=(0, None))
    ax.minorticks_off()
    listed = ", ".join(f"{n}: {r:.1f}" for n, r in zip(numbers, ratios, strict=True))
    return fig, f"Time by the number of messages that carry all gradients, one being 1. {listed}."


# ---------------------------------------------------------------------------------------------------------------------
# Overlap: recorded, and replayed with another network


def timeline(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Drawn:
    """Draw recorded backward passes: above the computing of each rank, below it its messages in flight.

    runs: by title, by rank {"backward": seconds, "spans": [(bucket, sent, arrived)], "end": seconds}, from the start
    of that rank's backward pass.
    """
    lanes = [1 + max(1, *(len(run["spans"]) for run in by_rank)) for by_rank in runs.values()]
    heights = [0.4 + len(by_rank) * (0.14 + 0.1 * n) for by_rank, n in zip(runs.values(), lanes, strict=True)]
    fig, axes = figures.new(len(runs), 1, width=8.6, height=0.7 + sum(heights), sharex=True, squeeze=False,
                            height_ratios=heights)
    words = []
    for (title, by_rank), ax in zip(runs.items(), axes[:, 0], strict=True):
        for rank, run in enumerate(by_rank):
            _row(ax, rank, run["backward"], run["spans"], label=rank == 0)
        ax.set(title=title, yticks=range(len(by_rank)), yticklabels=[f"rank {rank}" for rank in range(len(by_rank))],
               ylim=(len(by_rank) - 0.45, -0.55))
        ax.grid(False)
        first = min(sent for _, sent, _ in by_rank[0]["spans"]) / by_rank[0]["backward"]
        number = len(by_rank[0]["spans"])
        words.append(f"{title.capitalize()}: {number} message{'s' * (number > 1)}, the first after {first:.0%} of "
                     f"backward; {hidden(by_rank):.0%} of the time in flight is hidden.")
    axes[-1, 0].set_xlabel("milliseconds since backward began")
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return fig, "Recorded by rank. " + " ".join(words)


def hidden(by_rank: Sequence[Mapping[str, Any]]) -> float:
    """Return which share of the messages' time in flight passes before the rank's last gradient is ready."""
    flight = sum(arrived - sent for run in by_rank for _, sent, arrived in run["spans"])
    # `backward` itself returns later: the last hook, which packs and sends, belongs to it.
    computed = [run["ready"][-1][0] if run.get("ready") else run["backward"] for run in by_rank]
    behind = sum(max(0.0, min(arrived, end) - sent)
                 for run, end in zip(by_rank, computed, strict=True) for _, sent, arrived in run["spans"])
    return behind / flight if flight else 0.0


def _row(ax: Any, row: int, backward: float, spans: Sequence[Span], label: bool, unit: float = 1e3) -> None:
    """Draw a rank: its backward pass, and below it every message on a lane of its own."""
    lane = 0.86 / (1 + max(1, len(spans)))
    ax.barh(row - 0.43 + lane / 2, unit * backward, height=0.9 * lane, color=figures.colour(0),
            label="backward" if label else None)
    for index, (number, sent, arrived) in enumerate(sorted(spans)):
        middle = row - 0.43 + (index + 1.5) * lane
        ax.barh(middle, unit * (arrived - sent), left=unit * sent, height=0.9 * lane, color=figures.colour(1),
                hatch="///", edgecolor="black", linewidth=0.5, label="in flight" if label and not index else None)
        if len(spans) < 12:
            ax.annotate(str(number), (unit * arrived, middle), (3, 0), textcoords="offset points", va="center",
                        fontsize=6.5)


def packed(ready: Sequence[tuple[float, int]], cap: float) -> list[tuple[float, int]]:
    """Fill buckets in the order of readiness; return for each when it is full, and its bytes.

    ready: (seconds, bytes) of each gradient, in order. cap: bytes at which a bucket is closed.
    """
    found, size = [], 0
    for index, (moment, nbytes) in enumerate(ready):
        size += nbytes
        if size >= cap or index == len(ready) - 1:
            found.append((moment, size))
            size = 0
    return found


def flights(buckets: Sequence[tuple[float, int]], latency: float, bandwidth: float, ranks: int) -> list[Span]:
    """Send full buckets one after the other: each takes `latency` seconds and its share of the bandwidth (bytes/s)."""
    spans: list[Span] = []
    for number, (full, nbytes) in enumerate(buckets):
        sent = max(full, spans[-1][2] if spans else 0.0)
        spans.append((number, sent, sent + latency + 2 * (ranks - 1) / ranks * nbytes / bandwidth))
    return spans


def replay(
    ready: Sequence[tuple[float, int]], cap_kib: float, latency: float, bandwidth: float, ranks: int = 4
) -> Drawn:
    """Replay a recorded backward pass over a network of our choice; beside it the step's length for every cap.

    ready: (seconds, bytes) of each gradient in the order of readiness, recorded; backward ends with the last. latency
    and bandwidth are relative to it: a message costs `latency` of the backward pass, and all gradients in one ring
    take `bandwidth` of it.
    """
    backward = ready[-1][0]
    total = sum(nbytes for _, nbytes in ready)
    alpha, beta = latency * backward, 2 * (ranks - 1) / ranks * total / (bandwidth * backward)

    def length(cap: float) -> float:
        return max(backward, flights(packed(ready, cap), alpha, beta, ranks)[-1][2]) / backward

    caps = [2**power for power in range(1, 12)]
    chosen = flights(packed(ready, cap_kib * KIB), alpha, beta, ranks)
    fig, (left, right) = figures.new(1, 2, width=8.6, height=2.7, width_ratios=[1.6, 1])
    _row(left, 0, backward, chosen, label=True, unit=1 / backward)
    left.set(xlabel="time / backward", yticks=[], xlim=(0, max(2.05, 1.05 * length(cap_kib * KIB))), ylim=(0.5, -0.5))
    left.grid(False)
    left.legend(loc="upper right", fontsize="small")
    right.plot(caps, [length(cap * KIB) for cap in caps], marker="o", markersize=4)
    right.plot([cap_kib], [length(cap_kib * KIB)], marker="D", markersize=10, color=figures.colour(5), linestyle="")
    right.axhline(1, color="black", linewidth=1, linestyle=":")
    right.set(xscale="log", xlabel="cap (KiB)", ylabel="step / backward", ylim=(0.9, None), xticks=caps[1::3],
              xticklabels=[str(cap) for cap in caps[1::3]])
    right.minorticks_off()
    best = min(caps, key=lambda cap: length(cap * KIB))
    return fig, (
        f"Replayed with a cap of {cap_kib:g} KiB: {len(chosen)} messages, all there after "
        f"{length(cap_kib * KIB):.2f} times the backward pass. The best cap is {best} KiB with "
        f"{length(best * KIB):.2f}; one message for all takes {length(2 * total):.2f}."
    )


def side_by_side(mine: Any, theirs: Any, batch: tuple[Any, Any], pairs: int = 7, steps: int = 2) -> float:
    """Return, on the ranks, how long a step of `mine` takes as a ratio to `theirs`: the median of pairs taken in turns.

    Call it on all ranks; rank 0's answer is as good as any.
    """
    import statistics
    import time

    import torch.distributed as dist

    def seconds(trainer: Any) -> float:
        dist.barrier()
        start = time.perf_counter()
        for _ in range(steps):
            trainer.step(*batch)
        return time.perf_counter() - start

    return statistics.median(seconds(mine) / seconds(theirs) for _ in range(pairs))


# ---------------------------------------------------------------------------------------------------------------------
# BatchNorm


def batch_means(by_rank: Sequence[Sequence[float]], whole: Sequence[float]) -> Drawn:
    """Draw the mean that each rank's BatchNorm takes for each feature, and that of the whole batch."""
    fig, ax = figures.new(width=7.2, height=2.7)
    features = range(len(whole))
    ax.hlines(whole, [f - 0.42 for f in features], [f + 0.42 for f in features], color="black", label="whole batch")
    for rank, means in enumerate(by_rank):
        ax.plot([f - 0.24 + 0.16 * rank for f in features], means, linestyle="", marker="osD^"[rank % 4], markersize=4,
                color=figures.colour(rank), label=f"rank {rank}")
    ax.set(xlabel="feature", ylabel="mean", xticks=list(features))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    off = max(abs(m - w) for means in by_rank for m, w in zip(means, whole, strict=True))
    return fig, f"Means of {len(whole)} features by rank; they are off those of the whole batch by up to {off:.1f}."


# ---------------------------------------------------------------------------------------------------------------------
# What a learner's function does

NOT_WRITTEN = "Not written yet: put your code into the cell above and run it."
EXAMPLE = (
    ("token", 26, True), ("position", 16, False), ("query", 16, True), ("key", 16, True), ("value", 16, True),
    ("up", 66, True), ("up.bias", 1, True), ("down", 66, True), ("down.bias", 1, True), ("norm", 1, True),
)  # fmt: skip


def plan_of(function: Callable[..., Any], cap: int = 100, first_cap: int = 40) -> None:
    """Show the learner's buckets for a small model, in kB, against the cap."""
    try:
        plan = function([*EXAMPLE], cap, first_cap)
    except NotImplementedError:
        print(NOT_WRITTEN)
        return
    size = {name: nbytes for name, nbytes, _ in EXAMPLE}
    if not isinstance(plan, (list, tuple)) or not all(name in size for bucket in plan for name in bucket):
        print(f"A plan is a list of lists of names; you return {plan!r:.200}.")
        return
    figures.show(*bars(plan, cap, first_cap))


def bars(plan: Sequence[Sequence[str]], cap: int, first_cap: int) -> Drawn:
    """Draw the buckets of a plan for `EXAMPLE` as bars, each with the line of its cap."""
    size = {name: nbytes for name, nbytes, _ in EXAMPLE}
    fig, ax = figures.new(width=7.6, height=1.1 + 0.42 * max(1, len(plan)))
    for row, bucket in enumerate(plan):
        left = 0
        for turn, name in enumerate(bucket):
            ax.barh(row, size[name], left=left, height=0.7, color=figures.colour(turn), hatch=figures.pattern(turn),
                    alpha=0.6, edgecolor="black", linewidth=0.6)
            if size[name] > 8:
                ax.text(left + size[name] / 2, row, name, ha="center", va="center", fontsize="small",
                        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
            left += size[name]
        ax.plot([(cap if row else first_cap)] * 2, [row - 0.45, row + 0.45], color=figures.colour(5), linestyle="-")
    ax.set(xlabel="kB (the line is the cap)", yticks=range(len(plan)), ylim=(len(plan) - 0.4, -0.6),
           yticklabels=[f"bucket {row}" for row in range(len(plan))])
    ax.grid(False, axis="y")
    listed = "; ".join(f"{', '.join(bucket)} ({sum(size[name] for name in bucket)} kB)" for bucket in plan)
    return fig, (f"Your buckets, first {first_cap} and then {cap} kB at most: {listed}.")


def _trial(name: str, trial: Any) -> Any:
    """Run the function once on the ranks; return what they saw, or None, said on the page, if it does not work yet."""
    from utils import ranks
    from utils.check.reducers import run_trial

    try:
        return [seen for seen in ranks.call(run_trial, name, trial) if seen is not None]
    except ranks.RanksError as error:
        unwritten = any(state.name in ("NotImplementedError", "KeyError") for state in error.states.values())
        print(NOT_WRITTEN if unwritten else error)
        return None


def overlap_of(name: str) -> None:
    """Show when the learner's messages fly, over a recorded backward pass of a GPT on all ranks."""
    from utils import ranks

    try:
        runs = ranks.call(recorded_overlap, name)
    except ranks.RanksError as error:
        unwritten = any(state.name in ("NotImplementedError", "KeyError") for state in error.states.values())
        print(NOT_WRITTEN if unwritten else error)
        return
    if not all(run["spans"] for run in runs):
        print("No message was sent.")
        return
    figures.show(*timeline({"Your reducer": runs}))


def recorded_overlap(name: str) -> dict[str, Any]:
    """Record, on a rank, a backward pass with the learner's reducer: its length, and each message's flight."""
    import time

    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import Work

    from utils import model
    from utils.ranks import engine

    rank, n = dist.get_rank(), dist.get_world_size()
    network = model.GPT(model.Config(), seed=0)
    parameters = [p for p in reversed(list(network.parameters())) if p.requires_grad]
    buckets = [parameters[index : index + 16] for index in range(0, len(parameters), 16)]
    finish = engine.namespace()[name](network, buckets)
    tokens, targets = model.batch(0, 8 * n, rank=rank, world_size=n)
    sent: list[float] = []
    order: list[Any] = []
    arrived: dict[int, float] = {}
    kept = dist.all_reduce

    def all_reduce(*args: Any, **kwargs: Any) -> Any:
        number, start = len(sent), time.perf_counter()
        sent.append(start)
        work = kept(*args, **kwargs)
        if isinstance(work, Work):
            order.append(work.get_future().then(lambda _: arrived.setdefault(number, time.perf_counter())))
        else:
            arrived[number] = time.perf_counter()
        return work

    dist.all_reduce = all_reduce
    try:
        for _ in range(2):
            network.zero_grad()
            loss = model.loss(network(tokens), targets)
            for kind in (sent, arrived, order):  # the last pass counts
                kind.clear()
            dist.barrier()
            start = time.perf_counter()
            loss.backward()
            backward = time.perf_counter() - start
            finish()
            torch.futures.wait_all(order)
    finally:
        dist.all_reduce = kept
    return {"backward": backward, "spans": [(i, at - start, arrived[i] - start) for i, at in enumerate(sent)]}


def factors_of(name: str) -> Any:
    """Tabulate by which factor the learner's sums are off, for some parameters, on ranks 0 and 3."""
    from utils.check import reducers
    from utils.check.inside_ddp import TIED
    from utils.figures.table import Table

    rows = []
    for trial in (TIED[0], TIED[1], TIED[4]):
        seen = _trial(name, trial)
        if seen is None:
            return None
        right = reducers.sums(trial)
        for parameter in ("token.weight", "output.weight", "position.weight", "norm.bias"):
            if parameter in right:
                row = [_factor(seen[rank].named[parameter], right[parameter]) for rank in (0, 3)]
                rows.append([trial.title.partition(", ")[2], parameter, *row])
    return Table(("four ranks with", "parameter", "found / right, rank 0", "rank 3"), rows, "Your sums over the ranks")


def _factor(found: Any, right: Any) -> str:
    if found is None:
        return "no gradient"
    k = float((found * right).sum() / right.square().sum())
    return f"{k:.2f}" if float((found - k * right).norm()) < 1e-3 * float(found.norm() or 1) else "another direction"


def messages_of(name: str) -> Any:
    """Tabulate messages, memory and result of the learner's accumulation for growing numbers of micro-batches."""
    from utils.check.gradients import parts_of, truth, vector
    from utils.check.reducers import Trial
    from utils.figures.table import Table

    rows = []
    for micro in ((1,) * 4, (2,) * 4, (4,) * 4, (4, 2, 3, 1)):
        trial = Trial("accumulate", "", 4, micro=micro)
        seen = _trial(name, trial)
        if seen is None:
            return None
        case = trial.case()
        right, _ = truth(parts_of(case.network(), case.pieces()))
        off = max(float((vector(one.named) - right).norm() / right.norm()) for one in seen)
        rows.append([", ".join(map(str, micro)), len(seen[0].calls), seen[0].buckets, max(one.alive for one in seen),
                     "right" if off < 1e-4 else f"off by {off:.0%}"])
    heads = ("micro-batches by rank", "messages", "DDP's buckets", "activations held at once, of", "gradient")
    return Table(heads, rows, "Your accumulation with DDP on four ranks")
