"""Answer a learner who asks "is this right?": not attempted, not yet, or passed. A check never raises.

How to write a check (in `utils/check/<lesson>.py`; `check.<name>` finds it by its name)
----------------------------------------------------------------------------------------
A check is a function that gets the learner's function and looks for what is off:

    from utils.check.verdict import NotYet, exercise

    @exercise(judges=("result",))                  # a plain function, handed over itself
    def idle_share(function):
        '''The share of time that p ranks idle with m micro-batches.'''
        if function(3, 1) != 2 / 3:
            return NotYet("result", "With 3 ranks and 1 micro-batch each rank works 1/3 of the time ...")

    @exercise(judges=("result", "messages", "bytes"), ranks=4)   # a function on the ranks, handed over by name
    def ring_all_reduce(name):
        seen = ranks.call(my_trial, name)          # my_trial runs on every rank and finds the function by
        ...                                        # engine.namespace()[name]

It returns (or raises) NotYet(what, hint), where `what` names what is off (result, messages, bytes, memory, ...), or
NotAttempted(why); it returns None when all is right. The frame does the rest:

- no function, a stub that raises NotImplementedError, ranks that are not running, a name that no rank knows: not
  attempted, with the cell to run;
- an error in the learner's code: not yet, with the error and the line. An interrupt: not yet;
- RanksError from ranks.call or ranks.run: not yet, with what the ranks explain (a deadlock is named so). A check that
  knows more catches it itself;
- an error in the check: said to be ours, nothing recorded;
- the attempt is recorded (`utils.progress`), unless it is "not attempted".

How to test it (three sides, `tests/exercises/sides.py`): the stub of the solution notebook is not attempted, its
solution passes, and each of at least six plausible wrong answers is not yet, with its own hint.
"""
from __future__ import annotations

import html
import inspect
import re
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

STATUSES = ("not attempted", "not yet", "passed")
# Where code stands that the learner did not write: this course's tools, the standard library, installed packages.
NOT_THE_LEARNERS = (str(Path(__file__).resolve().parent.parent), *sysconfig.get_paths().values(), "<frozen")


class NotYet(Exception):
    """Say what is off (result, messages, bytes, memory, ...) and give the hint for that mistake."""

    def __init__(self, what: str, hint: str, *details: str) -> None:
        super().__init__(f"{what}: {hint}")
        self.what, self.hint, self.details = what, hint, details


class NotAttempted(Exception):
    """Say that there is nothing to judge yet, and what to do first."""


@dataclass(frozen=True)
class Verdict:
    """An answer. It shows itself; `passed`, `status`, `what` (is off) and `hint` are for programs."""

    name: str
    status: str
    headline: str
    hint: str = ""
    what: str = ""
    details: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Tell whether all is right."""
        return self.status == "passed"

    def __str__(self) -> str:
        lines = [f"{self.status.capitalize()}. {self.headline}"]
        lines += [f"  Hint: {self.hint}"] if self.hint else []
        return "\n".join([*lines, *(f"  {line}" for line in self.details)]).replace("\n```", "")

    __repr__ = __str__

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        rule = {"passed": "solid", "not yet": "dashed"}.get(self.status, "dotted")  # form, not colour, tells them apart
        parts = [f"<p><strong>{self.status.capitalize()}.</strong> {_marked(self.headline)}</p>"]
        if self.hint:
            parts.append(f"<p><strong>Hint:</strong> {_marked(self.hint)}</p>")
        if self.details:
            parts.append("<ul>" + "".join(f"<li>{_marked(line)}</li>" for line in self.details) + "</ul>")
        style = f"border-left: 4px {rule} currentColor; padding-left: 0.8em"
        return {"text/html": f'<div style="{style}">{"".join(parts)}</div>', "text/plain": str(self)}


def _marked(text: str) -> str:
    """Escape a text; what stands in backticks becomes code, in fences (```) a block; lines and their indents stay."""
    words, *blocks = html.escape(text, quote=False).split("\n```")
    words = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", words)
    words = re.sub(r"(?m)^ +", lambda spaces: "&nbsp;" * len(spaces[0]), words).replace("\n", "<br>")
    return words + "".join(f"</p><pre><code>{block.strip()}</code></pre><p>" for block in blocks if block.strip())


@dataclass(eq=False)
class Exercise:
    """A check of an exercise: call it with the learner's function (or its name on the ranks)."""

    body: Callable[..., NotYet | NotAttempted | None]
    judges: tuple[str, ...]
    ranks: int  # needed; 0: a plain function

    def __post_init__(self) -> None:
        self.__doc__ = self.body.__doc__

    @property
    def name(self) -> str:
        """Return the name of the exercise, which is that of the function the learner writes."""
        return self.body.__name__

    def __call__(self, function: Any = None, *more: Any) -> Verdict:
        """Judge the learner's function. Never raises."""
        source = ""
        try:
            self._find(function)
            source = _source(function, bool(self.ranks))
            found = self.body(function, *more)
        except (NotYet, NotAttempted) as outcome:
            found = outcome
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            found = _explained(error)
        verdict = self._verdict(found)
        return _recorded(verdict, source) if verdict.what != "the check" else verdict

    def _find(self, function: Any) -> None:
        """Raise NotAttempted, saying what to run, if there is no function to judge."""
        if not self.ranks:
            if isinstance(function, str):
                raise NotAttempted(f"Hand over the function itself: `check.{self.name}({function})`, without quotes.")
            if not callable(function):
                raise NotAttempted(f"Hand over your function: `check.{self.name}({self.name})`.")
            return
        if not isinstance(function, str):
            raise NotAttempted(
                f'This function runs on the ranks, so hand over its name: `check.{self.name}("{self.name}")`.'
            )
        from utils import ranks

        try:
            known = ranks.call(is_callable, function)
        except ranks.RanksError as error:
            raise NotAttempted(str(error)) from None
        if len(known) < self.ranks:
            raise NotAttempted(f"{len(known)} ranks are running; this check needs {self.ranks}: "
                               f"`ranks.start({self.ranks})`, then run the cell with your function again.")
        if not all(known):
            missing = [rank for rank, found in enumerate(known) if not found]
            raise NotAttempted(f"There is no function `{function}` on {_names(missing)}. "
                               "Run the `%%ranks` cell with your function first.")

    def _verdict(self, found: NotYet | NotAttempted | None) -> Verdict:
        if found is None:
            right = ", ".join(self.judges[:-1]) + (" and " if self.judges[1:] else "") + self.judges[-1]
            verb = "are" if self.judges[1:] else "is"
            return Verdict(self.name, "passed", f"`{self.name}`: {right} {verb} right.")
        if isinstance(found, NotAttempted):
            why = str(found) or "Write your code in place of the line that raises NotImplementedError."
            return Verdict(self.name, "not attempted", f"`{self.name}`: {why}")
        verb = "are" if found.what in ("messages", "bytes") else "is"
        head = {
            "error": "your code raised an error.",
            "deadlock": "the ranks wait for each other for ever (deadlock).",
            "interrupted": "it was interrupted before it ended.",
            "the check": "the check itself failed; this says nothing about your code. Please report it.",
        }.get(found.what, f"the {found.what} {verb} off.")
        return Verdict(self.name, "not yet", f"`{self.name}`: {head}", found.hint, found.what, tuple(found.details))


def exercise(judges: Sequence[str] = ("result",), ranks: int = 0) -> Callable[[Callable[..., Any]], Exercise]:
    """Make a check of the decorated function: see the top of this module.

    judges: what it looks at, named when all is right. ranks: how many must run, for a function on the ranks.
    """
    return lambda body: Exercise(body, tuple(judges), ranks)


def is_callable(name: str) -> bool:
    """Tell, on a rank, whether the learner has a function or class of this name there."""
    from utils.ranks import engine

    return callable(engine.namespace().get(name))


def source_of(name: str) -> str:
    """Give, on a rank, the source of the learner's function of this name, or nothing."""
    from utils.ranks import engine

    return _source(engine.namespace().get(name), False)


def _source(function: Any, on_ranks: bool) -> str:
    """Give the source of a function, or nothing: only a digest of it is kept, to tell attempts apart."""
    try:
        if on_ranks:
            from utils import ranks

            return ranks.call(source_of, function, on=0)[0]
        return inspect.getsource(function)
    except Exception:
        return ""


def _explained(error: BaseException) -> NotYet | NotAttempted:
    """Turn an error of the learner's code, of the ranks or of ours into an answer."""
    states = getattr(error, "states", None)
    if states is not None:  # RanksError, known by its shape so that plain checks need no ranks
        if any(state.name == "NotImplementedError" for state in states.values()):
            return NotAttempted()
        cause = getattr(error, "cause", "")
        what = {"order": "deadlock", "skipped": "deadlock", "unmatched": "deadlock", "mismatch": "messages",
                "memory": "memory", "interrupted": "interrupted"}.get(cause, "error")
        return NotYet(what, str(error))
    if isinstance(error, NotImplementedError):
        return NotAttempted()
    if isinstance(error, KeyboardInterrupt):
        return NotYet("interrupted", "If your function runs without end, look at the condition of its loop.")
    words = f"{type(error).__name__}: {error}".rstrip(": ")
    learners = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(NOT_THE_LEARNERS)]
    if not learners:
        return NotYet("the check", words)
    last = learners[-1]
    return NotYet("error", f"line {last.lineno} of your cell, `{last.line}`, raised {words}")


def _recorded(verdict: Verdict, source: str) -> Verdict:
    """Record the attempt; add a line if that did not work."""
    try:
        from utils import progress

        trouble = progress.attempt(verdict.name, verdict.status, verdict.hint, source)
    except Exception as error:
        trouble = f"This attempt could not be recorded: {error}"
    return replace(verdict, details=(*verdict.details, trouble)) if trouble else verdict


def _names(numbers: Sequence[int]) -> str:
    return ("rank " if len(numbers) == 1 else "ranks ") + ", ".join(map(str, numbers))
