"""A small table of text and numbers, for a lesson: columns under heads, and a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from utils.ledger import _book


class Table:
    """Rows under named columns, laid out as the ledger is. Shows itself as HTML and as aligned text.

    Whole numbers get separators, others three significant digits; very large and very small ones a power of ten.
    Raises ValueError if a row has another length than the heads.
    """

    def __init__(self, heads: Sequence[str], rows: Sequence[Sequence[Any]], caption: str) -> None:
        for index, row in enumerate(rows):
            if len(row) != len(heads):
                raise ValueError(f"row {index} has {len(row)} cells; the table has {len(heads)} columns")
        self._bundle = _book.table(heads, [[_text(value) for value in row] for row in rows], caption)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self._bundle


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
