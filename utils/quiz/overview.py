"""The whole course on the page: the map, what is due, the two doors, forgetting a topic, carrying progress away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils import progress
from utils.progress import Event
from utils.quiz import bank as banks
from utils.quiz import blocks, exam, history, memory
from utils.quiz.bank import Bank, Item
from utils.quiz.blocks import Block
from utils.quiz.examscreen import Exam
from utils.quiz.lessons import all_lessons, lesson
from utils.quiz.parts import Part
from utils.quiz.screens import Row, Screen
from utils.quiz.text import escape

NAMES = {"flashcard": "flashcard", "open": "open question", "problem": "problem"}


def counted(items: list[Item]) -> str:
    """Say how many items of which kind: "4 flashcards, 2 questions"."""
    kinds = Counter(NAMES.get(item.type, "question") for item in items)
    return ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in kinds.items())


# ---- review


class Review(Row):
    """What is due, one item at a time. What is missed comes once more at the end of the same sitting."""

    def __init__(self) -> None:
        found, self.broken = banks.all_banks()
        due, later = memory.due(found)
        super().__init__("Review", "Review", [d.item for d in due[: memory.A_SITTING]], role="review")
        self.index = 0
        self.left = len(due) - len(self.items)
        self.later = later
        self.begun = False

    def part(self, index: int) -> Part:
        if index not in self.parts:
            part = super().part(index)
            part.fresh()
        return self.parts[index]

    def blocks(self) -> list[Block]:
        if not self.items:
            return [blocks.heading("head", "Review"), blocks.plain("none", self._nothing())]
        if not self.begun:
            text = f"Due today: {counted(self.items)}."
            if self.left:
                text += f" {self.left} more wait for another sitting."
            start = blocks.button("start", "Start the review", primary=True)
            return [blocks.heading("head", "Review"), blocks.plain("due", text), blocks.buttons("nav", start)]
        return super().blocks()

    def _nothing(self) -> str:
        if not self.later:
            return (
                "Nothing is due. Rate flashcards or answer questions: what you know and what you miss comes back here."
            )
        when = self.later[0].when.astimezone().date().isoformat()
        same = [d.item for d in self.later if d.when.astimezone().date().isoformat() == when]
        return f"Nothing is due today. Next: {counted(same)}, on {when}."

    def press(self, do: str, values: Mapping[str, Any], ms: int | None) -> None:
        if do == "start":
            self.begun, self.focus = True, "head"
            return
        answered = self.index < len(self.items) and self.part(self.index).done
        super().press(do, values, ms)
        if not answered and self.index < len(self.items) and self.part(self.index).done:
            item = self.items[self.index]
            last = history.of_item(item)[-1:]
            if last and memory.rating(last[0]) == 1 and self.items.count(item) < 2:
                self.items.append(item)


class DueToday(Screen):
    """How much is due, in a line."""

    def __init__(self) -> None:
        super().__init__("Due today")
        found, _ = banks.all_banks()
        self.due, self.later = memory.due(found)

    def blocks(self) -> list[Block]:
        if self.due:
            text = f"Due today: {counted([d.item for d in self.due])}. quiz.review() asks them."
        elif self.later:
            text = f"Nothing is due today; the next on {self.later[0].when.astimezone().date().isoformat()}."
        else:
            text = "Nothing is due yet. Flashcards you rate and questions you miss come back here."
        return [blocks.plain("due", text)]

    def press(self, do: str, values: Mapping[str, Any], ms: int | None) -> None:
        """Nothing here can be pressed."""


# ---- the map


@dataclass(frozen=True)
class Standing:
    """Where the learner stands in one bank. `right` of `asked` counts the first answer to each question."""

    bank: Bank
    worked: int
    items: int
    passed: int
    exercises: int
    right: int
    asked: int
    due: int
    test: str

    @property
    def state(self) -> str:
        """Return "to do", "started" or "done" (the test says strong, or everything is worked through)."""
        if self.test == exam.STRONG or (self.worked == self.items and self.passed == self.exercises):
            return "done"
        return "started" if self.worked or self.passed or self.asked else "to do"


def standing(bank: Bank, events: list[Event], due: Counter[str]) -> Standing:
    """Replay the log for one bank."""
    live = {item.id: item for item in bank.items if item.status == "live"}
    open_items = [item for item in live.values() if item.type != "code" and set(item.roles) & {"lesson", "practice"}]
    exercises = [item for item in live.values() if item.type == "code"]
    answered = {e.item for e in events if e.ev in history.ANSWERS and e.ctx.get("role") != "test"}
    first: dict[str, bool] = {}
    for event in events:
        item = live.get(event.item)
        if item and event.rev == item.rev and item.type in exam.QUESTIONS and event.ev in ("answered", "skipped"):
            first.setdefault(item.id, bool(event.ok))
    tests = [e for e in events if e.ev == "finished" and e.item == f"test:{bank.name}" and isinstance(e.resp, dict)]
    return Standing(
        bank=bank,
        worked=sum(item.id in answered for item in open_items),
        items=len(open_items),
        passed=sum(any(e.ok for e in progress.attempts(item["check"], events)) for item in exercises),
        exercises=len(exercises),
        right=sum(first.values()),
        asked=len(first),
        due=due[bank.name],
        test=str(tests[-1].resp.get("verdict", "")) if tests else "",
    )


def standings() -> tuple[list[Standing], list[str]]:
    """Return where the learner stands in every bank, in the order of the lessons, and what could not be read."""
    found, broken = banks.all_banks()
    events = history.events()
    due = Counter(d.item.bank for d in memory.due(found)[0])
    order = [name.replace("_", "-") for name in all_lessons()]
    found.sort(key=lambda bank: (order.index(bank.name) if bank.name in order else len(order), bank.name))
    return [standing(bank, events, due) for bank in found], broken


class Map(Screen):
    """The map of the course, with the log's health and the buttons to carry progress away and bring it back."""

    def __init__(self) -> None:
        super().__init__("Your progress")
        self.result = self.message = ""

    def blocks(self) -> list[Block]:
        stands, broken = standings()
        found = [
            blocks.heading("head", self.label),
            blocks.html("map", _table(stands)),
            blocks.plain("next", _next(stands)),
        ]
        trouble = [str(fault) for fault in progress.faults()] + broken
        if trouble:
            rows = "".join(f"<li>{escape(line)}</li>" for line in trouble[:50])
            summary = f"{len(trouble)} thing{'s' * (len(trouble) != 1)} could not be read"
            found.append(blocks.fold("trouble", summary, f"<ul>{rows}</ul>"))
        found.append(blocks.plain("where", f"Kept in {progress.log_path()}", "quiet"))
        file = {"id": "file", "kind": "file", "label": "Bring back a downloaded file", "accept": ".jsonl"}
        result = [blocks.banner(self.result, "info")] if self.result else []
        message = [blocks.plain("message", self.message, "message")] if self.message else []
        row = [
            blocks.button("look", "Look again"),
            blocks.button("download", "Download my progress"),
            blocks.button("restore", "Restore from the file"),
        ]
        return [*found, file, *result, *message, blocks.buttons("actions", *row)]

    def press(self, do: str, values: Mapping[str, Any], ms: int | None) -> None:
        self.result = self.message = ""
        if do == "download":
            text = progress.download()
            self.download = ("progress.jsonl", text)
            self.result = f"{text.count(chr(10))} events handed to the browser as progress.jsonl."
        elif do == "restore":
            self._restore(values.get("file"))
        elif do == "look":
            self.result = "Counted again."
        self.say = self.result or self.message

    def _restore(self, text: Any) -> None:
        if not isinstance(text, str) or not text.strip():
            self.message = "Choose the file first (progress.jsonl, at most 20 MB)."
            return
        try:
            done = progress.restore(text)
        except progress.NotSavedError as error:
            self.message = str(error)
            return
        self.result = f"{done.added} events added, {done.known} were here already."
        if done.faults:
            lines = ", ".join(str(fault.line) for fault in done.faults[:10])
            self.result += f" {len(done.faults)} lines of the file are no events and were left out (line {lines})."


def _table(stands: list[Standing]) -> str:
    rows = []
    for stand in stands:
        name = stand.bank.name.replace("-", "_")
        found = lesson(name)
        title = found.link if found.href else escape(stand.bank.title)
        exercises = f", exercises {stand.passed} of {stand.exercises}" if stand.exercises else ""
        done = f"<strong>{stand.state}</strong><br>{stand.worked} of {stand.items} items{exercises}"
        cells = [done, str(stand.due) if stand.due else "none", _strength(stand)]
        rows.append(f'<tr><th scope="row">{title}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Topic", "Done", "Due today", "Strength"))
    caption = "Strength: first answers to questions, and between which rates the true one probably lies"
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _strength(stand: Standing) -> str:
    if not stand.asked:
        return "not known yet"
    low, high = (round(10 * bound) for bound in exam.wilson(stand.right, stand.asked))
    scale = "".join("▓" if low <= place <= high else "░" for place in range(11))
    test = f"<br>test: {escape(stand.test)}" if stand.test else ""
    words = f"{stand.right} of {stand.asked} right: between {low} and {high} in 10{test}"
    return f'<span aria-hidden="true">{scale}</span> {words}'


def _next(stands: list[Standing]) -> str:
    due = sum(stand.due for stand in stands)
    if due:
        return f"Next: {due} due for review (quiz.review())."
    for stand in stands:
        if stand.state != "done":
            return f"Next: {lesson(stand.bank.name.replace('-', '_')).words or stand.bank.title}."
    return "Everything is done. The review keeps it."


# ---- the two doors


class Doors(Screen):
    """Two ways into a topic. Testing yourself first is recommended; nothing requires it."""

    def __init__(self, bank: Bank) -> None:
        super().__init__(bank.title)
        self.bank = bank
        self.inner: Exam | None = None
        self.jumped = False

    def blocks(self) -> list[Block]:
        if self.inner:
            return [*self.inner.blocks(), blocks.buttons("doors", blocks.button("leave", "Back to the two doors"))]
        head = [blocks.heading("head", self.label)]
        if self.jumped:
            leave = blocks.buttons("doors", blocks.button("leave", "Back to the two doors"))
            return [*head, blocks.html("lessons", self._lessons()), leave]
        sides = (
            '<div class="omw-sides"><div class="omw-side"><p>Recommended</p><p><strong>Test yourself first</strong></p>'
            f"<p>{sum(self.bank.draw.values())} questions, easy to hard. They say whether this topic is already strong "
            "and where to start.</p></div>"
            '<div class="omw-side"><p>Or</p><p><strong>Jump in</strong></p>'
            "<p>Concepts and practice, no test required. The test stays here for later.</p></div></div>"
        )
        row = [blocks.button("test", "Test yourself first", primary=True), blocks.button("jump", "Jump in")]
        return [*head, blocks.html("sides", sides), blocks.buttons("doors", *row)]

    def _lessons(self) -> str:
        taught = list(dict.fromkeys(topic.lesson for topic in self.bank.topics if topic.lesson))
        every = all_lessons()
        last = max((every.index(name) for name in taught if name in every), default=-1)
        # Lessons stand on those before them, but for the first, which is the start.
        names = list(dict.fromkeys([*every[1 : last + 1], *taught]))
        names += [name for name in every if "practice" in name]
        rows = "".join(f"<li>{lesson(name).link}</li>" for name in names)
        return f"<p>These notebooks lead there, in this order:</p><ol>{rows}</ol>"

    def press(self, do: str, values: Mapping[str, Any], ms: int | None) -> None:
        if do == "leave":
            self.inner, self.jumped, self.focus = None, False, "head"
        elif self.inner:
            self.inner.act(do, values, ms)
            self.say, self.focus, self.show = self.inner.say, self.inner.focus, self.inner.show
        elif do == "test":
            self.inner, self.focus = Exam(self.bank), "head"
        elif do == "jump":
            self.jumped, self.focus = True, "head"


# ---- forgetting


class Forget(Screen):
    """Ask, keep a copy, then let the answers of a topic count no more; one press takes it back."""

    def __init__(self, name: str) -> None:
        bank, topic = banks.resolve(name)
        super().__init__(f"Reset: {name}")
        chosen = [item for item in bank.items if topic is None or item.topic == topic]
        self.covers = [item.id for item in chosen]
        self.covers += [f"check:{item['check']}" for item in chosen if item.type == "code"]
        self.covers += [f"test:{name}"] + [f"test:{bank.name}.{part.id}" for part in bank.topics if topic is None]
        self.name = name
        self.done = self.message = self.event = ""

    def blocks(self) -> list[Block]:
        count = sum(event.item in self.covers for event in history.events())
        head = blocks.heading("head", self.label)
        message = [blocks.plain("message", self.message, "message")] if self.message else []
        if self.done:
            row = [blocks.button("undo", "Take it back")] if self.event else []
            return [head, blocks.banner(self.done, "info"), *message, blocks.buttons("actions", *row)]
        if not count:
            return [head, blocks.plain("ask", f"Nothing is recorded in {self.name}."), *message]
        ask = f"Forget {count} recorded answer{'s' * (count != 1)} in {self.name}? A copy of your log is kept."
        row = [blocks.button("forget", "Forget them"), blocks.button("keep", "Keep them", primary=True)]
        return [head, blocks.plain("ask", ask), *message, blocks.buttons("actions", *row)]

    def press(self, do: str, values: Mapping[str, Any], ms: int | None) -> None:
        self.message = ""
        try:
            if do == "forget" and not self.done:
                copy = progress.keep_copy()
                self.event = progress.record("reset", self.name, resp=self.covers).id
                self.done = "Forgotten." + (f" The copy is {copy.name}, beside your log." if copy else "")
            elif do == "undo" and self.event:
                progress.record("unreset", self.name, resp=self.event)
                self.done, self.event = "Taken back: everything counts again.", ""
            elif do == "keep":
                self.done = "Kept."
        except progress.NotSavedError as error:
            self.message = str(error)
        self.say, self.focus = self.message or self.done, "head"
