"""Pictures of the exercises on pipeline parallelism: each draws what the learner's code did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from utils import figures, schedule
from utils.figures import schedule as pictures
from utils.schedule import Action, ScheduleError, Simulation

NOT_WRITTEN = "Nothing to draw yet: write your function first."


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def bubble_curves(function: Callable[[int, int, int], Any], ranks: int = 4) -> None:
    """Draw the function's two shares over the number of micro-batches, and the simulator's as dots."""
    from utils.check.pipeline_parallelism import simulated_bubbles

    counts = [ranks * rounds for rounds in (1, 2, 3, 4, 6, 8)]
    fig, axes = figures.new(1, 2, width=8.4, height=3.2)
    words = []
    for index, per_rank in enumerate((1, 2, 4)):
        try:
            said = [[float(share) for share in function(ranks, m, per_rank)] for m in counts]
        except NotImplementedError:
            print(NOT_WRITTEN)
            return
        except (TypeError, ValueError, ZeroDivisionError) as error:
            print(f"Nothing to draw: two numbers are wanted, and your function gives {type(error).__name__}: {error}")
            return
        right = [simulated_bubbles(ranks, m, per_rank) for m in counts]
        for which, ax in enumerate(axes):
            ax.plot(counts, [pair[which] for pair in said], color=figures.colour(index), label=f"yours, {per_rank}")
            ax.plot(counts, [pair[which] for pair in right], "o", color=figures.colour(index), mfc="white",
                    label=f"simulated, {per_rank}")  # fmt: skip
        pairs = f"{said[1][0]:.3g} and {said[1][1]:.3g}, simulated {right[1][0]:.3g} and {right[1][1]:.3g}"
        words.append(f"{per_rank} on each rank: {pairs}")
    axes[0].set(title="idle over total time", xlabel="micro-batches", ylim=(0, None))
    axes[1].set(title="idle over computing time", xlabel="micro-batches", ylim=(0, None))
    axes[1].legend(title="stages on a rank", fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figures.show(fig, f"Two shares of idle time over micro-batches, {ranks} ranks. At {counts[1]}: {'; '.join(words)}.")


def stages(
    function: Callable[..., Any], blocks: int = 12, parts: int = 4, block: float = 1.0, embedding: float = 0.5,
    head: float = 3.0, room: int = 10, micro_batches: int = 8,
) -> None:  # fmt: skip
    """Draw 1F1B with equal numbers of blocks above, with the function's below; a backward takes twice a forward."""
    from utils.check.pipeline_parallelism import stage_times

    try:
        answer = [int(count) for count in function(blocks, parts, block, embedding, head, room)]
        found = {
            title: _with_times(stage_times(counts, block, embedding, head), micro_batches)
            for title, counts in (("equal numbers", [blocks // parts] * parts), ("yours", answer))
        }
    except NotImplementedError:
        print(NOT_WRITTEN)
        return
    except (TypeError, ValueError) as error:
        print(f"Nothing to draw: your function's answer is no list of {parts} numbers of blocks. {error}")
        return
    fig, axes = figures.new(2, 1, width=9.0, height=5.0, sharex=True)
    words = []
    for ax, counts, (title, run) in zip(axes, ([blocks // parts] * parts, answer), found.items(), strict=True):
        pictures.rows(ax, run.times, run.schedule.placement)
        held = [count * peak for count, peak in zip(counts, run.peak_activations, strict=True)]
        ax.set_yticks(range(parts), [f"rank {s}: {count} block{'s' * (count != 1)}" for s, count in enumerate(counts)])
        ax.set_title(f"{title}: the step takes {run.total:.4g}; held {', '.join(map(str, held))} (room for {room})")
        words.append(f"{title} {counts}: slowest stage {max(run.work) / micro_batches:g}, step {run.total:.4g}, "
                     f"activations of blocks held by rank {held}, room for {room}")  # fmt: skip
    axes[1].get_legend().remove()
    axes[1].set_xlabel("time")
    figures.show(fig, f"1F1B with {micro_batches} micro-batches, two splits of {blocks} blocks. {'; '.join(words)}.")


def _with_times(times: Sequence[float], micro_batches: int) -> Simulation:
    third = [time / 3 for time in times]
    return schedule.simulate(schedule.build("1f1b", len(times), micro_batches), third, third, third)


# ---------------------------------------------------------------------------------------------------------------------
# Schedules


def order(function: Callable[[int, int, int], Any], ranks: int = 4, micro_batches: int = 8) -> None:
    """Draw the schedule of the lists that the function returns for each rank, a backward taking twice a forward."""
    found = _simulated(lambda: [function(rank, ranks, micro_batches) for rank in range(ranks)])
    if found:
        p, m = len(found.schedule.ranks), found.schedule.micro_batches
        fig, _ = pictures.draw(found)
        fig.axes[0].set_title(f"yours: the step takes {found.total:g}, 1F1B's {3 * (m + p - 1)}; held {_held(found)}")
        figures.show(fig, _in_short(found))


def filled(function: Callable[[int, int], Any], ranks: int = 4, micro_batches: int = 8) -> None:
    """Draw the function's schedule, each pass taking 1, beside the targets of time and memory."""
    found = _simulated(lambda: function(ranks, micro_batches))
    if found:
        target = schedule.simulate(schedule.build("zb-h1", ranks, micro_batches)).total
        fig, _ = pictures.draw(found)
        above, below = fig.axes
        above.set_xlim(0, max(found.total, target) * 1.01)
        for ax in (above, below):
            ax.axvline(target, color="black", linestyle="--", linewidth=1.2)
        below.axhline(min(ranks, micro_batches), color="black", linestyle="--", linewidth=1.2)
        targets = f"target {target:g}; held {_held(found)} (room for {min(ranks, micro_batches)})"
        above.set_title(f"yours: the step takes {found.total:g}, {targets}")
        figures.show(fig, f"{_in_short(found)} Dashed: the targets, {target:g} and {min(ranks, micro_batches)} held.")


def _in_short(found: Simulation) -> str:
    """Say in words what a schedule's picture shows."""
    s = found.schedule
    idle = ", ".join(f"{share:.0%}" for share in found.idle)
    return (
        f"Your schedule of {len(s.ranks)} ranks and {s.micro_batches} micro-batches, time across. The step takes "
        f"{found.total:g}. Idle by rank: {idle}. Activations held by rank, at most: {_held(found)}."
    )


def _held(found: Simulation) -> str:
    return ", ".join(map(str, found.peak_activations))


def _simulated(rows: Callable[[], Any]) -> Simulation | None:
    """Simulate a learner's lists; say on the page why not, where they cannot be."""
    try:
        return schedule.simulate(schedule.build(rows()))
    except NotImplementedError:
        print(NOT_WRITTEN)
    except (ScheduleError, TypeError, ValueError) as error:
        print(f"This cannot be drawn yet. {error}")
    return None


# ---------------------------------------------------------------------------------------------------------------------
# On the ranks


def gradients(name: str, micro_batches: int = 4) -> Any:
    """Tabulate what a step leaves on 3 ranks: its work in order, how its gradients compare, what it returns."""
    from utils.check.pipelines import Case

    return _tabled(name, Case((0, 1, 2), (1, 1, 1), sequences=8, micro_batches=micro_batches))


def carried_out(name: str, function: Callable[[int, int], Any], micro_batches: int = 6) -> Any:
    """Run the schedule that `function` returns on 3 ranks by the function called `name`; draw the work that was done.

    If there is no such schedule yet, ZB-H1 is run.
    """
    from utils.check.pipeline_runs import Run

    try:
        built = schedule.build(function(3, micro_batches))
        schedule.check(built)
    except (NotImplementedError, ScheduleError, TypeError, ValueError):
        print("`fill_the_bubble` gives no schedule yet: ZB-H1 is run in its place.")
        built = schedule.build("zb-h1", 3, micro_batches)
    rows = tuple(tuple(map(str, row)) for row in built.ranks)
    case = Run((0, 1, 2), (1, 1, 1), sequences=2 * micro_batches, micro_batches=micro_batches, order="yours", rows=rows)
    by_part = _trial(name, case)
    if by_part is None:
        return None
    done = [_numbered(row, seen.order) for row, seen in zip(built.ranks, by_part, strict=True)]
    if found := _simulated(lambda: done):
        fig, _ = pictures.draw(found)
        fig.axes[0].set_title("what your ranks did, in their order, each pass drawn equally long")
        figures.show(fig, _in_short(found))
    return _table(case, by_part)


def _numbered(row: Sequence[Action], kinds: Sequence[str]) -> list[Action]:
    """Name the passes that were seen after the list, if they fit it; else number forwards and backwards as they came.

    The first stage does nothing that can be seen in one of `I` and `W`: it has no inputs' gradient.
    """
    for nothing in ("", "I", "W") if row[0].stage == 0 else ("",):
        seen = [action for action in row if action.kind != nothing]
        if ["F" if action.kind == "F" else "B" for action in seen] == list(kinds):
            return list(row)
    counted = {"F": 0, "B": 0}
    actions = []
    for kind in kinds:
        actions.append(Action(row[0].stage, kind, counted[kind]))
        counted[kind] += 1
    return actions


def _tabled(name: str, case: Any) -> Any:
    by_part = _trial(name, case)
    return None if by_part is None else _table(case, by_part)


def _trial(name: str, case: Any) -> list[Any] | None:
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


def _table(case: Any, by_part: Sequence[Any]) -> Any:
    from utils.figures.table import Table

    rows = []
    for rank, seen in zip(case.chain, by_part, strict=True):
        kinds = sorted(set(seen.gradients.values()))
        compared = ", ".join(f"{len(seen.are(kind))} {_in_words(kind)}" for kind in kinds) or "nothing"
        rows.append([f"rank {rank}", " ".join(seen.order) or "nothing", compared, seen.returned or "nothing"])
    return Table(["rank", "work", "gradients", "returns"], rows, str(case))


def _in_words(kind: str) -> str:
    return "wrong" if kind == "other" else kind
