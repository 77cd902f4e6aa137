"""The harness itself: what it reports must be true, or every browser test above it is worth nothing."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.browser import lab as harness


def made(*sources: str) -> nbformat.NotebookNode:
    """Return a notebook of code cells under a heading."""
    return new_notebook(cells=[new_markdown_cell("# Made"), *map(new_code_cell, sources)])


def test_cells_run_and_show_their_output(lab):
    notebook = lab.open(made("x = 'seen'", "print(x, 'by the browser')"))
    notebook.run_all()
    notebook.wait_for_text("seen by the browser")
    assert notebook.errors() == []
    assert notebook.cell_count() == 3


def test_a_failing_cell_is_reported(lab):
    notebook = lab.open(made("x = 1", "1/0", "print('never')"))
    with pytest.raises(AssertionError, match="cell 2: ZeroDivisionError"):
        notebook.run_all()


def test_a_cell_can_be_changed_and_run_alone(lab):
    notebook = lab.open(made("x = 1", "print('x is', x)"))
    notebook.run_all()
    notebook.set_source(1, "x = 2")
    notebook.run_cell(1)
    notebook.run_cell(2)
    notebook.wait_for_text("x is 2")


def test_progress_is_kept_where_the_tests_say_and_not_between_tests(lab):
    notebook = lab.open(made("import os, pathlib; print(sorted(pathlib.Path(os.environ['COURSE_HOME']).iterdir()))"))
    (lab.server.course_home / "left.jsonl").write_text("")
    notebook.run_all()
    notebook.wait_for_text(str(lab.server.course_home / "left.jsonl"))


def test_a_theme_does_not_outlive_its_test(lab):
    lab.open(made("1")).theme("dark")
    lab.close_all()
    assert lab.open(made("1")).page.locator("body").get_attribute("data-jp-theme-name") == "JupyterLab Light"


def test_dark_theme_and_pictures(lab, tmp_path):
    notebook = lab.open(made("print('a\\n' * 100)"))
    notebook.run_all()
    notebook.theme("dark")
    assert len(notebook.screenshots(tmp_path)) >= 3


def test_without_a_browser_it_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(harness.shutil, "which", lambda name: None)
    monkeypatch.setattr(harness, "CHROMIUM_PATHS", ())
    with pytest.raises(RuntimeError, match="apt-get install chromium"):
        harness.find_chromium()
