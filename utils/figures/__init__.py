"""Put pictures on the page, so that everybody can read them.

`show(fig, description)` is the one way a picture reaches the page. It shows the picture on an opaque light ground (so
it reads in a dark theme too), gives it the description as its alternative text, and sets the description below as text,
because not every front end passes alternative text on.

    from utils import figures
    fig, ax = figures.new()                    # a figure in the course's style, not known to pyplot
    ax.plot(losses, label="one worker")
    figures.show(fig, "Loss by step: it falls from 4.6 to 2.8 in 60 steps.")

`slider(draw, ...)` redraws while a slider moves. `ledger(book)` draws a ledger. A lesson's own pictures are functions
in `utils/figures/<lesson>.py` that get data and return (figure, description).

Colours are Okabe and Ito's (safe for colour-blind readers); `colour(i)` and `pattern(i)` go together, so that colour
never carries a meaning alone.
"""
from __future__ import annotations

import base64
import html
import io
import sys
from typing import TYPE_CHECKING, Any

import matplotlib
from cycler import cycler

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from utils.ledger import Ledger

__all__ = ["COLOURS", "PATTERNS", "Picture", "colour", "ledger", "new", "pattern", "picture", "show", "slider"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
PATTERNS = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo", "---")
LINES = ("-", "--", "-.", ":")
DPI = 144  # sharp on screens of high density; shown at two thirds

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS[:6]) + cycler(linestyle=(LINES * 2)[:6]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "white",
}
matplotlib.rcParams.update(STYLE)


def colour(index: int) -> str:
    """Return the colour of the index-th thing (a rank, a kind of memory); the first eight differ."""
    return COLOURS[index % len(COLOURS)]


def pattern(index: int) -> str:
    """Return the hatch that goes with `colour(index)`."""
    return PATTERNS[index % len(PATTERNS)]


def new(
    rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 3.2, **options: Any
) -> tuple[Figure, Any]:
    """Make a figure and its axes, as `plt.subplots` does; sizes in inches. pyplot does not keep it."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns, **options)


class Picture:
    """A drawn picture with its description: shows itself as an image with alternative text."""

    def __init__(self, png: bytes, description: str, width: int, height: int) -> None:
        self.png, self.description, self.width, self.height = png, description, width, height

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": f"[picture] {self.description}"}
        return data, {"image/png": {"alt": self.description, "width": self.width, "height": self.height}}


class Description:
    """The description of a picture, as a paragraph."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": f"<p><small>{html.escape(self.text)}</small></p>", "text/plain": self.text}


def picture(fig: Figure, description: str) -> Picture:
    """Draw a figure to PNG. Raises ValueError if there is no description."""
    words = " ".join(description.split())
    if len(words) < 10:
        raise ValueError("figures.show needs a description: what the picture shows, for someone who cannot see it")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, stream = FigureCanvasAgg(fig), io.BytesIO()
    canvas.print_figure(stream, format="png", dpi=DPI, metadata={"Software": None})
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)  # or the notebook would show it a second time
    width, height = (round(inches * 96) for inches in fig.get_size_inches())
    return Picture(stream.getvalue(), words, width, height)


def show(fig: Figure, description: str) -> None:
    """Show a figure with its description as alternative text and as text below.

    The description says what can be seen, with its numbers, in one to four sentences.
    """
    from IPython.display import display

    drawn = picture(fig, description)
    display(drawn)
    display(Description(drawn.description))


def slider(draw: Callable[..., tuple[Figure, str]], **sliders: Any) -> None:
    """Show what `draw(**values)` returns (figure, description) and draw again whenever a slider moves.

    Each keyword is a slider: a range (`ranks=range(1, 9)`) or the values themselves (`batch=[8, 16, 32]`); a pair
    (values, first) starts at `first`. Without a kernel the first picture stays.
    """
    from IPython.display import display

    from utils.figures.explorer import explorer

    for part in explorer(draw, sliders):
        display(part)


def ledger(book: Ledger) -> None:
    """Draw a ledger: for every row what was predicted and what was counted, with the numbers in the description."""
    from utils.figures.ledger import draw

    show(*draw(book))
