"""Flashcards, open questions, practice problems and exercises, live (see `parts.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils import progress
from utils.progress import Event
from utils.quiz import bank as banks
from utils.quiz import blocks, history, memory, static
from utils.quiz.bank import Item
from utils.quiz.blocks import Block
from utils.quiz.grade import Grade, ResponseError
from utils.quiz.parts import Part, day, hints
from utils.quiz.response import Resp, Response, read_confidence
from utils.quiz.text import escape, inline, to_html

RATINGS = {
    "again": (1, "Again", "I did not know it"),
    "hard": (2, "Hard", "with effort"),
    "good": (3, "Good", "I knew it"),
    "easy": (4, "Easy", "at once"),
}
MIN_CHARS = 40


class Card(Part):
    """A flashcard: recall, reveal, rate yourself."""

    def __init__(self, item: Item, role: str = "practice") -> None:
        super().__init__(item, role)
        past = self.past()
        self.shown = False
        self.rated = self.next = ""
        self.last = f"Last time, on {day(past[-1])}: {_rating_label(past[-1].resp)}." if past else ""

    @property
    def done(self) -> bool:
        return bool(self.rated)

    def blocks(self) -> list[Block]:
        top = self.prompt()
        if not self.shown:
            last = [blocks.plain("last", f"Say your answer first, then look. {self.last}".strip(), "quiet")]
            return top + last + self.row(blocks.button("reveal", "Show the answer", primary=True))
        answer = blocks.prose("answer", self.item["answer"], "answer")
        if self.rated:
            rated = blocks.banner(f"You rated it: {RATINGS[self.rated][1]}. {self.next}".strip(), "info")
            return [*top, answer, rated] + self.row(blocks.button("hide", "Hide the answer"))
        row = [blocks.button(key, f"{label}: {meaning}") for key, (_, label, meaning) in RATINGS.items()]
        ask = blocks.plain("ask", "How well did you know it?", "quiet")
        return [*top, answer, ask] + self.row(*row)

    def do_reveal(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Show the answer."""
        self.shown = True
        self.say, self.focus = "Answer shown. Rate how well you knew it.", "answer"

    def do_hide(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Turn the card back."""
        self.shown, self.rated = False, ""
        self.say = "Answer hidden."

    def _rate(self, key: str, ms: int | None) -> None:
        if not self.shown or self.rated:
            return
        self.rated = key
        self.save("rated", resp={"rating": RATINGS[key][0]}, ok=RATINGS[key][0] > 1, ms=ms)
        self.next = memory.next_words(self.item, banks.load(self.item.bank))
        self.say = f"Rated: {RATINGS[key][1]}. {self.next}".strip()

    def do_again(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Rate the card as not known."""
        self._rate("again", ms)

    def do_hard(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Rate the card as known with effort."""
        self._rate("hard", ms)

    def do_good(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Rate the card as known."""
        self._rate("good", ms)

    def do_easy(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Rate the card as known at once."""
        self._rate("easy", ms)


def _rating_label(resp: Any) -> str:
    rating = resp.get("rating") if isinstance(resp, dict) else None
    return next((label for number, label, _ in RATINGS.values() if number == rating), "not rated")


class Open(Part):
    """An open question: write, tick the concepts found in it, then read the model answer."""

    def __init__(self, item: Item, role: str = "practice") -> None:
        super().__init__(item, role)
        self.least = item.get("min_chars", MIN_CHARS)
        self.text = ""
        self.ticked: list[str] | None = None
        self.comparing = False
        self.when = ""
        past = self.past()
        if past:
            self._restore(past[-1].resp, day(past[-1]))

    def _restore(self, resp: dict[str, Any], when: str) -> None:
        text, ticked = resp.get("typed"), resp.get("concepts")
        if isinstance(text, str):
            self.text, self.when = text, when
            if isinstance(ticked, list):
                known = [concept["id"] for concept in self.item["concepts"]]
                self.ticked = [key for key in known if key in ticked]
            else:
                self.comparing = True

    def past(self) -> list[Event]:
        """Return the answers, those written but not yet compared included."""
        return history.of_item(self.item, also=("written",))

    @property
    def done(self) -> bool:
        return self.ticked is not None

    def blocks(self) -> list[Block]:
        top = [*self.prompt(), *hints(self.item)]
        if self.ticked is None and not self.comparing:
            label = f"Your answer, in your own words (at least {self.least} characters)"
            area = {**blocks.area("typed", label), "value": self.text}
            return [*top, area] + self.row(blocks.button("compare", "Compare", primary=True))
        wrote = blocks.html("wrote", f"<p>You wrote:</p><pre>{escape(self.text)}</pre>", "wrote")
        if self.ticked is None:
            rows = [(c["id"], inline(c["label"], live=True)) for c in self.item["concepts"]]
            ticks = blocks.choices("concepts", "Tick each idea that your answer really contains", rows, many=True)
            row = [blocks.button("count", "Count", primary=True), blocks.button("edit", "Change my answer")]
            return [*top, wrote, ticks] + self.row(*row)
        model = blocks.html("model", f"<p><strong>Model answer</strong></p>{to_html(self.item['model_answer'], True)}")
        row = self.row(blocks.button("edit", "Write again"))
        return [*top, wrote, self._banner(), self._concepts(), {**model, "look": "answer"}, *row]

    def fresh(self) -> None:
        self.text, self.comparing, self.ticked, self.when = "", False, None, ""

    def score(self) -> str:
        """Return "You got n of 4 concepts."."""
        return f"You got {len(self.ticked or [])} of {len(self.item['concepts'])} concepts."

    def _banner(self) -> Block:
        full = len(self.ticked or []) == len(self.item["concepts"])
        return blocks.banner(
            self.score() + (f" Answered on {self.when}." if self.when else ""), "right" if full else "info"
        )

    def _concepts(self) -> Block:
        rows = []
        for concept in self.item["concepts"]:
            state = "In your answer" if concept["id"] in (self.ticked or []) else "Missing"
            detail = f" {inline(concept['detail'], live=True)}" if "detail" in concept else ""
            rows.append(f"<li><strong>{state}:</strong> {inline(concept['label'], live=True)}{detail}</li>")
        return blocks.html("found", "<ul>" + "".join(rows) + "</ul>")

    def do_compare(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Open the checklist once enough is written."""
        typed = values.get("typed")
        text = typed.strip()[: progress.LONGEST] if isinstance(typed, str) else ""
        self.text = text
        if len(text) < self.least:
            more = self.least - len(text)
            raise ResponseError(f"Write first: {more} more character{'s' * (more != 1)}, then the checklist opens.")
        self.comparing, self.when = True, ""
        self.save("written", resp={"typed": text}, ms=ms)
        self.say, self.focus = "The checklist is open. Tick each idea your answer contains.", "concepts"

    def do_edit(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Go back to writing; what was written stays."""
        self.comparing, self.ticked, self.when = False, None, ""
        self.say, self.focus = "Change your answer.", "typed"

    def do_count(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Count the concepts ticked and show the model answer."""
        if not self.comparing:
            return
        found = values.get("concepts")
        ticked = [c["id"] for c in self.item["concepts"] if isinstance(found, list) and c["id"] in found]
        share = len(ticked) / len(self.item["concepts"])
        self.ticked, self.comparing = ticked, False
        self.save(
            "concepts", resp={"typed": self.text, "concepts": ticked}, ok=share == 1, score=round(share, 4), ms=ms
        )
        self.say, self.show = self.score(), "banner"


class Problem(Part):
    """A practice problem: try it, then steps, final answer, quick check and common mistakes."""

    def __init__(self, item: Item, role: str = "practice") -> None:
        super().__init__(item, role)
        past = self.past()
        self.attempt = max(0, len(past) - 1)
        self.response = Response(item, self.attempt, "Your working (optional, only you see it)")
        self.resp: Resp | None = None
        self.outcome: Grade | None = None
        self.solved = False
        self.when = ""
        if past:
            self.solved, self.when = True, day(past[-1])
            try:
                self.resp = self.response.clean(past[-1].resp)
                self.outcome = self.response.grade(self.resp) if self.resp else None
            except ResponseError:
                self.resp = None

    @property
    def done(self) -> bool:
        return self.solved

    def blocks(self) -> list[Block]:
        top = [*self.prompt(), *hints(self.item)]
        if not self.solved:
            graded = self.response.by != "text"
            row = [blocks.button("check", "Check", primary=True)] if graded else []
            row.append(blocks.button("solve", "Show the solution", primary=not graded))
            sure = [blocks.confidence()] if graded else []
            return [*top, *self.response.ask(), *sure] + self.row(*row)
        tone = "info" if self.outcome is None else "right" if self.outcome.ok else "wrong"
        when = f" Solved on {self.when}." if self.when else ""
        shown = [*top, blocks.banner(self.verdict() + when, tone)]
        if self.resp:
            shown += self.response.results(self.resp)
        elif self.response.by == "options":
            shown += self.response.results({"chosen": []})
        return shown + self.solution() + self.row(blocks.button("again", "Try again"))

    def solution(self) -> list[Block]:
        """Return steps, final answer, quick check and common mistakes."""
        steps = f"<p><strong>Solution in steps</strong></p>{static.steps_html(self.item, live=True)}"
        final = f"<p><strong>Final answer</strong></p>{to_html(self.item['final_answer'], live=True)}"
        check = to_html(self.item["quick_check"], live=True)
        return [
            blocks.html("steps", steps),
            blocks.html("final", final, "answer"),
            blocks.fold("quick", "Quick check", check),
            blocks.fold("mistakes", "Common mistakes", static.mistakes_html(self.item, live=True)),
        ]

    def fresh(self) -> None:
        if self.solved:
            self.do_again({}, None)
            self.hush()

    def verdict(self) -> str:
        """Return the verdict as a sentence of plain text."""
        if self.outcome is None:
            return "Compare your way with the steps."
        return "Right." if self.outcome.ok else "Not right."

    def do_check(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Grade the answer and open the solution."""
        if self.solved or self.response.by == "text":
            return
        resp = self.response.read(values)
        outcome = self.response.grade(resp)
        assert outcome is not None  # text was turned away above
        self.resp, self.outcome, self.solved, self.when = resp, outcome, True, ""
        sure = read_confidence(values)
        self.save("answered", resp=resp, conf=sure, ok=outcome.ok, score=round(outcome.score, 4), ms=ms)
        right = "" if outcome.ok else f" Right is: {self.response.right_words()}."
        self.say, self.show = f"{self.verdict()}{right} The solution is open.", "banner"

    def do_solve(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Open the solution without an answer."""
        if self.solved:
            return
        typed = values.get("typed") if self.response.by == "text" else None
        self.resp = self.response.clean({"typed": typed})
        self.solved, self.when = True, ""
        self.save("solved", resp=self.resp or {"typed": ""}, ms=ms)
        self.say, self.show = "The solution is open.", "banner"

    def do_again(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Close the solution and ask once more."""
        self.solved, self.resp, self.outcome, self.when = False, None, None, ""
        self.attempt += 1
        self.response = Response(self.item, self.attempt, "Your working (optional, only you see it)")
        self.say, self.show = "Asked again.", "prompt"


class Code(Part):
    """An exercise: where it is, and the attempts that its check has recorded."""

    @property
    def done(self) -> bool:
        return any(event.ok for event in progress.attempts(self.item["check"]))

    def blocks(self) -> list[Block]:
        tries = progress.attempts(self.item["check"])
        if not tries:
            state, tone = "Not attempted yet.", "info"
        elif any(event.ok for event in tries):
            first = next(event for event in tries if event.ok)
            state, tone = f"Passed on {day(first)}, at attempt {tries.index(first) + 1}.", "right"
        else:
            hint = str(tries[-1].resp.get("hint", ""))
            state, tone = f"Not yet, after {len(tries)} attempt{'s' * (len(tries) != 1)}. {hint}".strip(), "info"
        where = f"Exercise notebook: {self.item['lesson']}; checked by check.{self.item['check']}."
        return [
            *self.prompt(),
            blocks.plain("where", where, "quiet"),
            *hints(self.item),
            blocks.banner(state, tone),
        ] + (self.row(blocks.button("refresh", "Look again")))

    def do_refresh(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Read the log again."""
        self.say, self.show = "Read again.", "banner"
