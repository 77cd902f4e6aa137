"""Recall: cards, questions, problems, tests and review, in a notebook cell.

`quiz.show("id")` puts one item of the question bank on the page; `quiz.reveal("id", value)` sets the real result of a
cell beside the learner's prediction; `quiz.deck`, `quiz.questions`, `quiz.open_questions`, `quiz.practice` and
`quiz.test` take a topic; `quiz.review`, `quiz.due`, `quiz.progress`, `quiz.reset` and `quiz.doors` look after what was
learned. How to write items: the docstring of `utils.quiz.bank`, and `python -m utils.quiz lint`.

The room knows nothing of torch or ranks and loads only what a call needs.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BankError",
    "deck",
    "doors",
    "due",
    "open_questions",
    "practice",
    "progress",
    "questions",
    "reset",
    "reveal",
    "review",
    "show",
    "test",
]

_HOMES = {name: "utils.quiz.page" for name in __all__} | {"BankError": "utils.quiz.bank"}


def __getattr__(name: str) -> Any:
    """Load the module behind a public name on first use, so that importing this package costs nothing."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
