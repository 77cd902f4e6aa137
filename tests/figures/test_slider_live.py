"""A slider in a real JupyterLab: keyboard, redrawing, names, and what is shown without the static paragraph."""
import nbformat.v4 as v4
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.lab import Lab

CODE = """
from utils import figures

def draw(ranks, batch):
    fig, ax = figures.new()
    ax.bar(range(ranks), [batch / ranks] * ranks)
    return fig, f"{ranks} bars of height {batch / ranks:g}: the share of each rank."

figures.slider(draw, ranks=(range(1, 9), 4), batch=[8, 16])
"""


def test_arrow_keys_redraw_and_stay_in_the_slider(lab: Lab) -> None:
    notebook = lab.open(v4.new_notebook(cells=[v4.new_code_cell(CODE), v4.new_markdown_cell("x")]))
    notebook.run_all()
    box = notebook.panel.locator(".explorer")
    image, words = box.locator("img"), box.get_by_role("status")
    expect(words).to_have_text("4 bars of height 2: the share of each rank.")
    expect(notebook.panel.locator(".explorer-start")).to_be_hidden()
    first = image.get_attribute("src")

    slider = box.get_by_role("slider", name="ranks")
    slider.focus()
    for key in ("ArrowRight", "ArrowRight", "b", "x", "ArrowLeft", "ArrowLeft", "ArrowLeft"):
        notebook.page.keyboard.press(key)
    expect(words).to_have_text("3 bars of height 2.66667: the share of each rank.")
    expect(image).to_have_attribute("alt", "3 bars of height 2.66667: the share of each rank.")
    assert image.get_attribute("src") != first
    expect(slider).to_be_focused()
    expect(slider).to_have_attribute("aria-valuetext", "3")
    assert notebook.cell_count() == 2

    box.get_by_role("slider", name="batch").focus()
    notebook.page.keyboard.press("End")
    expect(words).to_have_text("3 bars of height 5.33333: the share of each rank.")
    assert image.evaluate("i => i.complete && i.naturalWidth > 0")
    assert notebook.problems == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_accessibility_rule_is_broken(lab: Lab, theme: str) -> None:
    notebook = lab.open(v4.new_notebook(cells=[v4.new_code_cell(CODE)]))
    notebook.theme(theme)
    notebook.run_all()
    expect(notebook.panel.locator(".explorer img")).to_be_visible()
    found = Axe().run(notebook.page, context=".explorer").response["violations"]
    assert [rule["id"] for rule in found] == []
