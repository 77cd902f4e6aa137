"""The rules that every notebook keeps (DESIGN, "A lesson" and "Notebooks as files"): each says what is wrong, where.

A rule is a function of a `Notebook` that yields complaints; `complaints` asks all of them.
"""

import re
import socket
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from utils.publish import BEGIN, END, ROOT, WIDGET_VIEW

TAGS = {"raises-exception", "nbval-ignore-output", "solution"}
MACHINE_PATH = re.compile(
    r"(?<![\w.])/(?:home|root|tmp|Users|work|opt|var|private|usr)/\w|\b[A-Z]:\\\\?\w|site-packages"
)
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$", re.MULTILINE)


@dataclass
class Notebook:
    """A notebook, where it lies, and its parts."""

    path: Path
    node: NotebookNode

    @property
    def is_lesson(self) -> bool:
        """Tell whether it is a lesson of full length: neither the start nor the practice, nor an exercise."""
        number, _, name = self.path.stem.partition("_")
        return self.path.parent.name == "notebooks" and number != "00" and name != "practice"

    @property
    def code(self) -> list[NotebookNode]:
        """Return the code cells that hold something."""
        return [cell for cell in self.node.cells if cell.cell_type == "code" and cell.source.strip()]

    @property
    def prose(self) -> list[NotebookNode]:
        """Return the text cells."""
        return [cell for cell in self.node.cells if cell.cell_type == "markdown"]

    def text(self) -> str:
        """Return the prose without the code that is quoted in it."""
        return FENCE.sub("", "\n\n".join(cell.source for cell in self.prose))


def load(path: Path) -> Notebook:
    """Read the notebook at `path`."""
    return Notebook(path, nbformat.read(path, as_version=4))


def complaints(notebook: Notebook) -> list[str]:
    """Return what every rule has to say about `notebook`."""
    return [f"{complaint}  ({rule.__name__})" for rule in RULES for complaint in rule(notebook)]


# ---------------------------------------------------------------------------------------------------------------------
# As a text


def code_cells_are_short(notebook: Notebook) -> Iterator[str]:
    """Half the code cells have at most 5 lines, nine in ten at most 15 (not where they hold answers), none over 25."""
    lengths = sorted(_lines(cell) for cell in notebook.code)
    if not lengths:
        return
    if statistics.median(lengths) > 5:
        yield f"half the code cells have more than {statistics.median(lengths):.0f} lines; at most 5 is the aim"
    long = lengths[min(len(lengths) - 1, int(0.9 * len(lengths)))]
    if long > 15 and notebook.path.parent.name != "solutions":
        yield f"one code cell in ten has {long} lines or more; at most 15 is the aim"
    yield from (
        f"code cell {cell.id} has {_lines(cell)} lines, more than 25" for cell in notebook.code if _lines(cell) > 25
    )


def _lines(cell: NotebookNode) -> int:
    return len([line for line in cell.source.splitlines() if line.strip() and line.strip() not in (BEGIN, END)])


def prose_stands_between_the_code(notebook: Notebook) -> Iterator[str]:
    """A notebook begins and ends with prose; at most two code cells stand in a row (three in an exercise)."""
    cells = notebook.node.cells
    most = 2 if notebook.path.parent.name == "notebooks" else 3
    for end, place in ((0, "begins"), (-1, "ends")):
        if not cells or cells[end].cell_type != "markdown":
            yield f"it {place} without prose"
    run = 0
    for cell in cells:
        run = run + 1 if cell.cell_type == "code" else 0
        if run == most + 1:
            yield f"code cell {cell.id} is number {run} in a row without a sentence between"


def a_lesson_has_a_lesson_s_length(notebook: Notebook) -> Iterator[str]:
    """A lesson has 25 to 60 cells and 1,200 to 2,800 words."""
    if notebook.is_lesson:
        cells, words = len(notebook.node.cells), sum(len(cell.source.split()) for cell in notebook.prose)
        if not 25 <= cells <= 60:
            yield f"{cells} cells; 25 to 60 is a lesson"
        if not 1200 <= words <= 2800:
            yield f"{words} words; 1,200 to 2,800 is a lesson"


def a_lesson_opens_as_every_lesson(notebook: Notebook) -> Iterator[str]:
    """A lesson's first cell asks a question and says in three bullets what you can do afterwards, and the minutes."""
    if not notebook.is_lesson:
        return
    opening = notebook.node.cells[0].source
    title = opening.strip().splitlines()[0]
    if not (title.startswith("# ") and title.endswith("?")):
        yield f"the title is not a question: {title}"
    if "After this lesson you can" not in opening:
        yield "the first cell does not say `After this lesson you can`"
    if (bullets := len(re.findall(r"^[-*] ", opening.partition("After this lesson you can")[2], re.MULTILINE))) != 3:
        yield f"the first cell has {bullets} bullets; three say what you can do after the lesson"
    if minutes(notebook) is None:
        yield "the first cell does not say how many minutes the lesson takes (`40 minutes`)"


def minutes(notebook: Notebook) -> int | None:
    """Return the minutes that the notebook's first cell states."""
    match = re.search(r"\b(\d+)\s+minutes\b", notebook.node.cells[0].source)
    return int(match[1]) if match else None


def the_first_code_cell_is_small(notebook: Notebook) -> Iterator[str]:
    """The first code cell has two or three lines and no path tricks."""
    if notebook.code and not 2 <= _lines(notebook.code[0]) <= 3:
        yield f"the first code cell has {_lines(notebook.code[0])} lines; two or three are enough"
    yield from (f"code cell {cell.id} changes sys.path" for cell in notebook.code if "sys.path" in cell.source)


def headings_are_in_order(notebook: Notebook) -> Iterator[str]:
    """There is one heading of the first level, and no level is jumped over."""
    levels = [(len(match[1]), match[2]) for match in HEADING.finditer(notebook.text())]
    if (tops := sum(level == 1 for level, _ in levels)) != 1 or levels[0][0] != 1:
        yield f"{tops} headings of the first level; there is one, and it is the first"
    for (before, _), (level, title) in zip(levels, levels[1:], strict=False):
        if level > before + 1:
            yield f"heading `{title}` jumps from level {before} to {level}"


def links_lead_somewhere(notebook: Notebook) -> Iterator[str]:
    """Links to files and headings resolve, say where they lead, and pictures have a description and are not remote."""
    for picture, label, target in LINK.findall(notebook.text()):
        if picture and not label.strip():
            yield f"picture {target} has no description"
        if picture and target.startswith("http"):
            yield f"picture {target} lies elsewhere: it will be gone one day"
        if not picture and label.strip().lower() in ("here", "this", "link", "click here", ""):
            yield f"link `{label}` to {target} does not say where it leads"
        if not re.match(r"\w+:", target):
            yield from _broken(notebook, target)


def _broken(notebook: Notebook, target: str) -> Iterator[str]:
    file, _, anchor = target.partition("#")
    path = (notebook.path.parent / file).resolve() if file else notebook.path.resolve()
    if file and not path.exists():
        yield f"link to {target}: there is no such file"
    elif anchor and path.suffix == ".ipynb":
        other = load(path) if file else notebook
        anchors = {title.replace(" ", "-") for _, title in HEADING.findall(other.text())}
        if anchor not in anchors:
            yield f"link to {target}: there is no such heading"


def lessons_go_by_their_name(notebook: Notebook) -> Iterator[str]:
    """Prose never calls a lesson by its number, since lessons are inserted; the file name alone carries it."""
    for match in re.finditer(r"\b(?:lesson|notebook|chapter)\s+(\d+)\b", notebook.text(), re.IGNORECASE):
        yield f"`{match[0]}`: a lesson goes by its name, numbers move"


# ---------------------------------------------------------------------------------------------------------------------
# As a file


def tags_are_known(notebook: Notebook) -> Iterator[str]:
    """A tag that nothing knows does nothing, silently; nbval's marks are tags and not comments."""
    for cell in notebook.node.cells:
        for tag in cell.metadata.get("tags", []):
            if tag not in TAGS:
                yield f"cell {cell.id} has the unknown tag {tag}"
        if "NBVAL_" in cell.source:
            yield f"cell {cell.id} marks itself in a comment; use a tag"


def errors_are_meant(notebook: Notebook) -> Iterator[str]:
    """An error stands in the outputs exactly where a cell is tagged raises-exception."""
    if notebook.path.parent.name == "exercises":
        return
    for cell in notebook.code:
        meant = "raises-exception" in cell.metadata.get("tags", [])
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed and not meant:
            yield f"code cell {cell.id} shows an error and is not tagged raises-exception"
        if meant and not failed:
            yield f"code cell {cell.id} is tagged raises-exception and shows no error"


def no_widgets_are_kept(notebook: Notebook) -> Iterator[str]:
    """Neither widget views nor their state are in the file: GitHub refuses some, and shows others dead."""
    if "widgets" in notebook.node.metadata:
        yield "metadata.widgets"
    for cell in notebook.code:
        if any(WIDGET_VIEW in output.get("data", {}) for output in cell.outputs):
            yield f"code cell {cell.id} has a widget view in its outputs"


def nothing_names_a_machine(notebook: Notebook) -> Iterator[str]:
    """No path and no name of the machine it ran on is in the file."""
    host = socket.gethostname()
    for cell in notebook.node.cells:
        text = cell.source + _shown(cell)
        if match := MACHINE_PATH.search(text):
            yield f"cell {cell.id} has a path of a machine: {text[max(0, match.start() - 20) : match.end() + 30]!r}"
        if len(host) > 3 and host in text:
            yield f"cell {cell.id} has the name of this machine"


def _shown(cell: NotebookNode) -> str:
    """Return the outputs of `cell` as text, pictures left out."""
    parts: list[str] = []
    for output in cell.get("outputs", []):
        parts += [str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
        parts += [output.get("text", ""), *output.get("traceback", [])]
    return "\n".join(parts)


def pictures_are_described(notebook: Notebook) -> Iterator[str]:
    """Every picture has its description in the metadata and as text in the same cell, for who cannot see it."""
    for cell in notebook.code:
        for output in cell.outputs:
            if any(kind.startswith("image/") for kind in output.get("data", {})):
                described = [m.get("alt", "") for m in output.metadata.values() if isinstance(m, dict)]
                if not any(described):
                    yield f"code cell {cell.id} shows a picture without description; figures.show gives it one"
                elif not any(_plain(text) in _plain(_shown(cell)) for text in described if text):
                    yield f"code cell {cell.id} does not show the description of its picture as text"


def _plain(text: str) -> str:
    return re.sub(r"\W+", "", text)


def the_file_is_small(notebook: Notebook) -> Iterator[str]:
    """Sources and outputs have at most 60 KB without pictures; JSON's own frame is not counted."""
    size = sum(len(cell.source) + len(_shown(cell)) for cell in notebook.node.cells)
    if size > 60 * 1024:
        yield f"{size / 1024:.0f} KB without pictures; at most 60"


def outputs_can_be_compared(notebook: Notebook) -> Iterator[str]:
    """No cell relies on a last semicolon: nbval's kernel shows the value all the same."""
    for cell in notebook.code:
        if cell.source.rstrip().endswith(";"):
            yield f"code cell {cell.id} ends in a semicolon, which nbval does not heed; end in a call without a value"


RULES: list[Callable[[Notebook], Iterator[str]]] = [
    code_cells_are_short,
    prose_stands_between_the_code,
    a_lesson_has_a_lesson_s_length,
    a_lesson_opens_as_every_lesson,
    the_first_code_cell_is_small,
    headings_are_in_order,
    links_lead_somewhere,
    lessons_go_by_their_name,
    tags_are_known,
    errors_are_meant,
    no_widgets_are_kept,
    nothing_names_a_machine,
    pictures_are_described,
    the_file_is_small,
    outputs_can_be_compared,
]

NOTEBOOKS = [
    path for folder in ("notebooks", "solutions", "exercises") for path in sorted((ROOT / folder).glob("*.ipynb"))
]
