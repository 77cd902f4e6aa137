"""What the checks of pipelines judge by is itself right: other good answers pass, the exact answer is exact."""

import itertools

import pytest

from utils import check, schedule
from utils.check import pipeline_parallelism as judge
from utils.check.pipelines import VOCAB, Case, Log, batch_of, note_work, parts_of


def rows(name: str, ranks: int, micro_batches: int) -> list[list[str]]:
    return [list(map(str, row)) for row in schedule.build(name, ranks, micro_batches).ranks]


def searched(ranks: int, micro_batches: int) -> list[list[str]]:
    """Search slot by slot: a forward while there is room and fewer than 1F1B has are under way, else `I`, else `W`."""
    ended: dict[str, int] = {}
    found: list[list[str]] = [[] for _ in range(ranks)]
    room = min(ranks, micro_batches)
    for slot in range(6 * (ranks + micro_batches)):
        for rank, row in enumerate(found):
            f, i, w = (sum(action[1] == kind for action in row) for kind in "FIW")
            arrived = rank == 0 or ended.get(f"{rank - 1}F{f}", slot) < slot
            returned = rank == ranks - 1 or ended.get(f"{rank + 1}I{i}", slot) < slot
            if f < micro_batches and arrived and f - i < ranks - rank and f - w < room:
                row.append(f"{rank}F{f}")
            elif i < f and returned:
                row.append(f"{rank}I{i}")
            elif w < i:
                row.append(f"{rank}W{w}")
            else:
                continue
            ended[row[-1]] = slot
    return found


def latest_weights_first(ranks: int, micro_batches: int) -> list[list[str]]:
    """ZB-H1, but what is still owed at the end is done from the latest to the first."""
    found = rows("zb-h1", ranks, micro_batches)
    for rank, row in enumerate(found):
        owed = min(rank, micro_batches)
        row[len(row) - owed :] = row[len(row) - owed :][::-1]
    return found


def test_a_search_by_three_rules_finds_zb_h1():
    assert all(searched(p, m) == rows("zb-h1", p, m) for p, m in judge.SHAPES if m >= p)
    assert check.fill_the_bubble(searched).passed, "as fast where there are fewer micro-batches than ranks"


def test_a_schedule_of_another_order_passes_too():
    assert latest_weights_first(4, 8) != rows("zb-h1", 4, 8)
    verdict = check.fill_the_bubble(latest_weights_first)
    assert verdict.passed, str(verdict)


def test_actions_may_be_triples_as_well_as_texts():
    assert check.one_f_one_b(lambda rank, p, m: list(schedule.build("1f1b", p, m).ranks[rank])).passed


@pytest.mark.parametrize(
    ("name", "what"), [("gpipe", "memory"), ("1f1b", "time"), ("zb-h2", "memory"), ("naive", "time")]
)
def test_schedules_of_the_literature_that_miss_a_target(name, what):
    assert check.fill_the_bubble(lambda p, m: rows(name, p, m)).what == what


@pytest.mark.parametrize("case", [c for c in judge._stage_cases() if c[0] <= 8 and c[1] <= 4])
def test_the_slowest_stage_is_the_best_of_all_splits(case):
    blocks, stages, block, embedding, head, room = case
    found = [
        judge.slowest_stage(counts, block, embedding, head)
        for counts in itertools.product(range(blocks + 1), repeat=stages)
        if sum(counts) == blocks and all(counts[1:-1])
        and all(count * (stages - s) <= room for s, count in enumerate(counts))
    ]  # fmt: skip
    assert min(found) == pytest.approx(judge.best_slowest_stage(*case))


def test_uncounted_targets_are_the_last_of_their_sequence():
    tokens, targets = batch_of(Case((0,), (1,), sequences=4, context=5, uncounted=(0, 2, 5)))
    assert (targets == -100).sum(1).tolist() == [0, 2, 5, 0]
    assert targets[1].tolist()[3:] == [-100, -100]
    assert set(tokens.flatten().tolist()) <= set(range(VOCAB))


def test_outputs_that_are_alive_are_counted():
    case = Case((0,), (1,))
    part, log = parts_of(case)[0], Log()
    note_work(part, log)
    tokens, _ = batch_of(case)
    kept = [part(tokens) for _ in range(3)]
    del kept[:2]
    part(tokens)
    assert [alive for _, _, alive in log] == [1, 2, 3, 2]


def test_the_ranks_that_wait_stand_below_the_hint():
    def warm_up_grows(rank, ranks, micro_batches):
        ahead = min(rank, micro_batches)
        later = [[f"{rank}F{i + ahead}"] * (i + ahead < micro_batches) + [f"{rank}B{i}"] for i in range(micro_batches)]
        return [f"{rank}F{i}" for i in range(ahead)] + sum(later, [])

    verdict = check.one_f_one_b(warm_up_grows)
    assert verdict.what == "deadlock"
    assert "turn back at once.\n```\nNo rank can go on:\nrank 0, position 1" in verdict.hint
