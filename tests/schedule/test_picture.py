"""The picture is drawn from the simulation, box for box."""

import pytest

from utils import figures, schedule
from utils.figures import schedule as pictures


@pytest.mark.parametrize(("name", "stages"), [("1f1b", 4), ("zb-v", 8), ("interleaved-1f1b", 8)])
def test_every_action_is_a_box_where_the_simulation_has_it(name: str, stages: int) -> None:
    found = schedule.simulate(schedule.build(name, stages, 8), forward=1, backward_input=1.5)
    fig, description = pictures.draw(found)
    above, below = fig.axes
    ranks = len(found.schedule.ranks)
    boxes = {(round(b.get_y() + b.get_height() / 2), b.get_x(), b.get_x() + b.get_width()) for b in above.patches}
    for action, (start, end) in found.times.items():
        near = [b for b in boxes if b[0] == found.schedule.placement[action.stage] and abs(b[1] - start) < 1e-9]
        assert any(abs(b[2] - end) < 1e-9 for b in near), str(action)
    assert len(above.patches) == ranks + len(found.times), "one box an action, and the ground of each rank"
    assert f"{found.bubble:.1%}" in description
    assert [max(line.get_ydata()) for line in below.get_lines()] == found.peak_activations[: len(below.get_lines())]
    assert figures.picture(fig, description).png.startswith(b"\x89PNG")


def test_stepping_draws_only_what_has_started() -> None:
    found = schedule.simulate(schedule.build("gpipe", 3, 4))
    for until, started in [(0, 0), (1, 1), (1.5, 3), (found.total, len(found.times))]:
        fig, _ = pictures.draw(found, until=until)
        assert len(fig.axes[0].patches) - 3 == started
