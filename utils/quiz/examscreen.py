"""The test on the page: start, ten questions with the feedback kept back, the verdict, where to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils import progress
from utils.progress import Event
from utils.quiz import blocks, exam, history
from utils.quiz.bank import Bank, Item
from utils.quiz.blocks import Block
from utils.quiz.exam import CONFIRM, DEVELOPING, START, STRONG
from utils.quiz.grade import ResponseError
from utils.quiz.lessons import lesson
from utils.quiz.response import Resp, Response, read_confidence
from utils.quiz.screens import Screen
from utils.quiz.text import escape, inline, to_html

WORDS = {
    STRONG: "Strong: you know this topic.",
    CONFIRM: "Close to strong. Ten questions cannot tell; five more can.",
    DEVELOPING: "Developing: much is there, some is missing.",
    START: "Start here: there is much to gain. Below stands where to begin.",
}


class Exam(Screen):
    """A test of one topic. Answers are recorded one by one, so a closed notebook goes on where it was left."""

    def __init__(self, bank: Bank, topic: str | None = None) -> None:
        name = f"{bank.name}.{topic}" if topic else bank.name
        super().__init__(f"Test: {bank.title}")
        self.bank, self.topic, self.key = bank, topic, f"test:{name}"
        self.message = self.trouble = ""
        self._load()

    def _load(self) -> None:
        """Find out where the learner stands: never begun, in the middle, or finished."""
        everything = history.events()
        done = [e for e in everything if e.ev == "finished" and e.item == self.key and isinstance(e.resp, dict)]
        begun = [e for e in everything if e.ev == "started" and e.item == self.key]
        attempts = [_attempt(e) for e in done]
        self.attempt = max(attempts, default=-1)
        latest = max((_attempt(e) for e in begun), default=-1)
        self.stage = "report" if done else "intro"
        if latest > self.attempt:  # begun and not finished
            self.attempt, self.stage = latest, "resume"
        self._deal(everything)

    def _deal(self, everything: list[Event] | None = None) -> None:
        """Draw the questions of this attempt and read back what is answered."""
        attempt = max(0, self.attempt)
        everything = history.events() if everything is None else everything
        drawn = self._drawn(attempt, everything)
        self.first, self.more, self.short = drawn.first, drawn.more, drawn.short
        self.answers: dict[str, Resp | None] = {}
        self.right: dict[str, bool] = {}
        self.forms = {item.id: Response(item, attempt) for item in (*self.first, *self.more)}
        for event in everything:
            form = self.forms.get(event.item)
            if form and event.ctx.get("test") == self.key and _attempt(event) == attempt and event.rev == form.item.rev:
                self.answers[event.item] = form.clean(event.resp)
                self.right[event.item] = bool(event.ok)
        self.extended = any(item.id in self.answers for item in self.more)
        self.index = next((n for n, item in enumerate(self.items) if item.id not in self.answers), len(self.items))
        if self.stage == "report" and self.extended and self.index < len(self.items):
            self.stage = "resume"

    def _drawn(self, attempt: int, everything: list[Event]) -> exam.Draw:
        """Return the questions this attempt began with, even where the bank has grown since; a new draw otherwise."""
        known = {item.id: item for item in self.bank.items if item.type in exam.QUESTIONS}
        for event in everything:
            if event.ev == "started" and event.item == self.key and _attempt(event) == attempt:
                resp = event.resp if isinstance(event.resp, dict) else {}
                lists = [resp.get("first"), resp.get("more")]
                if all(isinstance(found, list) and all(map(known.__contains__, map(str, found))) for found in lists):
                    first, more = (tuple(known[name] for name in found or []) for found in lists)
                    return exam.Draw(first, more, ())
        return exam.draw(self.bank, progress.learner(), attempt, self.topic)

    @property
    def items(self) -> tuple[Item, ...]:
        """The questions asked in this attempt so far: ten, or with the five more."""
        return self.first + self.more if self.extended else self.first

    # ---- what is shown

    def blocks(self) -> list[Block]:
        if self.stage == "asking":
            return self._question()
        return self._report() if self.stage == "report" else self._intro()

    def _intro(self) -> list[Block]:
        count = len(self.first)
        text = (
            f"{count} questions, from easy to hard, about {max(1, round(count * 0.7))} minutes. Feedback comes at the "
            "end. The result says whether this topic is strong and where to start. It closes nothing to you."
        )
        if self.short:
            text += f" The bank has only {', '.join(self.short)} questions for it, so the verdict is less certain."
        found = [blocks.heading("head", self.label), blocks.plain("text", text)]
        label = "Start"
        if self.stage == "resume":
            found.append(blocks.banner(f"{self.index} of {len(self.items)} are answered and kept.", "info"))
            label = "Go on"
        return [*found, *self._notes(), blocks.buttons("actions", blocks.button("start", label, primary=True))]

    def _notes(self) -> list[Block]:
        found = [blocks.plain("message", self.message, "message")] if self.message else []
        return found + ([blocks.plain("trouble", self.trouble, "trouble")] if self.trouble else [])

    def _question(self) -> list[Block]:
        item = self.items[self.index]
        head = f"Question {self.index + 1} of {len(self.items)} · {item.difficulty}"
        ask = self.forms[item.id].ask(self.answers.get(item.id))
        inner = [blocks.prose("prompt", item["prompt"], "prompt"), *ask, blocks.confidence()]
        last = self.index == len(self.items) - 1
        row = [
            blocks.button("next", "Finish" if last else "Next", primary=True),
            blocks.button("skip", "I do not know"),
        ]
        if self.index:
            row.append(blocks.button("back", "Back"))
        top = blocks.heading("head", head)
        return [top, *blocks.prefixed(item.id, inner), *self._notes(), blocks.buttons("actions", *row)]

    def score(self) -> tuple[int, int, int | None, int]:
        """Return (right, asked) of the first part and (right or None, asked) of the five more."""
        first = sum(self.right.get(item.id, False) for item in self.first)
        if not self.extended:
            return first, len(self.first), None, 0
        return first, len(self.first), sum(self.right.get(item.id, False) for item in self.more), len(self.more)

    def _report(self) -> list[Block]:
        right, asked, more_right, more_asked = self.score()
        result = exam.verdict(right, asked, more_right, more_asked)
        proof = exam.interval_words(right + (more_right or 0), asked + more_asked)
        found = [
            blocks.heading("head", f"Result: {self.bank.title}"),
            blocks.banner(WORDS[result], "right" if result == STRONG else "info"),
            blocks.plain("proof", proof),
            blocks.html("topics", self._table()),
            blocks.plain("next", self._next(result)),
        ]
        row = []
        if result == CONFIRM and self.more:
            row.append(blocks.button("more", f"{_count(len(self.more))} more questions", primary=True))
        row.append(blocks.button("again", "Take it again with other questions"))
        folds = [self._feedback(number, item) for number, item in enumerate(self.items, 1)]
        return [*found, *self._notes(), blocks.buttons("actions", *row), *folds]

    def _table(self) -> str:
        rows = []
        for name, (right, asked) in exam.by_topic(self.items, self.right).items():
            topic = self.bank.topic(name)
            where = lesson(topic.lesson).link if topic.lesson else ""
            advice = where if right < asked else "nothing missed"
            rows.append(f"<tr><td>{escape(topic.title)}</td><td>{right} of {asked}</td><td>{advice}</td></tr>")
        head = '<tr><th scope="col">Topic</th><th scope="col">Right</th><th scope="col">Go to</th></tr>'
        return f"<table><caption>By topic</caption><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"

    def _next(self, result: str) -> str:
        counts = exam.by_topic(self.items, self.right)
        missed = [self.bank.topic(name).lesson for name, (right, asked) in counts.items() if right < asked]
        names = list(dict.fromkeys(name for name in missed if name))
        if result == STRONG and not names:
            return "Go on to another topic; what you answered comes back in the review over days."
        if not names:
            return "What you answered comes back in the review over days."
        titles = [f"“{lesson(name).words}”" for name in names]
        where = " and ".join(filter(None, [", ".join(titles[:-1]), titles[-1]]))
        start = "Only where you missed something: " if result == STRONG else "Go on with "
        return f"{start}{where}. Missed questions come back in the review."

    def _feedback(self, number: int, item: Item) -> Block:
        form, resp = self.forms[item.id], self.answers.get(item.id)
        state = "right" if self.right.get(item.id) else "not known" if resp is None else "not right"
        body = to_html(item["prompt"], live=True) + explained_html(form, resp)
        if item.get("explanation"):
            body += to_html(item["explanation"], live=True)
        return blocks.fold(f"answer{number}", f"Question {number}, {item.difficulty}: {state}", body)

    # ---- what buttons do

    def press(self, do: str, values: Mapping[str, Any], ms: int | None) -> None:
        self.message = self.trouble = ""
        action = getattr(self, f"do_{do}", None)
        if action is None:
            return
        try:
            action(values, ms)
        except ResponseError as error:
            self.message = f"{error} Or press “I do not know”."
        except progress.NotSavedError as error:
            self.trouble = str(error)
        self.say = self.say or self.message
        if self.trouble:
            self.say = f"{self.say} {self.trouble}".strip()

    def _context(self) -> dict[str, Any]:
        return {"role": "test", "test": self.key, "attempt": self.attempt}

    def do_start(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Begin, or go on where the test was left."""
        if self.stage not in ("intro", "resume"):
            return
        fresh = self.stage == "intro"
        self.stage, self.focus = "asking", "head"
        self.index = min(self.index, len(self.items) - 1)
        if fresh:
            self.attempt = max(0, self.attempt)
            drawn = {"first": [item.id for item in self.first], "more": [item.id for item in self.more]}
            progress.record("started", self.key, resp=drawn, ctx=self._context())

    def do_next(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Record the answer and go on."""
        if self.stage != "asking":
            return
        item = self.items[self.index]
        form = self.forms[item.id]
        prefix = f"{item.id}/"
        mine = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
        resp = form.read(mine)
        outcome = form.grade(resp)
        assert outcome is not None  # tests hold only questions that are graded
        changed = self.answers.get(item.id) != resp
        self.answers[item.id], self.right[item.id] = resp, outcome.ok
        try:
            if changed:
                progress.record(
                    "answered",
                    item.id,
                    rev=item.rev,
                    resp=resp,
                    conf=read_confidence(mine),
                    ok=outcome.ok,
                    score=round(outcome.score, 4),
                    ms=ms,
                    ctx=self._context(),
                )
        finally:
            self._advance()

    def do_skip(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Record that the answer is not known, which counts as not right, and go on."""
        if self.stage != "asking":
            return
        item = self.items[self.index]
        self.answers[item.id], self.right[item.id] = None, False
        try:
            progress.record("skipped", item.id, rev=item.rev, ok=False, score=0.0, ms=ms, ctx=self._context())
        finally:
            self._advance()

    def _advance(self) -> None:
        self.focus = "head"
        self.index += 1
        while self.index < len(self.items) and self.index in self._passed():
            self.index += 1
        if self.index >= len(self.items):
            self._finish()

    def _passed(self) -> range:
        """The questions of the first part cannot be changed once their result is known."""
        return range(len(self.first)) if self.extended else range(0)

    def do_back(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Go back to an earlier question; its answer stands as it was and can be changed."""
        if self.stage == "asking" and self.index - 1 not in (-1, *self._passed()):
            self.index -= 1
            self.focus = "head"

    def do_more(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Ask the further questions."""
        if self.stage == "report" and not self.extended and self.more:
            self.extended, self.stage, self.index = True, "asking", len(self.first)
            self.focus = "head"

    def do_again(self, values: Mapping[str, Any], ms: int | None) -> None:
        """Begin another attempt, with equivalent siblings."""
        if self.stage == "report":
            self.attempt += 1
            self.stage = "intro"
            self._deal()
            self.focus = "head"

    def _finish(self) -> None:
        self.stage = "report"
        right, asked, more_right, more_asked = self.score()
        result = exam.verdict(right, asked, more_right, more_asked)
        self.say = f"{WORDS[result]} {exam.interval_words(right + (more_right or 0), asked + more_asked)}"
        resp = {"right": right, "asked": asked, "more_right": more_right, "more_asked": more_asked, "verdict": result}
        score = (right + (more_right or 0)) / (asked + more_asked)
        progress.record("finished", self.key, resp=resp, score=round(score, 4), ctx=self._context())


def _attempt(event: Event) -> int:
    found = event.ctx.get("attempt")
    return found if isinstance(found, int) else -1


def _count(number: int) -> str:
    return {2: "Two", 3: "Three", 4: "Four", 5: "Five"}.get(number, str(number))


def explained_html(form: Response, resp: Resp | None) -> str:
    """Return every option, or the number, with its reason, as one piece of HTML."""
    shown = form.results(resp) if resp else form.results({"chosen": []}) if form.by == "options" else []
    if form.by == "options":
        rows = [
            f'<li class="omw-result {row["mark"]}"><span class="omw-badge">{escape(row["badge"])}</span>'
            f'<div class="omw-text">{row["html"]}</div><div class="omw-why">{row["why"]}</div></li>'
            for row in shown[0]["rows"]
        ]
        return f'<ul class="omw-results">{"".join(rows)}</ul>'
    return shown[0]["html"] if shown else f"<p>Right is <strong>{inline(form.right_words())}</strong>.</p>"
