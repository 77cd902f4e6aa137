"""One item, live: what it shows and what its buttons do. Plain objects; `widget.py` only carries their views.

Every part has `blocks()`, `act(do, values, ms)` and, after an action, `say` (for the live region), `tone` and `focus`.
A part starts where the log left it, so a notebook that is run again shows what was answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils import progress
from utils.progress import Event
from utils.quiz import blocks, history
from utils.quiz.bank import Item
from utils.quiz.blocks import Block
from utils.quiz.grade import Grade, ResponseError
from utils.quiz.response import Resp, Response, read_confidence
from utils.quiz.static import KINDS
from utils.quiz.text import escape, to_html

SURE_BUT_WRONG = "You were certain: that makes it worth reading twice. It comes back soon."
LUCKY = "A guess that was right: read why, it comes back for review."


class Part:
    """What all items share: saving, speaking, and the line above the prompt."""

    def __init__(self, item: Item, role: str = "practice") -> None:
        self.item = item
        self.role = role
        self.hush()

    def hush(self) -> None:
        """Forget what the last action said."""
        self.say = ""  # to the live region
        self.message = ""  # beside the buttons: why nothing happened
        self.trouble = ""  # what could not be saved
        self.focus = ""  # the block that focus moves to
        self.show = ""  # the block that is scrolled to

    @property
    def label(self) -> str:
        """The kind and level of the item."""
        return f"{KINDS[self.item.type]} · {self.item.label}"

    @property
    def done(self) -> bool:
        """Whether the item is answered."""
        return False

    def fresh(self) -> None:
        """Ask anew, whatever was answered before (a review does)."""

    def blocks(self) -> list[Block]:
        """Return what is shown now."""
        raise NotImplementedError

    def act(self, do: str, values: Mapping[str, Any], ms: int | None = None) -> None:
        """Do what a button says; unknown names do nothing."""
        self.hush()
        action = getattr(self, f"do_{do}", None)
        if action is None:
            return
        try:
            action(values, ms)
        except ResponseError as error:
            self.say = self.message = str(error)

    def save(self, ev: str, **values: Any) -> None:
        """Record an event; where that fails the answer stays on screen, with a message."""
        try:
            progress.record(ev, self.item.id, rev=self.item.rev, ctx={"role": self.role}, **values)
        except progress.NotSavedError as error:
            self.trouble = str(error)

    def past(self) -> list[Event]:
        """Return the answers this item has had."""
        return history.of_item(self.item)

    def notes(self) -> list[Block]:
        """Return what stands above the buttons: why nothing happened, what could not be saved."""
        found = [blocks.plain("message", self.message, "message")] if self.message else []
        return found + ([blocks.plain("trouble", self.trouble, "trouble")] if self.trouble else [])

    def row(self, *row: Block) -> list[Block]:
        """Return the notes and the row of buttons, which keeps its place."""
        return [*self.notes(), blocks.buttons("actions", *row)]

    def prompt(self) -> list[Block]:
        """Return the prompt."""
        return [blocks.prose("prompt", self.item["prompt"], "prompt")]

    def explanation(self) -> list[Block]:
        """Return the explanation, if there is one."""
        found = self.item.get("explanation")
        return [blocks.prose("explanation", found, "explanation")] if found else []


def day(event: Event) -> str:
    """Return the date of an event, such as 2026-11-22."""
    return event.ts[:10]


def hints(item: Item) -> list[Block]:
    """Return the hints of an item, each folded, in order."""
    found = item.get("hints", [])
    titles = ["Hint"] if len(found) == 1 else [f"Hint {n} of {len(found)}" for n in range(1, len(found) + 1)]
    pairs = zip(titles, found, strict=True)
    return [blocks.fold(f"hint{n}", title, to_html(text, live=True)) for n, (title, text) in enumerate(pairs)]


class Question(Part):
    """Single choice, multiple choice or number: chosen, then checked on a button, then explained."""

    def __init__(self, item: Item, role: str = "practice") -> None:
        super().__init__(item, role)
        past = self.past()
        self.attempt = max(0, len(past) - 1)
        self.resp: Resp | None = None
        self.outcome: Grade | None = None
        self.when = ""
        self.aside = ""
        self.response = Response(item, self.attempt)
        if past:
            self._restore(past[-1])

    def _restore(self, event: Event) -> None:
        try:
            self.resp = self.response.clean(event.resp)
            self.outcome = self.response.grade(self.resp) if self.resp else None
            self.when = day(event)
        except ResponseError:
            self.resp = None

    @property
    def done(self) -> bool:
        return self.resp is not None

    def blocks(self) -> list[Block]:
        if self.resp is None:
            ask = [*self.prompt(), *hints(self.item), *self.response.ask(), blocks.confidence()]
            return ask + self.row(blocks.button("check", "Check", primary=True))
        shown = [*self.prompt(), self.banner(), *self.response.results(self.resp), *self.explanation()]
        return shown + self.row(blocks.button("again", "Answer again"))

    def banner(self) -> Block:
        """Return the verdict as a block."""
        when = f"Answered on {self.when}." if self.when else ""
        text = " ".join(part for part in (self.verdict(), self.aside, when) if part)
        return blocks.banner(text, "right" if self.outcome and self.outcome.ok else "wrong")

    def verdict(self) -> str:
        """Return the verdict as a short sentence."""
        if self.outcome is None:
            return ""
        if self.outcome.ok:
            return "Right."
        return "Partly right." if 0 < self.outcome.score < 1 else "Not right."

    def do_check(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Grade what is chosen, record it, explain every option."""
        if self.resp is not None:
            return
        resp = self.response.read(values)
        outcome = self.response.grade(resp)
        assert outcome is not None  # a question has options or a number
        sure = read_confidence(values)
        self.resp, self.outcome, self.when = resp, outcome, ""
        self.aside = SURE_BUT_WRONG if sure == 3 and not outcome.ok else LUCKY if sure == 1 and outcome.ok else ""
        self.save("answered", resp=resp, conf=sure, ok=outcome.ok, score=round(outcome.score, 4), ms=ms)
        right = "" if outcome.ok else f"Right is: {self.response.right_words()}."
        self.say = " ".join(text for text in (self.verdict(), right, self.aside) if text)
        self.show = "banner"

    def fresh(self) -> None:
        if self.resp is not None:
            self.do_again({}, None)
            self.hush()

    def do_again(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Ask once more, the options in another order."""
        if self.resp is None:
            return
        self.resp = self.outcome = None
        self.when = self.aside = ""
        self.attempt += 1
        self.response = Response(self.item, self.attempt)
        self.say, self.show = "Asked again. Options may stand in another order.", "prompt"


class Predict(Part):
    """A prediction: locked in once, shown beside the real result by `quiz.reveal`."""

    def __init__(self, item: Item, role: str = "lesson") -> None:
        super().__init__(item, role)
        self.response = Response(item, 0, "Your prediction, in a line")
        past = self.past()
        self.resp = self.response.clean(past[-1].resp) if past else None
        self.when = day(past[-1]) if self.resp else ""

    @property
    def done(self) -> bool:
        return self.resp is not None

    def blocks(self) -> list[Block]:
        code = [blocks.html("code", f"<pre><code>{escape(self.item.get('code', '').rstrip())}</code></pre>")]
        top = self.prompt() + (code if "code" in self.item.raw else [])
        if self.resp is None:
            ask = [*self.response.ask(), blocks.confidence()]
            return top + ask + self.row(blocks.button("lock", "Lock in", primary=True))
        when = f", locked in on {self.when}" if self.when else ""
        words = f"<p>Your prediction{when}: <strong>{self.response.words(self.resp)}</strong></p>"
        note = blocks.plain("next", "Now run the next cell: it sets its result beside this.", "quiet")
        return [*top, blocks.html("locked", words, "locked"), note, *self.notes()]

    def do_lock(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Record the prediction for good."""
        if self.resp is not None:
            return
        resp = self.response.read(values)
        outcome = self.response.grade(resp)
        self.resp = resp
        self.save("predicted", resp=resp, conf=read_confidence(values), ok=outcome.ok if outcome else None, ms=ms)
        self.say, self.focus = "Locked in. Now run the next cell and compare.", "locked"
