"""A picture that is drawn again when a slider moves, and stays as it was first drawn where there is no kernel."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from utils.figures import Picture, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
Draw = Callable[..., "tuple[Figure, str]"]


class Explorer(anywidget.AnyWidget):
    """Sliders above a picture. `indices` is where each stands; `answer` counts the pictures sent."""

    _esm = (HERE / "explorer.js").read_text("utf-8")
    _css = (HERE / "explorer.css").read_text("utf-8")
    controls: traitlets.List[Any] = traitlets.List().tag(sync=True)
    indices: traitlets.List[int] = traitlets.List().tag(sync=True)
    png = traitlets.Bytes().tag(sync=True)
    width = traitlets.Int().tag(sync=True)
    description = traitlets.Unicode().tag(sync=True)
    answer = traitlets.Int().tag(sync=True)

    def __init__(self, draw: Draw, names: Sequence[str], values: Sequence[Sequence[Any]], first: Sequence[int]) -> None:
        self.draw, self.names, self.values = draw, list(names), [list(v) for v in values]
        controls = [{"label": name.replace("_", " "), "values": [_text(v) for v in options], "index": index}
                    for name, options, index in zip(names, self.values, first, strict=True)]
        drawn = self.first = picture(*draw(**self._chosen(first)))
        super().__init__(controls=controls, indices=list(first), png=drawn.png, width=drawn.width,
                         description=drawn.description)
        self.observe(self._moved, "indices")

    def _chosen(self, indices: Sequence[int]) -> dict[str, Any]:
        return {name: options[i] for name, options, i in zip(self.names, self.values, indices, strict=True)}

    def _moved(self, change: Any) -> None:
        """Draw for the new values. An error becomes the text: a callback's traceback would be seen by nobody."""
        try:
            drawn = picture(*self.draw(**self._chosen(change["new"])))
        except Exception as error:
            words = f"This picture could not be drawn: {type(error).__name__}: {error}"
            drawn = Picture(self.png, words, self.width, 0)
        with self.hold_sync():
            self.png, self.width, self.description = drawn.png, drawn.width, drawn.description
            self.answer += 1

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Offer the live view, and the first picture for readers without a kernel."""
        live = super()._repr_mimebundle_(**options)
        data, metadata = self.first._repr_mimebundle_()
        views = live[0] if isinstance(live, tuple) else live or {}
        return data | {kind: v for kind, v in views.items() if kind != "text/plain"}, metadata


class Start:
    """The description of the first picture, for readers without a kernel."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        import html

        page = f'<p class="explorer-start"><small>{html.escape(self.text)}</small></p>'
        return {"text/html": page, "text/plain": self.text}


def explorer(draw: Draw, sliders: dict[str, Any]) -> tuple[Explorer, Start]:
    """Make the widget and its static description. Raises ValueError for sliders that make no sense."""
    if not sliders:
        raise ValueError("figures.slider needs at least one slider, such as ranks=range(1, 9)")
    values, first = [], []
    for name, given in sliders.items():
        pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], (range, list, tuple))
        options, start = given if pair else (given, None)
        options = list(options)
        if len(options) < 2:
            raise ValueError(f"the slider {name!r} needs at least two values, it has {len(options)}")
        if start is not None and start not in options:
            raise ValueError(f"the slider {name!r} starts at {start!r}, which is not one of its values")
        values.append(options)
        first.append(0 if start is None else options.index(start))
    widget = Explorer(draw, list(sliders), values, first)
    chosen = ", ".join(f"{c['label']} {c['values'][c['index']]}" for c in widget.controls)
    return widget, Start(f"With {chosen}: {widget.first.description}")


def _text(value: Any) -> str:
    """Write a value as the reader sees it beside its slider."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
