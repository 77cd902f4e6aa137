"""A picture that is drawn again: in Python here, in a browser in tests/figures/test_slider_live.py."""
import pytest

from utils import figures
from utils.figures.explorer import Explorer, explorer


def draw(ranks, batch=8):
    fig, ax = figures.new()
    ax.bar(range(ranks), [batch / ranks] * ranks)
    return fig, f"{ranks} bars of height {batch / ranks:g}: the share of each rank."


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr("IPython.display.display", found.append)
    return found


def test_the_first_picture_stays_without_a_kernel(shown):
    figures.slider(draw, ranks=(range(1, 9), 4), batch=[8, 16])
    widget, start = shown
    data, metadata = widget._repr_mimebundle_()
    assert isinstance(widget, Explorer)
    assert metadata["image/png"]["alt"] == "4 bars of height 2: the share of each rank."
    assert data["text/plain"] == "[picture] 4 bars of height 2: the share of each rank."
    assert "application/vnd.jupyter.widget-view+json" in data
    assert start._repr_mimebundle_()["text/plain"] == "With ranks 4, batch 8: " + metadata["image/png"]["alt"]


def test_moving_draws_again():
    widget, _ = explorer(draw, {"ranks": range(1, 9), "batch": [8, 16]})
    before = widget.png
    widget.indices = [1, 1]
    assert widget.description.startswith("2 bars of height 8")
    assert widget.png != before
    assert widget.answer == 1


def test_an_error_while_drawing_is_said_and_the_next_move_works():
    def fails(n):
        return draw(n) if n != 2 else 1 / 0

    widget, _ = explorer(fails, {"n": [1, 2, 3]})
    widget.indices = [1]
    assert "ZeroDivisionError" in widget.description
    assert widget.answer == 1
    widget.indices = [2]
    assert widget.description.startswith("3 bars")


@pytest.mark.parametrize(("sliders", "words"), [
    ({}, "at least one slider"),
    ({"n": [1]}, "at least two values"),
    ({"n": ([1, 2], 3)}, "not one of its values"),
])
def test_sliders_that_make_no_sense(sliders, words):
    with pytest.raises(ValueError, match=words):
        figures.slider(draw, **sliders)


def test_labels():
    widget, _ = explorer(lambda model_size, rate: draw(2), {"model_size": [1000, 2_000_000], "rate": [0.001, 0.5]})
    assert [c["label"] for c in widget.controls] == ["model size", "rate"]
    assert widget.controls[0]["values"] == ["1,000", "2,000,000"]
    assert widget.controls[1]["values"] == ["0.001", "0.5"]
