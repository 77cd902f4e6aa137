"""Schedules are complete and possible, faults are named, and no simulation is faster than it can be."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import schedule
from utils.schedule import Action, ScheduleError

TWO_A_RANK = ("interleaved-1f1b", "zb-v", "dualpipe-v")


def built(name: str, ranks: int, micro_batches: int) -> schedule.Schedule:
    return schedule.build(name, 2 * ranks if name in TWO_A_RANK else ranks, micro_batches)


@st.composite
def schedules(draw: st.DrawFn) -> schedule.Schedule:
    name, ranks = draw(st.sampled_from(schedule.NAMES)), draw(st.integers(1, 6))
    micro_batches = draw(st.integers(1, 16))
    if name == "interleaved-1f1b":
        micro_batches = ranks * draw(st.integers(1, 4))
    if name == "dualpipe-v":
        micro_batches = 2 * ranks + draw(st.integers(0, 8))
    return built(name, ranks, micro_batches)


costs = st.floats(0.1, 3)


@settings(deadline=None, max_examples=150)
@given(s=schedules(), forward=costs, backward=costs, weight=costs, transfer=st.floats(0, 2))
def test_no_simulation_beats_its_lower_bounds(
    s: schedule.Schedule, forward: float, backward: float, weight: float, transfer: float
) -> None:
    found = schedule.simulate(s, forward, backward, weight, transfer)
    there, back = forward * s.stages, backward * s.stages
    hops = sum(a != b for a, b in zip(s.placement, s.placement[1:], strict=False))
    whole = s.backward_of(0, 0).kind == "B"
    path = there + back + 2 * hops * transfer + (weight * s.stages if whole and s.name != "dualpipe-v" else 0)
    assert found.total >= path - 1e-9, "one micro-batch has to pass all stages, there and back"
    work = s.micro_batches * (forward + backward + weight) * s.stages / len(s.ranks)
    assert found.work == pytest.approx([work] * len(s.ranks)), "every schedule does the same work"
    assert found.total >= max(found.work) - 1e-9
    assert 0 <= found.bubble + 1e-9 < 1
    # the last stage cannot begin before a micro-batch has come down, nor the step end before its last gradient went up
    last = s.placement[-1]
    alone = len(s.ranks) == s.stages
    if alone:
        assert found.total >= forward * (s.stages - 1) + 2 * hops * transfer + found.work[last] + backward * (
            s.stages - 1
        ) - weight * s.micro_batches * (not whole) - 1e-9


@settings(deadline=None, max_examples=100)
@given(s=schedules(), forward=costs, backward=costs, weight=costs, transfer=st.floats(0, 2))
def test_actions_keep_their_dependencies_and_ranks_do_one_at_a_time(
    s: schedule.Schedule, forward: float, backward: float, weight: float, transfer: float
) -> None:
    found = schedule.simulate(s, forward, backward, weight, transfer)
    for action, (start, _) in found.times.items():
        for need in s.needs(action):
            away = transfer * (s.placement[need.stage] != s.placement[action.stage])
            assert start >= found.times[need][1] + away - 1e-9
    for row in s.ranks:
        for before, after in zip(row, row[1:], strict=False):
            assert found.times[after][0] >= found.times[before][1] - 1e-9


@pytest.mark.parametrize(("ranks", "micro_batches"), [(1, 1), (2, 4), (4, 8), (4, 32), (8, 24)])
def test_bubble_formulas(ranks: int, micro_batches: int) -> None:
    for name in ("gpipe", "1f1b"):
        found = schedule.simulate(built(name, ranks, micro_batches))
        assert found.bubble == pytest.approx((ranks - 1) / (micro_batches + ranks - 1))
        assert found.bubble_over_ideal == pytest.approx((ranks - 1) / micro_batches)
    naive = schedule.simulate(built("naive", ranks, 1))
    assert naive.idle == pytest.approx([1 - 1 / ranks] * ranks)


def test_uneven_stages_the_slowest_sets_the_pace() -> None:
    even = schedule.simulate(schedule.build("1f1b", 4, 16), forward=[1, 1, 1, 1])
    late = schedule.simulate(schedule.build("1f1b", 4, 16), forward=[1, 1, 1, 2])
    assert late.total - even.total == pytest.approx(16), "one more for each of 16 micro-batches on the slowest rank"


def test_messages_follow_from_the_placement() -> None:
    s = schedule.build("gpipe", 3, 2)
    assert len(s.messages()) == 2 * 2 * 2, "two cuts, two directions, two micro-batches"
    assert (Action(0, "F", 1), 0, 1) in s.messages()
    assert (Action(2, "B", 1), 2, 1) in s.messages()
    folded = schedule.build("zb-v", 4, 4)
    assert folded.placement == (0, 1, 1, 0)
    assert len(folded.messages()) == 2 * 2 * 4, "the turn of the V stays on its rank"


GOOD = [["0F0", "0F1", "0B0", "0B1"], ["1F0", "1B0", "1F1", "1B1"]]


def test_a_plain_list_is_a_schedule() -> None:
    s = schedule.build(GOOD)
    schedule.check(s)
    assert s.ranks == schedule.build("1f1b", 2, 2).ranks
    assert schedule.build([[(0, "F", 0), (0, "B", 0)]]).stages == 1


def wrong(rank: int, row: list[str]) -> list[list[str]]:
    return [row if r == rank else GOOD[r] for r in range(2)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (wrong(0, ["0F0", "0F1", "0B0"]), ["stage 0 (rank 0)", "0B1 is missing"]),
        (wrong(0, ["0F0", "0F0", "0F1", "0B0", "0B1"]), ["rank 0, position 1: 0F0", "twice", "position 0"]),
        (wrong(1, ["1B0", "1F0", "1F1", "1B1"]), ["rank 1, position 0: 1B0", "waits for 1F0", "position 1"]),
        (wrong(0, ["0F0", "0B0", "0B1", "0F1"]), ["rank 0, position 2: 0B1", "waits for 0F1"]),
        (wrong(0, ["0F1", "0B1", "0F0", "0B0"]), ["rank 0, position 1: 0B1", "1B1, which rank 1 has at position 3"]),
        (wrong(0, ["0F0", "0F1", "0I0", "0B1"]), ["stage 0 (rank 0), micro-batch 0", "0W0 is missing"]),
        (wrong(0, ["0F0", "0F1", "0B0", "0W0", "0B1"]), ["0B0 and 0W0 do the same work twice"]),
        (wrong(0, ["0F0", "0F1", "0W0", "0I0", "0B1"]), ["rank 0, position 2: 0W0", "waits for 0I0"]),
    ],
)
def test_check_names_rank_position_and_action(rows: list, words: list[str]) -> None:
    with pytest.raises(ScheduleError) as caught:
        schedule.check(schedule.build(rows))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: schedule.build("2f2b", 4, 8), ["'2f2b'", "1f1b", "zb-v"]),
        (lambda: schedule.build("zb-v", 5, 8), ["5 stages", "nearest: [4, 6]"]),
        (lambda: schedule.build("zb-v", 8, 8, per_rank=3), ["2 stages a rank, not 3"]),
        (lambda: schedule.build("interleaved-1f1b", 8, 9), ["9 micro-batches", "nearest: [8, 10]"]),
        (lambda: schedule.build("dualpipe-v", 8, 6), ["8, not 6"]),
        (lambda: schedule.build("1f1b", 0, 8), ["stages=0"]),
        (lambda: schedule.build([["0F0", "0X0"]]), ["'0X0'", "2F5"]),
        (lambda: schedule.build([["0F0"], ["0B0"]]), ["rank 1, position 0: 0B0", "rank 0"]),
        (lambda: schedule.build([[], []]), ["empty"]),
        (lambda: schedule.build([["0F0", "0B0"], ["2F0", "2B0"]]), ["Stage 1"]),
        (lambda: schedule.simulate(schedule.build("1f1b", 4, 8), forward=[1, 2]), ["forward: 2 costs for 4 stages"]),
        (lambda: schedule.simulate(schedule.build("1f1b", 4, 8), transfer=-1), ["transfer"]),
        (lambda: schedule.simulate(schedule.build("1f1b", 4, 8), backward_input=-1), ["backward_input", "negative"]),
    ],
)
def test_bad_requests_are_refused_by_name(call, words: list[str]) -> None:
    with pytest.raises(ScheduleError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
