"""Exercises: the marked regions go, the stub answers "not attempted", the solution stays in a fold, ids stay."""

import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from utils import publish

SOLUTION = '''%%ranks
def broadcast_tree(x):
    """Send `x` from rank 0 to all."""
    steps = 2
    ### BEGIN SOLUTION
    for step in range(steps):
        x = step
    return x
    ### END SOLUTION'''


def solution(*cells):
    return new_notebook(cells=[new_markdown_cell("# Made"), *cells])


def discussion(text="Why it works."):
    return new_markdown_cell(text, metadata={"tags": ["solution"]})


def test_the_region_becomes_a_stub_that_raises_with_the_function_s_name():
    exercise = publish.exercise_of(solution(new_code_cell(SOLUTION), discussion()))
    assert exercise.cells[1].source == (
        '%%ranks\ndef broadcast_tree(x):\n    """Send `x` from rank 0 to all."""\n    steps = 2\n'
        '    # Your code here, in place of the next line.\n    raise NotImplementedError("broadcast_tree")'
    )


def test_a_method_is_named_after_itself():
    source = "class Trainer:\n    def step(self):\n        ### BEGIN SOLUTION\n        pass\n        ### END SOLUTION"
    exercise = publish.exercise_of(solution(new_code_cell(source), discussion()))
    assert exercise.cells[1].source.endswith('        raise NotImplementedError("step")')


def test_the_solution_stands_in_a_fold_with_its_discussion():
    folded = publish.exercise_of(solution(new_code_cell(SOLUTION), discussion())).cells[2].source
    assert folded.startswith("<details><summary>Solution and discussion</summary>\n\n```python\n%%ranks\n")
    assert "x = step\n    return x\n```" in folded
    assert folded.endswith("Why it works.\n\n</details>")
    assert "SOLUTION" not in folded


def test_each_fold_holds_its_own_solution():
    other = SOLUTION.replace("broadcast_tree", "ring")
    cells = publish.exercise_of(
        solution(new_code_cell(SOLUTION), discussion(), new_code_cell(other), discussion("And why."))
    ).cells
    assert "broadcast_tree" in cells[2].source
    assert "ring" not in cells[2].source
    assert "broadcast_tree" not in cells[4].source


def test_outputs_go_and_ids_stay():
    cell = new_code_cell("1 + 1", execution_count=3, outputs=[new_output("stream", text="2")])
    made = solution(cell)
    exercise = publish.exercise_of(made)
    assert (exercise.cells[1].outputs, exercise.cells[1].execution_count) == ([], None)
    assert [c.id for c in exercise.cells] == [c.id for c in made.cells]
    assert made.cells[1].outputs, "the solution itself is not changed"


def test_a_code_cell_tagged_solution_is_not_in_the_exercise():
    hidden = new_code_cell("check.solution()", metadata={"tags": ["solution"]})
    assert "check.solution" not in str(publish.exercise_of(solution(hidden)))


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def f():\n    ### BEGIN SOLUTION\n    pass", "BEGIN SOLUTION` without its partner"),
        ("def f():\n    pass\n    ### END SOLUTION", "END SOLUTION` without its partner"),
        ("def f():\n    ### BEGIN SOLUTION\n    ### BEGIN SOLUTION\n    ### END SOLUTION", "without its partner"),
        ("### BEGIN SOLUTION\nx = 1\n### END SOLUTION", "inside a function"),
    ],
)
def test_broken_markers_are_named(source, complaint):
    cell = new_code_cell(source)
    with pytest.raises(publish.PublishError, match=complaint) as raised:
        publish.exercise_of(solution(cell, discussion()), "solutions/01_made.ipynb")
    assert f"solutions/01_made.ipynb, cell {cell.id}" in str(raised.value)


def test_a_solution_without_discussion_is_a_mistake():
    with pytest.raises(publish.PublishError, match="no discussion"):
        publish.exercise_of(solution(new_code_cell(SOLUTION)))


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Make an empty course the one that publish works on, and the working folder."""
    for folder in ("notebooks", "exercises", "solutions"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_stale_says_what_to_run(course, capsys):
    made = publish.clean(solution(new_code_cell(SOLUTION.replace("%%ranks\n", "")), discussion()))
    publish.write(made, course / "solutions/01_made.ipynb")
    assert publish.main(["check"]) == 1
    said = capsys.readouterr().out
    assert "solutions/01_made.ipynb: not executed in order; run python -m utils.publish execute" in said
    assert "exercises/01_made.ipynb: not what its solution makes" in said

    assert publish.main(["execute"]) == 0
    assert publish.main(["exercises"]) == 0
    assert publish.main(["check"]) == 0

    exercise = course / "exercises/01_made.ipynb"
    exercise.write_text(exercise.read_text().replace("Your code", "My code"))
    assert publish.stale() == [
        "exercises/01_made.ipynb: not what its solution makes; "
        "run python -m utils.publish exercises solutions/01_made.ipynb"
    ]


def test_stale_finds_a_lesson_with_traces_of_an_editor_and_an_orphan(course):
    lesson = publish.clean(solution(new_code_cell("1", execution_count=1)))
    lesson.metadata["jupytext"] = {"formats": "ipynb,py"}
    nbformat.write(lesson, course / "notebooks/01_made.ipynb")
    publish.write(solution(), course / "exercises/02_gone.ipynb")
    assert [line.partition(";")[0] for line in publish.stale()] == [
        "notebooks/01_made.ipynb: not in its clean form",
        "exercises/02_gone.ipynb: has no solution",
    ]


def test_stale_names_a_solution_that_makes_no_exercise_and_goes_on(course):
    publish.write(
        publish.clean(solution(new_code_cell(SOLUTION, execution_count=1))), course / "solutions/01_made.ipynb"
    )
    publish.write(solution(), course / "exercises/02_gone.ipynb")
    first, second = publish.stale()
    assert "solutions/01_made.ipynb: a solution has no discussion" in first
    assert "exercises/02_gone.ipynb" in second


def test_importing_the_package_loads_nothing():
    code = "import sys, utils; print([m for m in sys.modules if m.startswith(('utils.', 'torch', 'nbformat'))])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
