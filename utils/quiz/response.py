"""How an item is answered: by options, by a number, or by a line of text. Asking, reading, grading and showing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils import progress
from utils.quiz import blocks, grade, history
from utils.quiz.bank import Item
from utils.quiz.blocks import Block
from utils.quiz.grade import Grade, ResponseError
from utils.quiz.static import number_text
from utils.quiz.text import escape, inline, spoken, to_html

Resp = dict[str, Any]  # {"chosen": [option ids]} or {"typed": text}


class Response:
    """The answer form of one item at one attempt (which fixes the order of its options)."""

    def __init__(self, item: Item, attempt: int = 0, typed_label: str = "Your answer") -> None:
        self.item = item
        self.by = "options" if item.get("options") else "number" if isinstance(item.get("answer"), dict) else "text"
        self.typed_label = typed_label
        self.options: list[dict[str, Any]] = []
        if self.by == "options":
            self.options = history.shuffled(item["options"], progress.learner(), item.id, attempt)

    def ask(self, draft: Resp | None = None) -> list[Block]:
        """Return the controls; `draft` fills them with an earlier response."""
        draft = draft or {}
        if self.by == "options":
            many = self.item.type == "multi"
            legend = "Choose every right answer" if many else "Choose one answer"
            rows = [(option["id"], inline(option["text"], live=True)) for option in self.options]
            return [blocks.choices("choice", legend, rows, many, chosen=draft.get("chosen", []))]
        if self.by == "number":
            unit = self.item["answer"].get("unit", "")
            block = blocks.number("typed", f"Your answer in {unit}" if unit else "Your answer, a number", unit)
        else:
            block = blocks.area("typed", self.typed_label, 2)
        return [{**block, "value": draft.get("typed", "")}]

    def read(self, values: Mapping[str, Any]) -> Resp:
        """Return the response in the values of the controls; raise ResponseError where there is none yet."""
        if self.by == "options":
            found = values.get("choice")
            resp = self.clean({"chosen": found if isinstance(found, list) else []})
            if not resp:
                raise ResponseError("Choose an option first.")
            return resp
        typed = values.get("typed")
        resp = self.clean({"typed": typed})
        if not resp:
            raise ResponseError("Type a number first." if self.by == "number" else "Write your answer first.")
        if self.by == "number":
            grade.in_unit(self.item["answer"], resp["typed"])
        return resp

    def clean(self, resp: Any) -> Resp | None:
        """Return a response of any origin reduced to what this item knows; None where nothing is left."""
        if not isinstance(resp, dict):
            return None
        if self.by == "options":
            found = resp.get("chosen")
            known = {option["id"] for option in self.options}
            chosen = [key for key in found if isinstance(key, str) and key in known] if isinstance(found, list) else []
            return {"chosen": chosen} if chosen else None
        typed = resp.get("typed")
        if not isinstance(typed, str) or not typed.strip():
            return None
        return {"typed": typed.strip()[: progress.LONGEST]}

    def grade(self, resp: Resp) -> Grade | None:
        """Grade a response; None where it is text, which nobody grades."""
        if self.by == "options":
            return grade.choice(self.item, resp["chosen"])
        if self.by == "number":
            return grade.number(self.item["answer"], resp["typed"])
        return None

    def results(self, resp: Resp) -> list[Block]:
        """Return what the response was and what is right, each option with its reason."""
        if self.by == "options":
            return [blocks.results("results", self.options, resp["chosen"])]
        if self.by == "number":
            return [blocks.html("results", self._number_rows(resp["typed"]), "number")]
        return [blocks.html("results", f"<p>You wrote:</p><pre>{escape(resp['typed'])}</pre>")]

    def _number_rows(self, typed: str) -> str:
        answer = self.item["answer"]
        try:
            outcome = grade.number(answer, typed)
        except ResponseError:
            outcome = Grade(False, 0.0)
        rows = [
            f"<p>You answered <strong>{escape(typed)}</strong>. Right is <strong>{escape(number_text(answer))}</strong>"
        ]
        rows.append(f", give or take {grade.tolerance(answer):g}.</p>" if not outcome.ok else ".</p>")
        if outcome.note:
            rows.append(to_html(outcome.note, live=True))
        others = [c for c in answer.get("catch", []) if c["why"] != outcome.note]
        if others:
            listed = [f"<li>{escape(number_text(answer, c['value']))}: {inline(c['why'], True)}</li>" for c in others]
            rows.append("<p>Other wrong numbers and where they come from:</p><ul>" + "".join(listed) + "</ul>")
        return "".join(rows)

    def words(self, resp: Resp) -> str:
        """Return a response in a line of HTML."""
        if self.by == "options":
            texts = [inline(o["text"], live=True) for o in self.options if o["id"] in resp["chosen"]]
            return "; ".join(texts)
        return escape(resp["typed"])

    def right_words(self) -> str:
        """Return the right answer as plain text, for the live region."""
        if self.by == "options":
            return "; ".join(spoken(option["text"]) for option in self.options if option.get("correct"))
        return number_text(self.item["answer"]) if self.by == "number" else ""


def read_confidence(values: Mapping[str, Any]) -> int | None:
    """Return the confidence chosen, 1 to 3, or None."""
    found = values.get("confidence")
    return int(found[0]) if isinstance(found, list) and found and found[0] in ("1", "2", "3") else None
