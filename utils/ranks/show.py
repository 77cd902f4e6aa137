"""Outputs of a cell, by rank, once, equal ones folded; and the line that says a long cell still runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.ranks.explain import folded, names


def show(outputs: Mapping[int, list[Any]]) -> None:
    """Print and display what the ranks printed and showed: pieces of text, and (data, metadata) of rich values."""
    merged = {r: _merged(pieces) for r, pieces in outputs.items()}
    for ranks, packed in folded({r: json.dumps(p, default=repr) for r, p in merged.items() if p}):
        who, pieces = names(ranks), json.loads(packed)
        if len(pieces) == 1 and isinstance(pieces[0], str):
            text = pieces[0].rstrip("\n")
            print(f"{who}:\n{text}" if "\n" in text else f"{who}: {text}")
            continue
        print(f"{who}:")
        for piece in pieces:
            if isinstance(piece, str):
                print(piece, end="" if piece.endswith("\n") else "\n")
            elif _shell() is None:
                print(piece[0].get("text/plain", f"({', '.join(piece[0])})"))
            else:
                from IPython.display import display

                sys.stdout.flush()
                display(piece[0], metadata=piece[1], raw=True)


def _shell() -> Any:
    """Return the IPython shell this runs in, or None in a plain script."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _merged(pieces: list[Any]) -> list[Any]:
    """Return the pieces with neighbouring texts joined and empty ones dropped."""
    out: list[Any] = []
    for piece in pieces:
        if isinstance(piece, str) and out and isinstance(out[-1], str):
            out[-1] += piece
        elif piece:
            out.append(piece)
    return out


def spooled(path: Path | None) -> list[Any]:
    """Return what a rank had printed before it was killed, where that can be read."""
    if path is None:
        return []
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return [text] if text else []


class Progress:
    """A line under a cell that runs for more than two seconds; it goes when the cell ends, and leaves no output.

    Only where somebody looks on: a notebook that is executed by a program gets none.
    """

    AFTER = 2.0

    def __init__(self, last_line: Callable[[int], str]):
        self.last_line, self.handle, self.shown = last_line, None, -1

    @classmethod
    def here(cls, last_line: Callable[[int], str]) -> Progress | None:
        """Return one if this is a cell of a notebook open in a browser."""
        kernel = getattr(_shell(), "kernel", None)
        try:
            parent = kernel.get_parent("shell") if kernel else {}
        except Exception:
            return None
        # JupyterLab says which cell it runs; programs that execute notebooks do not.
        return cls(last_line) if (parent or {}).get("metadata", {}).get("cellId") else None

    def tick(self, seconds: float, waiting: list[int], answers: Mapping[int, Any]) -> None:
        """Show how long it has been, on which ranks, and what was printed last."""
        if seconds < self.AFTER or int(seconds) == self.shown:
            return
        from IPython.display import display

        self.shown = int(seconds)
        said = self.last_line(waiting[0])
        text = f"{names(waiting)}: running for {self.shown} s" + (f"; printed last: {said}" if said else "")
        if self.handle is None:
            self.handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self.handle.update({"text/plain": text}, raw=True)

    def end(self) -> None:
        """Take the line away."""
        if self.handle is not None:
            from IPython.display import clear_output

            clear_output()
