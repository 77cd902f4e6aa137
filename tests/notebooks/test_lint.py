"""Cells on the ranks are linted with the names that every rank has, and the complaint names the notebook's own cell."""

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.notebooks.lint import lint


def made(*sources):
    return new_notebook(cells=[new_markdown_cell("# Made"), *map(new_code_cell, sources)])


def test_names_of_the_ranks_are_known():
    assert lint(made("%%ranks\nx = torch.full((3,), float(rank))\ndist.all_reduce(x)\nx"), "made.ipynb") == ""


def test_names_go_from_cell_to_cell_and_come_by_scatter():
    cells = ("ranks.scatter('piece', [1, 2])", "%%ranks\nx = piece", "%%ranks 0,1\nx + world_size")
    assert lint(made(*cells), "made.ipynb") == ""


def test_names_that_the_kernel_assigns_there_are_known():
    assert lint(made("ranks.run('pieces = []; kind = 1')", "%%ranks\npieces, kind"), "made.ipynb") == ""


def test_an_unknown_name_is_found_in_its_cell():
    assert "made.ipynb:cell 4:2:5: F821" in lint(made("y = 1", "%%ranks\nx = 1", "%%ranks\nx = y"), "made.ipynb")


def test_a_syntax_error_is_found():
    assert "cell 2" in lint(made("%%ranks\nx = ="), "made.ipynb")
