"""Pictures of the lesson inside DDP: what they say is what they were given."""

import pytest

from utils import figures
from utils.figures import inside_ddp as pictures

READY = [(0.2, 100), (0.4, 100), (0.6, 100), (1.0, 100)]


def drawn(made):
    """Draw a (figure, description) pair and return the description."""
    fig, description = made
    return figures.picture(fig, description).description


def test_readiness_says_who_is_first_and_last():
    names = ["token.weight", "position.weight", "blocks.0.mlp.up.weight", "norm.weight"]
    order = ["norm.weight", "blocks.0.mlp.up.weight", "position.weight", "token.weight"]
    said = drawn(pictures.readiness(names, order))
    assert "4 hooks for 4 parameters" in said
    assert "first norm.weight (place 3 of 3)" in said
    assert "last position.weight and token.weight (places 1 and 0)" in said


def test_the_time_of_messages_is_a_ratio_to_one():
    assert "1: 1.0, 4: 1.5, 82: 10.0." in drawn(pictures.by_pieces({82: 0.2, 1: 0.02, 4: 0.03}))


def test_hidden_is_what_flies_while_backward_computes():
    run = {"backward": 1.0, "spans": [(0, 0.2, 0.6), (1, 0.8, 1.2), (2, 1.1, 1.3)]}
    assert pictures.hidden([run]) == pytest.approx((0.4 + 0.2) / 1.0)
    assert pictures.hidden([{"backward": 1.0, "spans": []}]) == 0


def test_the_timeline_says_when_the_first_message_leaves():
    one = {"backward": 0.010, "spans": [(0, 0.010, 0.020)]}
    five = {"backward": 0.010, "spans": [(0, 0.002, 0.004), (1, 0.006, 0.008)]}
    said = drawn(pictures.timeline({"one bucket": [one, one], "two buckets": [five, five]}))
    assert "One bucket: 1 message, the first after 100% of backward; 0% of" in said
    assert "Two buckets: 2 messages, the first after 20% of backward; 100% of" in said


def test_buckets_close_when_they_hold_the_cap_and_the_rest_goes_last():
    assert pictures.packed(READY, 200) == [(0.4, 200), (1.0, 200)]
    assert pictures.packed(READY, 300) == [(0.6, 300), (1.0, 100)]
    assert pictures.packed(READY, 1) == READY
    assert pictures.packed(READY, 10**9) == [(1.0, 400)]


def test_messages_fly_one_after_the_other():
    spans = pictures.flights([(0.1, 100), (0.2, 100), (5.0, 100)], latency=1.0, bandwidth=150, ranks=4)
    assert spans == [(0, 0.1, 2.1), (1, 2.1, 4.1), (2, 5.0, 7.0)]


def test_the_replay_finds_the_best_cap_and_the_price_of_one_message():
    ready = [(0.01 * (turn + 1), 64 * 1024) for turn in range(100)]
    said = drawn(pictures.replay(ready, cap_kib=64, latency=0.0, bandwidth=0.5))
    assert "a cap of 64 KiB: 100 messages" in said
    assert "after 1.00 times the backward pass" in said  # only the last one shows, half of 0.01
    assert "one message for all takes 1.50" in said
    dear = drawn(pictures.replay(ready, cap_kib=64, latency=0.1, bandwidth=0.5))
    assert "after 10.51 times the backward pass" in dear  # 0.01 + 100 x (0.1 + 0.005)


def test_batch_means_say_how_far_ranks_are_off():
    assert "by up to 0.5" in drawn(pictures.batch_means([[0.0, 1.0], [0.2, 0.5]], [0.1, 0.5]))


def test_an_exercise_that_is_not_written_yet_is_said_so(capsys):
    def stub(*arguments):
        raise NotImplementedError("stub")

    pictures.plan_of(stub)
    assert "Not written yet" in capsys.readouterr().out
    pictures.plan_of(lambda *_: "nonsense")
    assert "A plan is a list of lists of names; you return 'nonsense'" in capsys.readouterr().out


def test_a_plan_is_shown_with_what_each_bucket_holds():
    said = drawn(pictures.bars([["norm", "down.bias"], ["down"]], cap=100, first_cap=40))
    assert "first 40 and then 100 kB at most: norm, down.bias (2 kB); down (66 kB)" in said


def test_the_bench_measures_the_lesson_s_own_code():
    from utils.bench import inside_ddp as bench_ddp

    found = "\n".join(bench_ddp.cells())
    for name in bench_ddp.NAMES:
        assert f"def {name}(" in found or f"class {name}" in found, name
    assert "hand, ddp = Trainer(" in found
    assert "%%" not in found
