"""Each rule of form complains about a notebook that breaks it, and about nothing in one that keeps them all."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks import shape
from tests.notebooks.shape import Notebook, complaints

OPENING = "# Can it be done?\n\n40 minutes.\n\nAfter this lesson you can:\n\n- do\n- re mi\n- fa\n"
PICTURE = {"image/png": "aGk=", "text/plain": "<Figure>"}


def lesson() -> Notebook:
    """Return a lesson that keeps every rule."""
    cells = [new_markdown_cell(OPENING)]
    for number in range(14):
        cells += [new_markdown_cell(f"## Part {number}\n\n" + "word " * 100), new_code_cell(f"x = {number}\nx")]
    cells.append(new_markdown_cell("You did it."))
    return Notebook(shape.ROOT / "notebooks/07_made.ipynb", new_notebook(cells=cells))


def code(notebook, **changes):
    """Change the first code cell."""
    for name, value in changes.items():
        setattr(notebook.code[0], name, value)


def say(text):
    """Return a change that adds `text` to the second cell's prose."""

    def change(notebook):
        notebook.node.cells[1].source += f"\n\n{text}"

    return change


def show(*outputs):
    """Return a change that gives the first code cell `outputs`."""
    return lambda notebook: code(notebook, outputs=list(outputs))


def picture(**metadata):
    """Return a picture as an output."""
    return new_output("display_data", data=dict(PICTURE), metadata={"image/png": metadata} if metadata else {})


def test_a_good_lesson_has_no_complaints():
    assert complaints(lesson()) == []


def test_a_described_picture_is_good():
    good = lesson()
    show(picture(alt="A line."), new_output("stream", text="A line.\n"))(good)
    assert complaints(good) == []


BROKEN = {
    "long cell": (lambda n: code(n, source="y = 1\n" * 26), "more than 25"),
    "long cells": (lambda n: [setattr(c, "source", "y = 1\n" * 8) for c in n.code], "half the code cells"),
    "a long tenth": (lambda n: [setattr(c, "source", "y = 1\n" * 16) for c in n.code[-2:]], "one code cell in ten"),
    "no prose first": (lambda n: n.node.cells.insert(0, new_code_cell("y = 1\ny")), "begins without prose"),
    "no prose last": (lambda n: n.node.cells.pop(), "ends without prose"),
    "code in a row": (lambda n: [n.node.cells.insert(2, new_code_cell("y = 1\ny")) for _ in range(2)], "in a row"),
    "few cells": (lambda n: n.node.cells.__delitem__(slice(3, 9)), "25 to 60 is a lesson"),
    "few words": (lambda n: [setattr(c, "source", "## One") for c in n.prose[1:-1]], "words; 1,200"),
    "no question": (lambda n: setattr(n.prose[0], "source", OPENING.replace("?", "")), "not a question"),
    "no promise": (lambda n: setattr(n.prose[0], "source", OPENING.replace("After", "With")), "After this lesson"),
    "two bullets": (lambda n: setattr(n.prose[0], "source", OPENING.replace("- fa", "")), "2 bullets"),
    "no minutes": (lambda n: setattr(n.prose[0], "source", OPENING.replace("minutes", "pages")), "how many minutes"),
    "large first cell": (lambda n: code(n, source="a = 1\nb = 1\nc = 1\nd = 1"), "two or three"),
    "path trick": (lambda n: code(n, source="import sys\nsys.path.append('..')"), "changes sys.path"),
    "two titles": (say("# Another"), "2 headings of the first level"),
    "jump": (say("#### Deep"), "jumps from level 2 to 4"),
    "dead link": (say("See [the plan](nowhere.ipynb)."), "no such file"),
    "dead anchor": (say("See [the part](#Nowhere)."), "no such heading"),
    "link called here": (say("Click [here](../README.md)."), "does not say where"),
    "picture without text": (say("![](../README.md)"), "no description"),
    "remote picture": (say("![A cat](https://example.org/cat.png)"), "gone one day"),
    "lesson by number": (say("As in lesson 03."), "goes by its name"),
    "unknown tag": (lambda n: n.code[0].metadata.update(tags=["NBVAL_SKIP"]), "unknown tag"),
    "comment mark": (lambda n: code(n, source="# NBVAL_SKIP\nx = 1"), "in a comment"),
    "error": (show(new_output("error", ename="E", evalue="e", traceback=[])), "not tagged"),
    "no error": (lambda n: n.code[0].metadata.update(tags=["raises-exception"]), "shows no error"),
    "widget state": (lambda n: n.node.metadata.update(widgets={}), "metadata.widgets"),
    "widget view": (show(new_output("display_data", data={shape.WIDGET_VIEW: {}, "text/plain": "w"})), "widget view"),
    "path": (show(new_output("stream", text="see /home/ada/x.py")), "path of a machine"),
    "windows path": (show(new_output("stream", text=r"see C:\Users\ada")), "path of a machine"),
    "machine": (lambda n: code(n, source=f"x = 1\n'{shape.socket.gethostname()}'"), "name of this machine"),
    "undescribed": (show(picture()), "without description"),
    "described in metadata only": (show(picture(alt="A line.")), "as text"),
    "large": (show(new_output("stream", text="words " * 11_000)), "at most 60"),
    "semicolon": (lambda n: code(n, source="x = 1\nx;"), "semicolon"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_named(name, monkeypatch):
    monkeypatch.setattr(shape.socket, "gethostname", lambda: "ada-laptop")
    change, complaint = BROKEN[name]
    notebook = lesson()
    change(notebook)
    assert any(complaint in said for said in complaints(notebook)), complaints(notebook)


def test_every_rule_is_tested(monkeypatch):
    monkeypatch.setattr(shape.socket, "gethostname", lambda: "ada-laptop")
    named = set()
    for change, _ in BROKEN.values():
        notebook = lesson()
        change(notebook)
        named |= {said.rpartition("  (")[2].rstrip(")") for said in complaints(notebook)}
    assert named == {rule.__name__ for rule in shape.RULES}
