"""Pictures of the lessons on data and model parallelism: pieces and bars carry their names."""

import pytest

from utils import figures
from utils.figures import data_parallelism, model_parallelism


def test_the_copies_name_their_blocks_and_the_description_all_pieces():
    model = pytest.importorskip("utils.model")
    tokens, _ = model.batch(0, 30)
    fig, text = data_parallelism.promise(model.GPT(model.Config(layers=2)), tokens, ranks=4)
    assert "shards of 8, 8, 7 and 7" in text
    assert "in 5 pieces: token, position, block 0, block 1 and norm." in text
    written = [label.get_text() for label in fig.axes[1].texts]
    assert written == ["block 0", "block 1"] * 4
    figures.picture(fig, text)


def test_narrow_bars_keep_the_number_of_their_micro_batch():
    pieces = [(0, "F", 0, 0.0, 0.02), (0, "F", 1, 0.02, 0.5), (1, "F", 0, 0.02, 0.021), (1, "F", 1, 0.5, 1.0)]
    fig, text = model_parallelism.timeline({"narrow": pieces})
    written = [label.get_text() for label in fig.axes[0].texts]
    assert written == ["0", "1", "1"], "one fiftieth of the axis carries its number, one thousandth does not"
    assert "narrow: 1,000 ms, 0.50 of the ranks' time idle." in text
    figures.picture(fig, text)
