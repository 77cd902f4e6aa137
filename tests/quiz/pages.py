"""A notebook of quiz cells in JupyterLab or in Notebook 7, worked with the keyboard alone."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from tests.browser.lab import TOKEN, Lab
from tests.quiz.conftest import SAMPLE

# what these keys do to cells where JupyterLab gets them: cut, add, delete, change their kind, run, move
DANGEROUS = ["x", "a", "b", "d", "d", "m", "y", "r", "j", "k", "z", "c", "v", "1", "Shift+M", "Delete", "o"]
FOCUSED = """() => { const node = document.activeElement; return {
    inside: !!node.closest('.omw'), tag: node.localName, type: node.type || '',
    text: (node.labels?.length ? node.labels[0].textContent : node.textContent || '').trim(),
    heading: node.classList.contains('omw-heading'),
    safe: node.getAttribute('data-lm-suppress-shortcuts') === 'true' }; }"""


def notebook(*calls: str, folder: Path = SAMPLE, plain: bool = False) -> nbformat.NotebookNode:
    """Return a notebook whose first cell loads the bank in `folder`, then one cell a call."""
    setup = "from utils import quiz"
    if not plain:
        setup += f"\nfrom pathlib import Path\nfrom utils.quiz import bank\nbank.FOLDER = Path({str(folder)!r})"
    cells = [nbformat.v4.new_code_cell(source) for source in (setup, *calls)]
    metadata = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "name": "python3"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


class Quiz:
    """An open notebook: its cards, the keyboard, and what must never change."""

    def __init__(self, page: Page, cells: int) -> None:
        self.page, self.cells = page, cells
        self.current = page.locator(".omw").first
        self.problems: list[str] = []
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def count(self) -> int:
        """Return how many cells stand on the page."""
        return self.page.locator(".jp-Notebook .jp-Cell").count()

    def card(self, number: int) -> Locator:
        """Return the card of the call at `number` (from 1), scrolled into view."""
        cell = self.page.locator(".jp-Notebook .jp-Cell").nth(number)
        cell.scroll_into_view_if_needed()
        card = cell.locator(".omw")
        expect(card).to_be_visible(timeout=30_000)
        return card

    def focused(self) -> dict:
        """Return what has focus."""
        return self.page.evaluate(FOCUSED)

    def holds(self, card: Locator) -> bool:
        """Return whether focus is in this card."""
        return card.evaluate("card => card.contains(document.activeElement)")

    def enter(self, card: Locator) -> None:
        """Go to the first control of a card with Tab alone, from the code above it or from within it."""
        for _ in range(30):
            if not self.holds(card):
                break
            self.page.keyboard.press("Shift+Tab")
        else:
            raise AssertionError(f"Shift+Tab does not leave the card; focus is on {self.focused()}")
        cell = card.locator("xpath=ancestor::div[contains(concat(' ', @class, ' '), ' jp-Cell ')][1]")
        cell.locator(".jp-InputArea-prompt").click()
        for _ in range(120):
            self.page.keyboard.press("Tab")
            if self.holds(card):
                self.current = card
                return
        raise AssertionError(f"Tab does not reach the card; focus is on {self.focused()}")

    def to(self, words: str, key: str = "Tab") -> None:
        """Press Tab until the control with these words has focus, without leaving the card."""
        for _ in range(25):
            if re.search(words, self.focused()["text"]):
                return
            self.page.keyboard.press(key)
            assert self.holds(self.current), f"focus left the card before {words!r}: {self.focused()}"
        raise AssertionError(f"Tab does not reach {words!r}; focus is on {self.focused()}")

    def press(self, *keys: str) -> None:
        """Press keys."""
        for key in keys:
            self.page.keyboard.press(key)

    def says(self, card: Locator, words: str) -> None:
        """Wait for the live region to say these words."""
        expect(card.get_by_role("status")).to_contain_text(re.compile(words), timeout=10_000)

    def unharmed(self) -> None:
        """Press every key that would change cells: focus stays where it was, and so do the cells."""
        before = self.focused()
        assert before["inside"]
        assert before["safe"], before
        for key in DANGEROUS:
            self.page.keyboard.press(key)
        after = self.focused()
        assert after["inside"], f"focus was lost from {before}"
        self.same_cells()

    def same_cells(self) -> None:
        """Assert that no cell was added, cut or moved, and that focus is still in a card."""
        assert self.count() == self.cells
        assert self.focused()["inside"], self.focused()
        assert self.problems == []

    def axe(self, card: Locator) -> list[str]:
        """Return the accessibility rules that a card breaks."""
        card.evaluate("card => card.setAttribute('data-judged', '')")
        found = Axe().run(self.page, context="[data-judged]").response["violations"]
        card.evaluate("card => card.removeAttribute('data-judged')")
        return [f"{rule['id']}: {node['html'][:120]}" for rule in found for node in rule["nodes"]]

    def theme(self, name: str) -> None:
        """Change to the light or dark theme, as the menu does."""
        dark = "false" if name == "dark" else "true"
        theme = f"JupyterLab {name.capitalize()}"
        if self.page.locator("body").get_attribute("data-jp-theme-light") == dark:
            return
        self.page.locator(".lm-MenuBar-itemLabel", has_text="Settings").click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Theme$")).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{theme}$")).click()
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-light", dark, timeout=30_000)


@contextlib.contextmanager
def opened(lab: Lab, front: str, content: nbformat.NotebookNode, width: int = 1100) -> Iterator[Quiz]:
    """Open a notebook in "lab" or "notebook7", run it, and close it at the end."""
    cells = len(content.cells)
    if front == "lab":
        running = lab.open(content, width=width, height=1000)
        quiz = Quiz(running.page, cells)
        running.run_all()
    else:
        name = f"notebooks/seven_{id(content)}.ipynb"
        nbformat.write(content, lab.server.folder / name)
        page = lab.context.new_page()
        page.set_viewport_size({"width": width, "height": 1000})
        quiz = Quiz(page, cells)
        page.goto(f"{lab.server.address}/notebooks/{name}?token={TOKEN}")
        expect(page.locator(".jp-Notebook .jp-Cell")).to_have_count(cells, timeout=60_000)
        expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']")).to_be_visible(timeout=60_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(quiz.page.locator(".jp-Notebook .jp-Cell").nth(cells - 1).locator(".omw")).to_be_attached(timeout=60_000)
    quiz.problems.clear()  # Notebook 7 has one of its own while it starts
    try:
        yield quiz
    finally:
        quiz.page.close()
        lab.server.end_sessions()
