"""The book: rows of what was predicted and what was counted."""
from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Number = float | int
Value = Number | Sequence[Number]


def amount(value: Number, unit: str = "bytes") -> str:
    """Write a number with its unit: 1,237,504 bytes as "1.24 MB" (of 10**6), counts whole, others to 4 digits."""
    if unit == "bytes":
        for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if abs(value) >= size * 0.9995:  # what rounds up to a whole unit is written in that unit
                return f"{value / size:.3g} {name}" if abs(value) < 999.5 * size else f"{value / size:,.0f} {name}"
        return f"{value:.0f} B"
    number = f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
    return f"{number} {unit}".rstrip()


def _values(value: Value | None, unit: str) -> str:
    """Write a value, or values by rank: equal ones once."""
    if value is None:
        return "not counted"
    if not isinstance(value, Sequence):
        return amount(value, unit)
    texts = [amount(v, unit) for v in value]
    return f"{texts[0]} on each rank" if len(set(texts)) == 1 else ", ".join(texts)


def each(value: Value) -> float:
    """Give what one rank has: a number as it is, of numbers by rank their mean."""
    return sum(value) / len(value) if isinstance(value, Sequence) else float(value)


@dataclass(frozen=True)
class Row:
    """One line of the ledger. Values are a number (what one rank has), or numbers by rank.

    `counted` is None where nothing can count it.
    """

    name: str
    formula: str
    predicted: Value
    counted: Value | None
    unit: str = "bytes"

    @property
    def ratio(self) -> float | None:
        """Give counted / predicted (a rank's mean), or None where that means nothing."""
        if self.counted is None or not each(self.predicted):
            return None
        return each(self.counted) / each(self.predicted)

    def texts(self) -> tuple[str, str, str, str, str]:
        """Give the five fields as text."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3f}"
        return self.name, self.formula, _values(self.predicted, self.unit), _values(self.counted, self.unit), ratio

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return table(HEAD, [self.texts()])

    def __repr__(self) -> str:
        return table(HEAD, [self.texts()])["text/plain"]


HEAD = ("row", "formula", "predicted", "counted", "counted / predicted")


class Ledger:
    """A table of predictions and counts. Writing a row of the same name again replaces it."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self._rows: dict[str, Row] = {}

    def row(self, name: str, formula: str, predicted: Value, counted: Value | None, unit: str = "bytes") -> Row:
        """Write a row and return it. unit: "bytes" (scaled), or any other word (calls, sequences, ...)."""
        row = Row(name, formula, predicted, counted, unit)
        self._rows[name] = row
        return row

    @property
    def rows(self) -> list[Row]:
        """Give the rows in the order in which they were first written."""
        return list(self._rows.values())

    def __getitem__(self, name: str) -> Row:
        return self._rows[name]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self._rows)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return table(HEAD, [row.texts() for row in self], self.title)

    def __repr__(self) -> str:
        return table(HEAD, [row.texts() for row in self], self.title)["text/plain"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> dict[str, str]:
    """Lay out a table as HTML and as aligned text; columns of numbers go to the right."""
    right = [bool(rows) and all(not r[i] or r[i][0] in "0123456789-" for r in rows) for i in range(len(head))]
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(f"{cell:>{w}}" if r else f"{cell:<{w}}" for cell, w, r in zip(line, widths, right, strict=True))
        for line in (head, *rows)
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))

    def cells(tag: str, line: Sequence[str]) -> str:
        opened = f'{tag} scope="col"' if tag == "th" else tag
        sides = ["right" if r else "left" for r in right]
        return "".join(
            f'<{opened} style="text-align: {side}">{html.escape(cell, quote=False)}</{tag}>'
            for cell, side in zip(line, sides, strict=True)
        )

    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    page = f"<table>{caption}<thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"
    text = "\n".join(line.rstrip() for line in ([title] if title else []) + lines)
    return {"text/html": page, "text/plain": text}
