"""What a notebook calls: every public function of `utils.quiz`."""

from __future__ import annotations

from typing import Any

from utils.quiz import bank as banks
from utils.quiz import static
from utils.quiz.bank import BankError

QUESTIONS = ("mcq", "multi", "numeric")


class Static:
    """The form without a kernel, where there is no front end to draw another."""

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}


def _put(screen: Any, html: str, text: str) -> None:
    """Display a screen: live in a kernel, its static form elsewhere."""
    from IPython import get_ipython
    from IPython.display import display

    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        display(Static(html, text))
        return
    from utils.quiz.widget import QuizWidget

    display(QuizWidget(screen(), html, text))


def show(identifier: str) -> None:
    """Put one item of the bank on the page.

    Raises BankError, naming the nearest id, where there is no such item.
    """
    item = banks.find(identifier)
    from utils.quiz.screens import Single

    _put(lambda: Single(item), static.item_html(item), static.item_text(item))


def reveal(identifier: str, value: Any) -> None:
    """Set the real result of this cell beside the learner's prediction; fold it where there is no prediction yet.

    `value` may be anything: it is shown as text that is the same on every run (tensors and arrays by their numbers).
    A prediction made later, in the cell above, opens the result by itself.
    """
    item = banks.find(identifier)
    if item.type != "predict":
        raise BankError(f"quiz.reveal goes with an item of type predict; {identifier!r} is of type {item.type}.")
    from utils.quiz.screens import Reveal

    _put(lambda: Reveal(item, value), static.reveal_html(item, value), static.reveal_text(item))


def _several(topic: str, types: tuple[str, ...], what: str, place: str) -> None:
    bank, part = banks.resolve(topic)
    items = bank.select(*types, role="practice", topic=part)
    if not items:
        raise BankError(f"The bank {topic!r} has no {what} for practice.")
    from utils.quiz.screens import Row

    title = f"{bank.title}: {len(items)} {what}"
    html, text = static.list_html(title, items, place), static.list_text(title, items, place)
    _put(lambda: Row(title, place, items), html, text)


def deck(topic: str) -> None:
    """Show the flashcards of a topic, one at a time."""
    _several(topic, ("flashcard",), "flashcards", "Card")


def questions(topic: str) -> None:
    """Show the questions of a topic that are for practice: single choice, multiple choice, numbers."""
    _several(topic, QUESTIONS, "questions", "Question")


def open_questions(topic: str) -> None:
    """Show the open questions of a topic."""
    _several(topic, ("open",), "open questions", "Open question")


def practice(topic: str) -> None:
    """Show the practice problems of a topic, with hints, steps and common mistakes."""
    _several(topic, ("problem",), "practice problems", "Practice")


def test(topic: str) -> None:
    """Draw the test of a topic; the verdict and all feedback come at the end."""
    bank, _ = banks.resolve(topic)
    items = []
    for difficulty, count in bank.draw.items():
        pool = [item for item in bank.select(*QUESTIONS, role="test") if item.difficulty == difficulty]
        slots = list({item.equiv: item for item in reversed(pool)}.values())[::-1]
        items += slots[:count]
    if not items:
        raise BankError(f"The bank {topic!r} has no questions with the role test.")
    title = f"{bank.title}: test"
    from utils.quiz.screens import Row

    html, text = static.list_html(title, items, "Question"), static.list_text(title, items, "Question")
    _put(lambda: Row(title, "Question", items), html, text)


def _later(message: str) -> None:
    from IPython.display import display

    display(Static(f"<p>{message}</p>", message))


def review() -> None:
    """Show what is due today: cards and questions whose time has come."""
    _later("Nothing is due yet: rate flashcards or answer questions first, and they come back here over days.")


due = review


def progress() -> None:
    """Show the map of the course: done, to do, due, and how strong each topic is."""
    _later("Nothing is recorded yet.")


def doors(topic: str) -> None:
    """Offer the two ways into a topic: test yourself first (recommended), or jump in."""
    bank, _ = banks.resolve(topic)
    _later(f"{bank.title}: test yourself first (recommended), or jump in.")


def reset(topic: str) -> None:
    """Forget what was answered in a topic, after asking; a copy of the log is kept."""
    banks.resolve(topic)
