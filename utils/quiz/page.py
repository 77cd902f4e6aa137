"""What a notebook calls: every public function of `utils.quiz`."""

from __future__ import annotations

from typing import Any

from utils.quiz import bank as banks
from utils.quiz import static
from utils.quiz.bank import BankError
from utils.quiz.text import escape

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
    """Draw the test of a topic; the verdict and all feedback come at the end. A second attempt draws siblings."""
    bank, part = banks.resolve(topic)
    from utils.quiz import exam

    drawn = exam.draw(bank, "reader", 0, part)
    if not drawn.first:
        raise BankError(f"The bank {topic!r} has no questions with the role test.")
    from utils.quiz.examscreen import Exam

    title = f"{bank.title}: test, {static.blueprint(bank)}"
    html, text = static.list_html(title, drawn.first, "Question"), static.list_text(title, drawn.first, "Question")
    _put(lambda: Exam(bank, part), html, text)


def _fixed(screen: Any, message: str) -> None:
    """Display a screen that is all about the learner; its form without a kernel is a sentence."""
    _put(screen, f"<p>{escape(message)}</p>", message)


def review() -> None:
    """Ask what is due today: flashcards and missed questions, spaced over days."""
    from utils.quiz.overview import Review

    _fixed(Review, "Review: run this cell to be asked what is due today.")


def due() -> None:
    """Say in a line how much is due today."""
    from utils.quiz.overview import DueToday

    _fixed(DueToday, "Run this cell to see what is due for review.")


def progress() -> None:
    """Show the map of the course: done, to do, due, and how strong each topic is; download and restore your answers."""
    from utils.quiz.overview import Map

    _fixed(Map, "Your progress: run this cell to see what is done, what is due, and how strong each topic is.")


def doors(topic: str) -> None:
    """Offer the two ways into a topic: test yourself first (recommended), or jump in."""
    bank, _ = banks.resolve(topic)
    from utils.quiz.overview import Doors

    two = [
        f"Test yourself first (recommended): {static.blueprint(bank)}. Run this cell, or quiz.test({topic!r}).",
        "Jump in: concepts and practice, no test required.",
    ]
    html = (
        f"<p><strong>{escape(bank.title)}</strong></p>\n<ul>\n"
        + "\n".join(f"<li>{escape(t)}</li>" for t in two)
        + "\n</ul>"
    )
    _put(lambda: Doors(bank), html, "\n".join([bank.title, *(f"  - {line}" for line in two)]))


def reset(topic: str) -> None:
    """Forget what was answered in a topic, after asking; a copy of the log is kept and one press takes it back."""
    banks.resolve(topic)
    from utils.quiz.overview import Forget

    _fixed(lambda: Forget(topic), f"Reset of {topic}: run this cell; it asks before anything is forgotten.")
