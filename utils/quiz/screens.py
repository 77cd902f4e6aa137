"""What one output shows: a single item, several in a row, or a result beside its prediction. No widgets here.

A screen has `view()` (plain data, see `blocks.py`) and `act(do, values, ms)`, which a press in the browser calls.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from utils.quiz import blocks, grade, history
from utils.quiz.bank import Item
from utils.quiz.blocks import Block
from utils.quiz.cards import Card, Code, Open, Problem
from utils.quiz.parts import Part, Predict, Question
from utils.quiz.response import Response
from utils.quiz.static import number_text, outcome_html
from utils.quiz.text import escape, show_value

PARTS: dict[str, type[Part]] = {
    "flashcard": Card,
    "mcq": Question,
    "multi": Question,
    "numeric": Question,
    "open": Open,
    "problem": Problem,
    "predict": Predict,
    "code": Code,
}
_watchers: dict[str, weakref.WeakSet[Screen]] = {}


def part_of(item: Item, role: str) -> Part:
    """Return the live part of an item."""
    return PARTS[item.type](item, role)


class Screen:
    """What all screens share. `changed` is called when the view changed without a press of its own."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.turn = 0
        self.say = self.focus = self.show = ""
        self.download: tuple[str, str] | None = None
        self.changed: Callable[[], None] = lambda: None

    def blocks(self) -> list[Block]:
        """Return what is shown now."""
        raise NotImplementedError

    def press(self, do: str, values: Mapping[str, Any], ms: int | None) -> None:
        """Do what a button says."""
        raise NotImplementedError

    def act(self, do: str, values: Mapping[str, Any], ms: int | None = None) -> None:
        """Handle a press from the browser; whatever is in it, the screen stays usable."""
        self.turn += 1
        self.say = self.focus = self.show = ""
        self.press(do, values, ms)

    def view(self) -> dict[str, Any]:
        """Return the whole view as plain data."""
        return {
            "label": self.label,
            "blocks": self.blocks(),
            "say": self.say,
            "focus": self.focus,
            "show": self.show,
            "turn": self.turn,
        }

    def echo(self, part: Part, prefix: str = "") -> None:
        """Take over what a part said."""
        self.say = " ".join(text for text in (part.say, part.trouble) if text)
        self.focus = prefix + part.focus if part.focus else ""
        self.show = prefix + part.show if part.show else ""


class Single(Screen):
    """One item."""

    def __init__(self, item: Item, role: str = "practice") -> None:
        self.part = part_of(item, role)
        super().__init__(self.part.label)

    def blocks(self) -> list[Block]:
        return [blocks.heading("head", self.part.label), *self.part.blocks()]

    def press(self, do: str, values: Mapping[str, Any], ms: int | None) -> None:
        self.part.act(do, values, ms)
        self.echo(self.part)
        if do == "lock" and self.part.done:
            tell(self.part.item.id)


class Row(Screen):
    """Several items, one at a time, with back and next: a deck, questions, practice problems, a review."""

    def __init__(self, title: str, place: str, items: Sequence[Item], role: str = "practice") -> None:
        super().__init__(title)
        self.place = place
        self.items = list(items)
        self.role = role
        self.parts: dict[int, Part] = {}
        self.index = next((n for n in range(len(self.items)) if not self.part(n).done), 0)

    def part(self, index: int) -> Part:
        """Return the live part at a place, made when it is first looked at."""
        if index not in self.parts:
            self.parts[index] = part_of(self.items[index], self.role)
        return self.parts[index]

    def blocks(self) -> list[Block]:
        if self.index >= len(self.items):
            return self.end()
        part = self.part(self.index)
        head = f"{self.place} {self.index + 1} of {len(self.items)} · {part.label}"
        row = [blocks.button("back", "Back")] if self.index else []
        last = self.index == len(self.items) - 1
        row.append(blocks.button("next", "Finish" if last else "Next"))
        inner = blocks.prefixed(str(self.index), part.blocks())
        return [blocks.heading("head", head), *inner, blocks.buttons("nav", *row)]

    def end(self) -> list[Block]:
        """Return what stands after the last item."""
        done = sum(self.part(n).done for n in range(len(self.items)))
        text = f"{done} of {len(self.items)} done."
        if done < len(self.items):
            text += " Those left wait for you here."
        row = [blocks.button("back", "Back"), blocks.button("first", "From the start")]
        return [blocks.heading("head", self.label), blocks.banner(text, "info"), blocks.buttons("nav", *row)]

    def press(self, do: str, values: Mapping[str, Any], ms: int | None) -> None:
        if do in ("back", "next", "first"):
            self.index = {"back": max(0, self.index - 1), "next": min(len(self.items), self.index + 1), "first": 0}[do]
            self.focus = "head"
            return
        if self.index < len(self.items):
            prefix = f"{self.index}/"
            part = self.part(self.index)
            part.act(do, {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}, ms)
            self.echo(part, prefix)


# ---- a result beside its prediction


def tell(identifier: str) -> None:
    """Let every result on the page know that its item has been predicted."""
    for screen in list(_watchers.get(identifier, ())):
        screen.changed()


class Reveal(Screen):
    """The real result of a cell: folded until there is a prediction, then beside it."""

    def __init__(self, item: Item, value: Any) -> None:
        super().__init__("Result")
        self.item = item
        self.text = show_value(value)
        self.number = _as_number(value)
        self.response = Response(item, 0)
        _watchers.setdefault(item.id, weakref.WeakSet()).add(self)

    def blocks(self) -> list[Block]:
        past = history.of_item(self.item)
        resp = self.response.clean(past[-1].resp) if past else None
        result = f"<pre>{escape(self.text)}</pre>"
        why = outcome_html(self.item, live=True)
        if resp is None:
            fold = blocks.fold("fold", "Predict first (the cell above asks), then open the result", f"{result}{why}")
            return [blocks.heading("head", "Result"), fold]
        sides = (
            f'<div class="omw-sides"><div class="omw-side"><p>You predicted</p><p>{self.response.words(resp)}</p></div>'
            f'<div class="omw-side"><p>The run gave</p>{result}</div></div>'
        )
        found = [blocks.heading("head", "Your prediction and the result"), blocks.html("sides", sides)]
        return found + self._verdict(resp) + self._explained(resp)

    def _explained(self, resp: dict[str, Any]) -> list[Block]:
        parts = [blocks.prose("outcome", self.item["outcome"])] if self.item.get("outcome") else []
        if self.response.by == "options":
            parts += self.response.results(resp)
        return [*parts, blocks.prose("explanation", self.item["explanation"], "explanation")]

    def _verdict(self, resp: dict[str, Any]) -> list[Block]:
        outcome: grade.Grade | None
        try:
            if self.response.by == "number":
                outcome, note = self._against_run(resp["typed"])
            else:
                outcome, note = self.response.grade(resp), ""
        except grade.ResponseError:
            return []
        if outcome is None:
            return []
        text = "As you predicted." if outcome.ok else "Not as you predicted."
        return [
            blocks.banner(
                " ".join(part for part in (text, outcome.note, note) if part), "right" if outcome.ok else "wrong"
            )
        ]

    def _against_run(self, typed: str) -> tuple[grade.Grade, str]:
        """Grade a number against what the run gave, which outranks what the bank expected."""
        answer = self.item["answer"]
        if self.number is None or abs(self.number - answer["value"]) <= grade.tolerance(answer):
            return grade.number(answer, typed), ""
        here = {**answer, "value": self.number, "catch": [], "abs_tol": grade.tolerance(answer)}
        expected = number_text(answer)
        return grade.number(
            here, typed
        ), f"The course expected {expected}; your run gave another number, and the run is right."

    def press(self, do: str, values: Mapping[str, Any], ms: int | None) -> None:
        """Nothing here can be pressed."""


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool | str):
        return None
    try:
        return float(value)
    except Exception:  # a foreign object may do anything when asked
        return None
