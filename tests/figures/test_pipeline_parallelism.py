"""Pictures of pipelines: side by side, step by step, and the sandbox, whose numbers are the simulator's."""

import pytest

from utils import figures, schedule
from utils.figures import explorer
from utils.figures import pipeline_parallelism as pictures
from utils.figures import schedule as drawing

SLIDERS = {"ranks": 4, "micro_batches": 8, "stages_a_rank": 2, "forward": 1.0, "backward_input": 1.0,
           "backward_weight": 1.0, "transfer": 0.0}  # fmt: skip


def simulated(name: str, stages: int = 4) -> schedule.Simulation:
    return schedule.simulate(schedule.build(name, stages, 8))


@pytest.mark.parametrize("one_axis", [True, False])
def test_runs_side_by_side_have_a_panel_each(one_axis: bool) -> None:
    found = {"first": simulated("gpipe"), "second": simulated("zb-h1"), "third": simulated("naive")}
    fig, description = pictures.together(found, unit="ms", scale=10, one_axis=one_axis)
    for ax, (title, one) in zip(fig.axes, found.items(), strict=True):
        assert len(ax.patches) == len(one.schedule.ranks) + len(one.times)
        assert max(box.get_x() + box.get_width() for box in ax.patches) == pytest.approx(10 * one.total)
        assert f"{title}: step {10 * one.total:.4g}" in description
    ends = {ax.get_xlim()[1] for ax in fig.axes}
    assert len(ends) == (1 if one_axis else 3)
    legend = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert legend == ["idle", "forward", "backward", "backward for the inputs", "backward for the weights"]
    assert [ax.get_legend() for ax in fig.axes[1:]] == [None, None], "one legend explains all panels"


def test_the_idle_share_is_said_once_where_all_ranks_have_it() -> None:
    assert drawing.idleness(simulated("1f1b")) == "bubble 27.3%, idle 27% on each rank"
    uneven = schedule.simulate(schedule.build("1f1b", 2, 4), forward=[1, 2])
    assert "by rank" in drawing.idleness(uneven)


def test_stepping_starts_where_it_is_told_and_ends_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(figures, "slider", lambda draw, **sliders: made.append(explorer.explorer(draw, sliders)[0]))
    found = simulated("gpipe")
    pictures.stepping(found)
    pictures.stepping(found, first=0)
    whole, begin = made
    assert whole.values[0][whole.indices[0]] == found.total
    assert begin.values[0][begin.indices[0]] == 0
    assert whole.first.png != begin.first.png


@pytest.mark.parametrize("name", schedule.NAMES)
def test_the_sandbox_shows_the_chosen_schedule(name: str) -> None:
    _, description = pictures.sandbox(schedule=name, **SLIDERS)
    two = name in ("interleaved-1f1b", "zb-v", "dualpipe-v")
    one = schedule.simulate(schedule.build(name, 8 if two else 4, 8), *[0.5 if two else 1.0] * 3)
    assert f"bubble {one.bubble:.1%}" in description
    assert f"{name} {one.bubble:.1%} and {max(one.peak_activations) / (2 if two else 1):.3g}" in description


def test_the_sandbox_agrees_that_1f1b_has_no_smaller_bubble_than_gpipe() -> None:
    _, free = pictures.sandbox(schedule="1f1b", **SLIDERS)
    assert "gpipe 27.3% and 8, 1f1b 27.3% and 4" in free
    _, costly = pictures.sandbox(schedule="1f1b", **{**SLIDERS, "transfer": 0.2})
    assert "gpipe 29.8% and 8, 1f1b 33.7% and 4" in costly


def test_the_sandbox_says_why_a_schedule_is_not_there() -> None:
    fig, description = pictures.sandbox(schedule="dualpipe-v", **{**SLIDERS, "ranks": 8})
    assert "It cannot be built: dualpipe-v needs at least as many micro-batches as stages: 16, not 8." in description
    assert "zb-v" in description
    assert "dualpipe-v " not in description.partition("Bubble and")[2], "no numbers of what cannot be"
    assert figures.picture(fig, description).png.startswith(b"\x89PNG")
