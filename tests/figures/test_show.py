"""A picture reaches the page with its description."""
import base64

import pytest

from utils import figures


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr("IPython.display.display", found.append)
    return found


def drawn():
    fig, ax = figures.new()
    ax.plot([1, 2, 3], label="loss")
    return fig


def test_picture_has_alternative_text_and_text_below(shown):
    figures.show(drawn(), "A line rises\n from 1 to 3 & <on>.")
    image, below = shown
    data, metadata = image._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == "A line rises from 1 to 3 & <on>."
    text = below._repr_mimebundle_()
    assert text["text/plain"] == "A line rises from 1 to 3 & <on>."
    assert "&lt;on&gt;" in text["text/html"]


def test_a_picture_needs_a_description():
    for words in ("", "   \n", "loss"):
        with pytest.raises(ValueError, match="description"):
            figures.show(drawn(), words)


def test_the_ground_is_opaque_and_light():
    import io

    import matplotlib.image

    pixels = matplotlib.image.imread(io.BytesIO(figures.picture(drawn(), "A line rises.").png))
    assert pixels[0, 0].tolist() == [1.0, 1.0, 1.0, 1.0]
    if pixels.shape[2] == 4:
        assert pixels[..., 3].min() == 1.0


def test_pyplot_figures_are_not_shown_twice(shown):
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    ax.plot([1, 2])
    figures.show(fig, "A line rises from 1 to 2.")
    assert plt.get_fignums() == []
    assert len(shown) == 2


def test_colours_and_patterns_go_together():
    pairs = {(figures.colour(i), figures.pattern(i)) for i in range(8)}
    assert len(pairs) == len({c for c, _ in pairs}) == len({p for _, p in pairs}) == 8
