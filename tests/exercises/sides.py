"""Test a check from its three sides: the stub, the solution, and plausible wrong answers.

In `tests/exercises/test_<lesson>.py`:

    from tests.exercises.sides import Sides, swap

    SIDES = Sides("02_ranks_and_collectives")            # a notebook in solutions/

    def test_stub():        SIDES.stub_is_not_attempted("ring_all_reduce")
    def test_solution():    SIDES.solution_passes("ring_all_reduce")

    @pytest.mark.parametrize(("wrong", "what", "hint"), [
        (swap(("% n", "")), "error", "right neighbour"),     # the solution, changed
        ("def ring_all_reduce(tensor, n): ...", "result", "the mean"),          # or a whole answer
    ])
    def test_wrong(wrong, what, hint):
        SIDES.wrong_is_not_yet("ring_all_reduce", wrong, what, hint)

    def test_list():        SIDES.enough_wrong_answers("ring_all_reduce", [... the same list ...])

A function that the solution notebook defines in a `%%ranks` cell is run on the ranks (the fixture `four_ranks`
starts them), any other in a namespace of its own, after the notebook's unmarked cells that `before` names by their ids.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat

from utils import check, publish
from utils.check.verdict import Verdict

ROOT = Path(__file__).resolve().parent.parent.parent
MAGIC = re.compile(r"%%ranks[^\n]*\n")


def swap(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """Change the solution: replace each first text, which must be there, by the second."""

    def change(code: str) -> str:
        for old, new in pairs:
            assert old in code, f"the solution has no {old!r} any more"
            code = code.replace(old, new)
        return code

    return change


class Sides:
    """The stubs and solutions of one solution notebook, and the judging of answers."""

    def __init__(self, notebook: str, before: Sequence[str] = ()) -> None:
        self.path = ROOT / "solutions" / f"{notebook.removesuffix('.ipynb')}.ipynb"
        self.before = tuple(before)

    def _cells(self) -> list[Any]:
        return list(nbformat.read(self.path, as_version=4).cells)

    def cell(self, function: str) -> str:
        """Give the source of the marked cell that defines `function`."""
        found = [c.source for c in self._cells()
                 if publish.BEGIN in c.source and re.search(rf"^(def|class) {function}\b", c.source, re.MULTILINE)]
        assert len(found) == 1, f"{self.path.name}: {len(found)} marked cells define {function}, where one is right"
        return found[0]

    def solution(self, function: str) -> str:
        """Give the cell without its markers."""
        return publish._without_markers(self.cell(function))

    def stub(self, function: str) -> str:
        """Give the cell as the exercise notebook shows it."""
        return publish._stub(self.cell(function), self.path.name)

    def judge(self, function: str, source: str, exercise: str = "") -> Verdict:
        """Run the source of an answer as the learner would and hand it to its check."""
        on_ranks = bool(MAGIC.match(self.cell(function)))
        source = MAGIC.sub("", source, count=1)
        verdict_of = getattr(check, exercise or function)
        if on_ranks:
            from utils import ranks

            for code in self._earlier():
                ranks.run(MAGIC.sub("", code, count=1))
            ranks.run(source)
            return verdict_of(function)
        namespace: dict[str, Any] = {}
        for code in self._earlier():
            exec(compile(code, "<before>", "exec"), namespace)
        exec(compile(source, f"<answer {function}>", "exec"), namespace)
        return verdict_of(namespace[function])

    def _earlier(self) -> list[str]:
        by_id = {cell.id: cell.source for cell in self._cells()}
        return [by_id[identifier] for identifier in self.before]

    def stub_is_not_attempted(self, function: str, exercise: str = "") -> None:
        """Assert the first side."""
        verdict = self.judge(function, self.stub(function), exercise)
        assert verdict.status == "not attempted", str(verdict)

    def solution_passes(self, function: str, exercise: str = "") -> None:
        """Assert the second side."""
        verdict = self.judge(function, self.solution(function), exercise)
        assert verdict.status == "passed", str(verdict)

    def wrong_is_not_yet(
        self, function: str, wrong: str | Callable[[str], str], what: str, hint: str, exercise: str = ""
    ) -> None:
        """Assert the third side for one wrong answer: a source, or a change of the solution's."""
        solution = self.solution(function)
        source = wrong if isinstance(wrong, str) else wrong(solution)
        assert source != solution, "this wrong answer is the solution itself: its change found nothing to change"
        verdict = self.judge(function, source, exercise)
        assert verdict.status == "not yet", f"a wrong answer got: {verdict}"
        assert verdict.what == what, str(verdict)
        assert re.search(hint, verdict.hint), f"expected a hint like {hint!r}, got: {verdict}"

    @staticmethod
    def enough_wrong_answers(function: str, hints: Sequence[str], least: int = 6) -> None:
        """Assert that there are at least six wrong answers, each with a hint of its own."""
        assert len(hints) >= least, f"{function}: {len(hints)} wrong answers, at least {least} are needed"
        assert len(set(hints)) == len(hints), f"{function}: two wrong answers share a hint"
