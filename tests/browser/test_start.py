"""The start notebook in a real browser: what a learner does in the first five minutes."""

from playwright.sync_api import expect


def index_of(notebook, text):
    """Return the index of the one cell whose source has `text`."""
    (index,) = (i for i, source in enumerate(notebook.sources()) if text in source)
    return index


def test_all_cells_run_four_ranks_answer_and_a_slider_redraws(lab):
    notebook = lab.open("notebooks/00_start_here.ipynb")
    cells = notebook.cell_count()
    notebook.run_all()

    hello = notebook.cell(index_of(notebook, "I am rank"))
    for rank in range(4):
        expect(hello).to_contain_text(f"I am rank {rank} of 4")

    slider_cell = notebook.cell(index_of(notebook, "figures.slider("))
    slider = slider_cell.get_by_role("slider").first
    picture = slider_cell.locator("img").first
    before, description = picture.get_attribute("src"), slider_cell.inner_text()
    slider.focus()
    notebook.page.keyboard.press("ArrowRight")
    expect(picture).not_to_have_attribute("src", before, timeout=20_000)
    expect(slider).to_be_focused()
    assert slider_cell.inner_text() != description, "the picture's description follows it"

    assert notebook.cell_count() == cells, "no key of the slider reached JupyterLab"
    assert notebook.problems == []


def test_a_failing_rank_is_explained_and_the_next_cell_works(lab):
    notebook = lab.open("notebooks/00_start_here.ipynb")
    notebook.run_all()
    failed = notebook.outputs(index_of(notebook, "[10, 20][rank]"))
    said = str(failed)
    assert "rank 2" in said
    assert "IndexError" in said
    assert "all_reduce" in said
    notebook.set_source(index_of(notebook, "I am rank"), "%%ranks\nprint('alive on', rank, x.item())")
    notebook.run_cell(index_of(notebook, "alive on"))
    for rank in range(4):
        notebook.wait_for_text(f"alive on {rank}")
