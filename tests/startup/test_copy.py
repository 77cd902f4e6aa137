"""The learner's copy: outputs cleared, nothing of the learner's overwritten, the old one kept at a reset."""

import json
import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from utils import course
from utils.publish import PublishError


@pytest.fixture
def places(tmp_path):
    """Return a small course and the place of the copy."""
    published = tmp_path / "course"
    for folder in course.FOLDERS:
        (published / folder).mkdir(parents=True)
        put(published / folder / "03_data.ipynb", "Split the batch.", "1 + 1")
    put(published / "notebooks/00_start_here.ipynb", "Welcome.", "print('hello')")
    return published, tmp_path / "my_course"


def put(path, prose, code):
    """Write a notebook with one text and one executed code cell, ids as stable as in the course."""
    cells = [
        new_markdown_cell(prose, id="text"),
        new_code_cell(code, id="code", execution_count=1, outputs=[new_output("stream", text="shown\n")]),
    ]
    nbformat.write(new_notebook(cells=cells), path)


def edit(path, **changes):
    """Change the cells of the notebook at `path` by id, as a learner who saves."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.update(changes.get(cell.id, {}))
    nbformat.write(notebook, path)


def sources(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.ipynb"))


def test_the_first_copy_has_the_same_layout_and_no_outputs(places):
    published, copy = places
    assert course.update(published, copy) == ["4 notebooks are new in my_course/."]
    assert files(copy) == files(published)
    for path in copy.rglob("*.ipynb"):
        assert all(not cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells)


def test_a_second_time_changes_and_says_nothing(places):
    published, copy = places
    course.update(published, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.ipynb")}
    assert course.update(published, copy) == []
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.ipynb")} == before


def test_what_the_learner_wrote_stays_without_an_update(places):
    published, copy = places
    course.update(published, copy)
    edit(copy / "exercises/03_data.ipynb", code={"source": "my answer"})
    assert course.update(published, copy) == []
    assert sources(copy / "exercises/03_data.ipynb")[1] == "my answer"


def test_an_update_of_an_edited_notebook_is_put_beside_it_once(places):
    published, copy = places
    course.update(published, copy)
    mine = copy / "notebooks/03_data.ipynb"
    edit(mine, code={"source": "my answer"})
    put(published / "notebooks/03_data.ipynb", "Split the batch in four.", "1 + 1")
    (said,) = course.update(published, copy)
    assert said.startswith("notebooks/03_data.ipynb has your changes and stays as it is")
    assert "03_data.new.ipynb" in said
    assert sources(mine) == ["Split the batch.", "my answer"]
    assert sources(copy / "notebooks/03_data.new.ipynb") == ["Split the batch in four.", "1 + 1"]
    assert course.update(published, copy) == []

    put(published / "notebooks/03_data.ipynb", "Split the batch in five.", "1 + 1")
    course.update(published, copy)
    assert sources(copy / "notebooks/03_data.new.ipynb")[0] == "Split the batch in five."
    edit(copy / "notebooks/03_data.new.ipynb", code={"source": "merged by me"})
    put(published / "notebooks/03_data.ipynb", "Split the batch in six.", "1 + 1")
    course.update(published, copy)
    assert sources(copy / "notebooks/03_data.new.ipynb")[1] == "merged by me"
    assert sources(copy / "notebooks/03_data.new2.ipynb")[0] == "Split the batch in six."


def test_a_notebook_that_was_only_run_is_updated_and_keeps_what_it_showed(places):
    published, copy = places
    course.update(published, copy)
    mine = copy / "notebooks/03_data.ipynb"
    edit(mine, code={"outputs": [new_output("stream", text="2\n")], "execution_count": 7})
    put(published / "notebooks/03_data.ipynb", "Split the batch in four.", "1 + 1")
    assert course.update(published, copy) == ["notebooks/03_data.ipynb was brought up to date."]
    text, code = nbformat.read(mine, as_version=4).cells
    assert text.source == "Split the batch in four."
    assert (code.outputs[0].text, code.execution_count) == ("2\n", 7)


def test_a_changed_cell_does_not_keep_an_old_output(places):
    published, copy = places
    course.update(published, copy)
    edit(copy / "notebooks/03_data.ipynb", code={"outputs": [new_output("stream", text="2\n")]})
    put(published / "notebooks/03_data.ipynb", "Split the batch.", "2 + 2")
    course.update(published, copy)
    assert nbformat.read(copy / "notebooks/03_data.ipynb", as_version=4).cells[1].outputs == []


def test_a_deleted_notebook_comes_back(places):
    published, copy = places
    course.update(published, copy)
    (copy / "notebooks/03_data.ipynb").unlink()
    assert course.update(published, copy) == ["1 notebook is new in my_course/."]
    assert (copy / "notebooks/03_data.ipynb").exists()


def test_a_lesson_that_got_another_number_keeps_the_learner_s_work(places):
    published, copy = places
    course.update(published, copy)
    edit(copy / "notebooks/03_data.ipynb", code={"source": "my answer"})
    for folder in course.FOLDERS:
        os.rename(published / folder / "03_data.ipynb", published / folder / "04_data.ipynb")
        put(published / folder / "03_inserted.ipynb", "New.", "3")
    said = course.update(published, copy)
    assert "notebooks/03_data.ipynb is now notebooks/04_data.ipynb." in said
    assert sources(copy / "notebooks/04_data.ipynb")[1] == "my answer"
    assert files(copy) == files(published)
    assert course.update(published, copy) == []


def test_a_lesson_that_left_the_course_stays_with_the_learner(places):
    published, copy = places
    course.update(published, copy)
    (published / "notebooks/03_data.ipynb").unlink()
    assert course.update(published, copy) == [
        "notebooks/03_data.ipynb is no longer part of the course; your copy stays."
    ]
    assert course.update(published, copy) == []
    assert (copy / "notebooks/03_data.ipynb").exists()


@pytest.mark.parametrize("damage", ["", "{", '"text"', '{"notebooks/03_data.ipynb": 3}'])
def test_a_damaged_record_loses_nothing(places, damage):
    published, copy = places
    course.update(published, copy)
    edit(copy / "notebooks/03_data.ipynb", code={"source": "my answer"})
    (copy / course.RECORD).write_text(damage)
    put(published / "notebooks/03_data.ipynb", "Split the batch in four.", "1 + 1")
    (said,) = course.update(published, copy)
    assert "has your changes" in said
    assert sources(copy / "notebooks/03_data.ipynb")[1] == "my answer"
    assert course.update(published, copy) == []


def test_a_damaged_notebook_of_the_learner_stays(places):
    published, copy = places
    course.update(published, copy)
    (copy / "notebooks/03_data.ipynb").write_text('{"cells": [ half of it')
    put(published / "notebooks/03_data.ipynb", "Split the batch in four.", "1 + 1")
    (said,) = course.update(published, copy)
    assert "stays as it is" in said
    assert (copy / "notebooks/03_data.ipynb").read_text() == '{"cells": [ half of it'


def test_reset_keeps_the_old_one_beside_the_new(places):
    published, copy = places
    course.update(published, copy)
    mine = copy / "notebooks/03_data.ipynb"
    for number, answer in enumerate(("first", "second"), start=1):
        edit(mine, code={"source": answer})
        said = course.reset("notebooks/03_data", published, copy)
        assert f"kept as my_course/notebooks/03_data.old{'' if number == 1 else 2}.ipynb" in said
        assert sources(mine)[1] == "1 + 1"
    assert sources(copy / "notebooks/03_data.old.ipynb")[1] == "first"
    assert sources(copy / "notebooks/03_data.old2.ipynb")[1] == "second"
    assert course.update(published, copy) == []


@pytest.mark.parametrize(
    "name", ["my_course/notebooks/03_data.ipynb", "./notebooks/03_data.ipynb", "notebooks/03", "00_start"]
)
def test_reset_finds_a_notebook_by_what_people_type(places, name):
    published, copy = places
    assert "is as new" in course.reset(name, published, copy)


def test_reset_of_a_name_that_fits_several_or_none_lists_them(places):
    published, copy = places
    course.update(published, copy)
    with pytest.raises(PublishError, match="fits several of the notebooks: notebooks/03_data.ipynb, exercises/03_data"):
        course.reset("03_data", published, copy)
    with pytest.raises(PublishError, match="fits none of the notebooks: notebooks/00_start_here.ipynb"):
        course.reset("07_nothing", published, copy)
    assert files(copy) == files(published)


def test_a_full_disk_loses_nothing(places, monkeypatch):
    published, copy = places
    course.update(published, copy)
    put(published / "notebooks/03_data.ipynb", "Split the batch in four.", "1 + 1")
    before = (copy / "notebooks/03_data.ipynb").read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("utils.publish.os.replace", full)
        with pytest.raises(OSError, match="No space"):
            course.update(published, copy)
    assert (copy / "notebooks/03_data.ipynb").read_bytes() == before
    assert course.update(published, copy) == ["notebooks/03_data.ipynb was brought up to date."]


def test_clear_works_in_place(places):
    published, _ = places
    course.clear(published)
    assert '"shown' not in (published / "notebooks/03_data.ipynb").read_text()


def test_the_record_is_plain(places):
    published, copy = places
    course.update(published, copy)
    assert sorted(json.loads((copy / course.RECORD).read_text())) == files(published)
