"""Pictures of the lesson on sharded data parallelism: what they say is what they were given."""

import pytest

from utils import figures
from utils.figures import sharded_data_parallelism as pictures
from utils.ledger import Memory


def drawn(made):
    """Draw a (figure, description) pair and return the description."""
    fig, description = made
    return figures.picture(fig, description).description


def memory(**kinds):
    """Make the memory of one rank."""
    names = (*pictures.KINDS, "activations", "other")
    return Memory(**{kind: [kinds.get(kind, 0)] for kind in names})


def test_the_row_says_how_long_a_shard_is_and_what_is_padding():
    pytest.importorskip("torch")
    from utils import model

    network = model.GPT(model.Config(layers=2, vocab=101), seed=0)
    total = sum(p.numel() for p in network.parameters())
    for ranks in (1, 3, 4, 7):
        said = drawn(pictures.layout(network, ranks))
        each = -(-total // ranks)
        assert f"One row of {total:,} elements, 4 pieces" in said
        assert f"{ranks} ranks {each:,} elements, {each * ranks - total} of them padding" in said


def test_stages_add_up_kinds_without_activations():
    held = {"one": memory(parameters=2_000_000, gradients=1_000_000, activations=9_000_000),
            "two": memory(parameters=500_000, gathered=250_000)}
    said = drawn(pictures.stages(held, {"one": 3e6, "two": 4e5}))
    assert "one 3.00 MB (formula 3.00)" in said
    assert "two 0.75 MB (formula 0.40)" in said


def test_the_formulas_give_the_published_table():
    for parameters, rows in pictures.PUBLISHED.items():
        for ranks, row in rows.items():
            assert pictures.states(parameters, ranks)[0] == 16 * parameters / 1e9
            for ours, theirs in zip(pictures.states(parameters, ranks)[1:], row, strict=True):
                digits = 2 if theirs < 10 else 1 if theirs < 100 else 0  # as many as were printed
                assert ours == pytest.approx(theirs, abs=0.51 * 10**-digits + 0.001 * theirs)


def test_the_table_is_reproduced_and_a_wrong_formula_would_not(monkeypatch):
    assert pictures.against_the_table().startswith("54 published values")
    assert pictures.against_the_table().endswith("by 0.3% at most")
    monkeypatch.setattr(pictures, "states", lambda parameters, n: [0, 1.0, 1.0, 1.0])
    assert not pictures.against_the_table().endswith("by 0.3% at most")


def test_states_on_a_rank_name_what_fits():
    said = drawn(pictures.on_a_rank(7.5, 64, 20))
    assert "ZeRO-1 31.4, ZeRO-2 16.6, ZeRO-3 1.88" in said
    assert "Below 20 GB: ZeRO-2, ZeRO-3." in said
    assert "The published values lie on the curves." in said
    other = drawn(pictures.on_a_rank(70, 1, 20))
    assert "Below 20 GB: none." in other
    assert "published" not in other


def test_padding_is_counted_by_rows_and_by_formula():
    said = drawn(pictures.padding([10, 6], {4: 20, 64: 160}))
    assert "16 needed" in said
    assert "1.25 on 4, 10.00 on 64" in said
    assert "Laid end to end: 8.00 at most." in said  # two units of 64


def test_the_overview_has_a_row_a_scheme():
    text = pictures.overview({"a": memory(parameters=1000), "b": memory(gathered=5)}, {"a": 2_000_000, "b": 0})
    assert "1 kB" in text
    assert "2 MB" in text
    assert "gathered" in text
