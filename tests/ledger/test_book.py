"""Rows, units, tables."""
import pytest

from utils import figures, ledger


@pytest.mark.parametrize(("value", "unit", "words"), [
    (0, "bytes", "0 B"), (999, "bytes", "999 B"), (1_237_504, "bytes", "1.24 MB"), (999_900, "bytes", "1 MB"),
    (123_456_789, "bytes", "123 MB"), (4_003_999_744, "bytes", "4 GB"), (12_000, "calls", "12,000 calls"),
    (0.66667, "", "0.6667"), (-2048, "bytes", "-2.05 kB"),
])
def test_amounts(value, unit, words):
    assert ledger.amount(value, unit) == words


def book():
    rows = ledger.Ledger("One step")
    rows.row("all-reduce <wire>", "2(N-1)/N x payload", 6_000_000, [6_001_728] * 4)
    rows.row("messages", "tensors", 30, [30, 30], unit="calls")
    rows.row("wire", "none", 12, None)
    return rows


def test_a_table_for_page_and_terminal():
    page = book()._repr_mimebundle_()
    assert "&lt;wire&gt;" in page["text/html"]
    assert '<th scope="col"' in page["text/html"]
    lines = page["text/plain"].splitlines()
    assert lines[0] == "One step"
    assert "6 MB on each rank" in lines[3]
    assert "1.000" in lines[3]
    assert "not counted" in lines[5]
    assert repr(book()) == page["text/plain"]


def test_the_same_name_replaces_its_row():
    rows = book()
    rows.row("wire", "new", 3, 4)
    assert [row.name for row in rows] == ["all-reduce <wire>", "messages", "wire"]
    assert rows["wire"].ratio == pytest.approx(4 / 3)
    assert len(rows) == 3


def test_a_row_shows_itself():
    row = ledger.Ledger().row("calls", "tensors", 2, 2, unit="calls")
    assert row.ratio == 1.0
    assert "2 calls" in repr(row)
    assert ledger.Ledger().row("nothing", "0", 0, 0).ratio is None


def test_the_picture_says_every_number():
    from utils.figures.ledger import draw

    fig, words = draw(book())
    assert len(fig.axes) == 2
    for part in ("all-reduce <wire>", "predicted 6 MB", "counted 6 MB on each rank", "30 calls", "not counted"):
        assert part in words
    figures.picture(fig, words)
    with pytest.raises(ValueError, match="no rows"):
        draw(ledger.Ledger())
