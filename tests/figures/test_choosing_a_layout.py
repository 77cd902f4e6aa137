"""The pictures of the lesson on choosing a layout: what they draw is what they were given, and they say it."""

import pytest

from utils import figures, plan
from utils.check import choosing_a_layout as checks
from utils.figures import choosing_a_layout as pictures

CLUSTER = plan.Cluster(16, plan.H100)
LAYOUT = plan.Layout(2, 2, 4, zero=1, accumulate=8, recompute="none")


def said(made):
    """Draw a (figure, description) pair and return the description."""
    fig, description = made
    return figures.picture(fig, description).description


def test_memory_says_what_the_fullest_gpu_holds_and_whether_it_fits():
    e = plan.estimate(plan.LLAMA_8B, CLUSTER, LAYOUT)
    words = said(pictures.memory(plan.LLAMA_8B, CLUSTER, LAYOUT))
    assert f"holds {e.memory_bytes / 2**30:.1f} GiB of 80" in words
    assert words.endswith("It fits.") is e.fits
    small = plan.Cluster(16, plan.V100)
    assert said(pictures.memory(plan.LLAMA_70B, small, LAYOUT)).endswith("It does not fit.")


def test_memory_draws_every_kind_of_every_stage_end_to_end():
    e = plan.estimate(plan.LLAMA_8B, CLUSTER, LAYOUT)
    bars = pictures.memory(plan.LLAMA_8B, CLUSTER, LAYOUT)[0].axes[0].patches
    ends = [max(bar.get_x() + bar.get_width() for bar in bars if round(bar.get_y() + 0.31) == row) for row in range(4)]
    assert ends == pytest.approx([sum(kinds.values()) / 2**30 for kinds in e.memory.ranks])


def test_memory_says_why_a_layout_is_refused():
    words = said(pictures.memory(plan.LLAMA_8B, CLUSTER, plan.Layout(data=3)))
    assert "is refused" in words
    assert "nearest" in words


def test_estimated_seconds_are_drawn_as_errors():
    fig, words = pictures.predicted({"right": (10.0, 10.0), "above": (11.0, 10.0), "below": (8.0, 10.0)})
    assert [bar.get_width() for bar in fig.axes[0].patches] == pytest.approx([0, 10, -20])
    assert words.endswith("Mean error 10.0 %, worst 20.0 %.")


def test_bandwidths_say_both_numbers():
    assert "2: 360 and 210" in said(pictures.bandwidths({1: 436, 2: 360}, {1: 400, 2: 210}, 450))


def test_terms_add_up_to_the_step_and_name_what_does_not_fit():
    e = plan.estimate(plan.LLAMA_8B, CLUSTER, LAYOUT)
    wide = plan.estimate(plan.LLAMA_70B, CLUSTER, LAYOUT)
    fig, words = pictures.terms({"small": e, "large": wide})
    bars = [bar for bar in fig.axes[0].patches if abs(bar.get_y() + 0.31) < 0.01]
    assert sum(bar.get_width() for bar in bars) == pytest.approx(e.step_seconds)
    assert words.count("does not fit") == 1
    assert f"does not fit: {wide.memory_bytes / 2**30:.0f} GiB" in words


def test_the_frontier_is_what_nothing_beats_in_both():
    layouts = [plan.Layout(2, 2, 4, zero=1, accumulate=8, recompute=mode, micro_batch=micro)
               for mode in ("none", "full") for micro in (1, 2, 4)]  # fmt: skip
    estimates = [plan.estimate(plan.LLAMA_8B, CLUSTER, layout) for layout in layouts]
    edge = pictures.best_by_memory(estimates)
    for e in estimates:
        beaten = any(o.memory_bytes <= e.memory_bytes and o.step_seconds < e.step_seconds for o in estimates)
        assert (e in edge) is not beaten
    memory = [e.memory_bytes for e in edge]
    seconds = [e.step_seconds for e in edge]
    assert memory == sorted(memory)
    assert seconds == sorted(seconds, reverse=True)
    assert f"{len(estimates)} layouts" in said(pictures.frontier(estimates))


def missing(*_):
    raise NotImplementedError


@pytest.mark.parametrize("picture", ["zero", "overlap", "depth", "regrets"])
def test_an_exercise_that_is_not_written_is_said_to_be_so(picture, capsys):
    getattr(pictures, picture)(missing)
    assert capsys.readouterr().out.strip() == pictures.NOT_WRITTEN


def test_regrets_show_a_broken_rule_in_its_row():
    table = pictures.regrets(lambda model, cluster, batch: plan.Layout(data=3))
    assert table._repr_mimebundle_()["text/plain"].count("has to use every GPU") == len(checks.SHOWN)
