"""Is a schedule possible and complete?"""

from __future__ import annotations

from utils.schedule.actions import BACKWARD, FORWARD, INPUT, KINDS, WEIGHT, Action, Schedule, ScheduleError


def check(schedule: Schedule) -> None:
    """Check that nothing is missing, nothing done twice, every dependency kept, and that no rank waits for ever.

    Raises ScheduleError naming the rank, the position in its list (from 0), and the action.
    """
    _nothing_twice(schedule)
    _nothing_missing(schedule)
    in_order(schedule)


def _nothing_twice(schedule: Schedule) -> None:
    seen: dict[Action, int] = {}
    for rank, row in enumerate(schedule.ranks):
        for position, action in enumerate(row):
            at = f"rank {rank}, position {position}: {action}"
            if not (0 <= action.stage < schedule.stages and 0 <= action.micro_batch < schedule.micro_batches):
                size = f"{schedule.stages} stages and {schedule.micro_batches} micro-batches"
                raise ScheduleError(f"{at} does not exist in a schedule of {size}.")
            if schedule.placement[action.stage] != rank:
                home = schedule.placement[action.stage]
                raise ScheduleError(f"{at} is work of stage {action.stage}, which stands on rank {home}.")
            if action in seen:
                raise ScheduleError(f"{at} is done twice; it stands at position {seen[action]} already.")
            seen[action] = position


def _nothing_missing(schedule: Schedule) -> None:
    for stage in range(schedule.stages):
        for micro_batch in range(schedule.micro_batches):
            done = {k: schedule.where(Action(stage, k, micro_batch)) is not None for k in KINDS}
            where = f"stage {stage} (rank {schedule.placement[stage]}), micro-batch {micro_batch}"
            if done[BACKWARD] and (done[INPUT] or done[WEIGHT]):
                half = INPUT if done[INPUT] else WEIGHT
                both = f"{Action(stage, BACKWARD, micro_batch)} and {Action(stage, half, micro_batch)}"
                raise ScheduleError(f"{where}: {both} do the same work twice; B is I and W at once.")
            wanted = [FORWARD] if done[BACKWARD] else [FORWARD, INPUT, WEIGHT]
            for kind in wanted:
                if not done[kind]:
                    whole = kind == INPUT and not done[WEIGHT]
                    action = Action(stage, BACKWARD if whole else kind, micro_batch)
                    raise ScheduleError(f"{where}: {action} is missing, the {KINDS[action.kind]}.")


def in_order(schedule: Schedule) -> list[Action]:
    """List all actions in an order that keeps every dependency. Raises ScheduleError where there is none.

    The ranks go through their lists together, each as far as it can; where none can go on, they wait for each other.
    """
    position = [0] * len(schedule.ranks)
    done: set[Action] = set()
    order: list[Action] = []
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(schedule.ranks):
            while position[rank] < len(row) and done.issuperset(schedule.needs(row[position[rank]])):
                done.add(row[position[rank]])
                order.append(row[position[rank]])
                position[rank] += 1
                moved = True
    if waiting := [rank for rank, row in enumerate(schedule.ranks) if position[rank] < len(row)]:
        lines = [_wait(schedule, rank, position[rank], done) for rank in waiting]
        raise ScheduleError("\n".join(["No rank can go on:", *lines]))
    return order


def _wait(schedule: Schedule, rank: int, position: int, done: set[Action]) -> str:
    action = schedule.ranks[rank][position]
    need = next(n for n in schedule.needs(action) if n not in done)
    at = f"rank {rank}, position {position}: {action} (stage {action.stage}) waits for {need}"
    place = schedule.where(need)
    if place is None:
        return f"{at}, which no rank does."
    if place[0] == rank:
        return f"{at}, which this rank does only later, at position {place[1]}."
    return f"{at}, which rank {place[0]} has at position {place[1]}."
