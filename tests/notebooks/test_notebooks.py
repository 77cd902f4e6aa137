"""Every notebook of the course keeps the rules of its form, and none is stale. nbval executes and compares them."""

import pytest

from tests.notebooks.lint import lint
from tests.notebooks.shape import NOTEBOOKS, complaints, load, minutes
from utils import publish

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.name}")


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_it_keeps_the_rules(path):
    assert complaints(load(path)) == []


@each_notebook
def test_its_cells_on_the_ranks_are_clean(path):
    assert lint(publish.read(path), f"{path.parent.name}/{path.name}") == ""


def test_nothing_is_stale():
    assert publish.stale() == []


def test_every_exercise_has_its_lesson_and_its_solution():
    names = {
        folder: {path.name for path in NOTEBOOKS if path.parent.name == folder} for folder in ("solutions", "notebooks")
    }
    assert names["solutions"] <= names["notebooks"]


def test_the_map_in_the_start_notebook_is_that_of_the_lessons():
    start, *lessons = (load(path) for path in NOTEBOOKS if path.parent.name == "notebooks")
    text = start.text()
    rows = [f"]({lesson.path.name}) | {minutes(lesson)} |" for lesson in lessons]
    assert [row for row in rows if row not in text] == []
