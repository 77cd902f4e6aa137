"""Ask whether something is right: `check.same_training("Trainer")`, or the check of an exercise by its name.

Every check answers with a verdict that shows itself (`.passed`, `.status`, `.hint`) and never raises. The checks of a
lesson's exercises stand in the module of that lesson, `utils/check/<lesson>.py`; `check.<exercise>` finds them there.
"""
from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.check.piece import Piece as Piece
    from utils.check.piece import pieces as pieces
    from utils.check.training import same_training as same_training

FRAME = ("causes", "judge", "piece", "reference", "trainers", "training", "traps", "verdict")
_PUBLIC = {"same_training": "training", "Piece": "piece", "pieces": "piece", "Verdict": "verdict", "NotYet": "verdict"}


def exercises() -> dict[str, Any]:
    """Give the check of every exercise by its name."""
    from utils.check.verdict import Exercise

    found: dict[str, Any] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in FRAME):
        for value in vars(importlib.import_module(f"{__name__}.{module}")).values():
            if isinstance(value, Exercise):
                found[value.name] = value
    return found


def __getattr__(name: str) -> Any:
    """Find what is public by its name, loading only what it needs."""
    if name.startswith("_"):
        raise AttributeError(name)
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    if name in (m.name for m in pkgutil.iter_modules(__path__)):
        return importlib.import_module(f"{__name__}.{name}")
    known = exercises()
    if name in known:
        return known[name]
    there = ", ".join(sorted([*known, "same_training"]))
    raise AttributeError(f"there is no check called {name!r}; there are: {there}")


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, "exercises", *exercises()])
