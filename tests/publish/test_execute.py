"""Executing: in order, in the notebook's folder, with no progress; clean and stable; and nothing written on failure."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from utils import publish


@pytest.fixture
def made(tmp_path):
    """Return a function that writes a notebook of code cells and returns its path."""

    def make(*sources, tags=()):
        cells = [new_markdown_cell("# Made"), *map(new_code_cell, sources)]
        cells[-1].metadata["tags"] = list(tags)
        path = tmp_path / "01_made.ipynb"
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return make


def texts(notebook):
    """Return what each code cell printed."""
    return ["".join(o.get("text", "") for o in c.outputs) for c in notebook.cells if c.cell_type == "code"]


def test_it_runs_in_order_in_its_own_folder_without_progress(made):
    where = "import os, pathlib; print(pathlib.Path.cwd().name, pathlib.Path(os.environ['COURSE_HOME']).exists())"
    path = made("x = 1", "print(x + 1)", where)
    notebook = publish.execute(path)
    assert texts(notebook) == ["", "2\n", f"{path.parent.name} False\n"]
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2, 3]


def test_twice_gives_the_same_file(made):
    path = made("print('a')\nprint('b')", "import sys; print('c', file=sys.stderr); 1 + 1")
    assert publish.write(publish.execute(path), path)
    before = path.read_bytes()
    assert not publish.write(publish.execute(path), path)
    assert path.read_bytes() == before
    assert before.endswith(b"}\n")


def test_widgets_leave_their_text_and_what_they_show(made):
    show = "from ipywidgets import Output, IntSlider\nfrom IPython.display import display\nout = Output()\n"
    notebook = publish.execute(made(show + "display(IntSlider(3), out)\nwith out: print('inside')"))
    outputs = notebook.cells[1].outputs
    assert all(publish.WIDGET_VIEW not in o.get("data", {}) for o in outputs)
    assert "IntSlider(value=3)" in str(outputs)
    assert "inside" in str(outputs)
    assert "widgets" not in notebook.metadata


def test_a_failing_cell_is_named_and_nothing_is_written(made, capsys):
    path = made("x = 1", "x / 0", "print('never')")
    before = path.read_bytes()
    assert publish.main(["execute", str(path)]) == 1
    said = capsys.readouterr().err
    assert "code cell 2" in said
    assert "ZeroDivisionError: division by zero" in said
    assert "x / 0" in said
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_cell_that_takes_too_long_is_named(made):
    with pytest.raises(publish.PublishError, match="code cell 2"):
        publish.execute(made("x = 1", "import time; time.sleep(60)"), timeout=2)


def test_a_kernel_that_dies_is_reported(made):
    with pytest.raises(publish.PublishError, match="code cell 1"):
        publish.execute(made("import os; os._exit(1)"))


def test_an_error_on_purpose_is_kept_without_paths(made):
    notebook = publish.execute(made("import json; json.loads('{')", tags=["raises-exception"]))
    (output,) = notebook.cells[1].outputs
    assert output.ename == "JSONDecodeError"
    assert str(publish.ROOT) not in "".join(output.traceback)


def test_an_error_on_purpose_that_does_not_come_is_a_mistake(made):
    with pytest.raises(publish.PublishError, match="raised nothing"):
        publish.execute(made("x = 1", tags=["raises-exception"]))


def test_a_full_disk_leaves_the_old_file(made, monkeypatch):
    path = made("x = 1")
    before = path.read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(publish.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        publish.write(publish.execute(path), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_clean_keeps_ids_tags_and_descriptions_and_drops_the_rest(made):
    path = made("print(1)", tags=["nbval-ignore-output"])
    notebook = publish.execute(path)
    ids = [cell.id for cell in notebook.cells]
    notebook.metadata["widgets"] = {"state": {}}
    notebook.cells[1].metadata.update(collapsed=True, execution={"iopub.status.busy": "now"})
    notebook.cells[1].outputs[0] = nbformat.v4.new_output(
        "display_data", {"image/png": "aGk=", publish.WIDGET_VIEW: {}}, metadata={"image/png": {"alt": "A line."}}
    )
    publish.clean(notebook)
    assert [cell.id for cell in notebook.cells] == ids
    assert notebook.cells[1].metadata == {"tags": ["nbval-ignore-output"]}
    assert notebook.cells[1].outputs[0].metadata == {"image/png": {"alt": "A line."}}
    assert set(notebook.cells[1].outputs[0].data) == {"image/png"}
    assert notebook.metadata == publish.NOTEBOOK_METADATA


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 3}'])
def test_a_damaged_file_is_named(tmp_path, text, capsys):
    path = tmp_path / "01_damaged.ipynb"
    path.write_text(text)
    assert publish.main(["execute", str(path)]) == 1
    assert "01_damaged.ipynb: not a notebook" in capsys.readouterr().err
    assert path.read_text() == text


def test_a_missing_file_is_named(capsys):
    assert publish.main(["execute", "nowhere.ipynb"]) == 1
    assert "nowhere.ipynb: no such notebook" in capsys.readouterr().err
