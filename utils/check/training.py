"""Prove that training on many ranks is the training of one worker: `check.same_training("Trainer")`.

The learner's class stands on the ranks. Every rank builds one; all take the same steps on the same global batches; this
process trains the whole model beside them. At every step loss, gradients (before clipping), their norm and the
parameters are compared, tensor by tensor and rank by rank (tolerances: `utils.check.judge`). The first step where
anything differs ends the check: the verdict names the step, the tensor, the rank, by how much, and the usual cause.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils import model
from utils.check import causes, judge, trainers
from utils.check.piece import Bundle
from utils.check.reference import Expected, Reference, Tensors
from utils.check.trainers import SIGNATURE, Report
from utils.check.traps import TRAPS, Fixture, fixture, named
from utils.check.verdict import NotAttempted, NotYet, Verdict, _explained

NAMES = {"sgd": "SGD", "adamw": "AdamW"}
TOLERANCES = (f"Tolerances: loss {judge.LOSS:g} of its size, gradients {judge.GRADIENT:g} of theirs, parameters "
              f"{judge.PARAMETER:g} of the way they moved.")


@dataclass(frozen=True)
class Comparison(Verdict):
    """A verdict that knows where the two trainings part: `step` counts from 1 (0: before the first)."""

    cause: str = ""
    optimizer: str = ""
    step: int | None = None
    tensor: str = ""
    rank: int | None = None
    measured: dict[str, float] = field(default_factory=dict)  # greatest difference of each kind, in its unit


class Parted(NotYet):
    """Where and how the trainings part."""

    def __init__(self, what: str, hint: str, *details: str, head: str = "", **where: Any) -> None:
        super().__init__(what, hint, *details)
        self.head, self.where = head, where


def same_training(
    name: str = "Trainer",
    traps: str | Iterable[str] = (),
    optimizer: str | Sequence[str] = ("sgd", "adamw"),
    steps: int = 5,
    config: model.Config | None = None,
    sequences: int | None = None,
) -> Comparison:
    """Compare the trainer of class `name` on the ranks with one worker, at every step. Never raises for its mistakes.

    traps: names of fixtures that let one mistake show (seeds, tied, frozen, uneven, clip, tokens), or "all".
    optimizer: "sgd", "adamw" or both (SGD first: it forgives no constant factor). steps: for each optimizer.
    config: sizes of the model (six blocks of width 32 unless given). sequences: a step's (three for each rank).
    Raises ValueError for a trap or an optimizer that does not exist.
    """
    chosen = named(traps)
    optimizers = [optimizer] if isinstance(optimizer, str) else list(optimizer)
    if unknown := [o for o in optimizers if o not in model.LEARNING_RATES]:
        raise ValueError(f"there is no optimizer {unknown[0]!r}; there are {', '.join(model.LEARNING_RATES)}")
    measured: dict[str, float] = {}
    current, progress = "", Progress(name, steps * len(optimizers))
    try:
        world_size = _present(name)
        training = fixture(chosen, world_size, steps, config, sequences)
        for current in optimizers:
            _Comparing(name, training, current, measured).run(steps, progress)
    except (NotYet, NotAttempted) as outcome:
        found: NotYet | NotAttempted = outcome
    except (Exception, KeyboardInterrupt) as error:
        found = _explained(error)
    else:
        return _passed(name, chosen, optimizers, steps, measured)
    finally:
        progress.end()
        _forget()
    return _failed(name, found, chosen, current, measured)


def _present(name: Any) -> int:
    """Count the ranks. Raises NotAttempted, saying what to do, if there are none."""
    from utils import ranks

    if not isinstance(name, str):
        raise NotAttempted('Your class lives on the ranks: hand over its name, `check.same_training("Trainer")`.')
    try:
        return len(ranks.gather("rank"))
    except ranks.RanksError as error:
        raise NotAttempted(str(error)) from None


def _forget() -> None:
    """Free the trainers; where the ranks are gone there is nothing to free."""
    from utils import ranks

    try:
        ranks.call(trainers.forget)
    except Exception:
        return


class Progress:
    """A line that says how far the comparison is, where somebody looks on, after two seconds; it goes at the end."""

    AFTER = 2.0

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps, self.done = name, steps, 0
        self.start, self.handle = time.monotonic(), None

    def tick(self, optimizer: str) -> None:
        """Note one more step."""
        self.done += 1
        if time.monotonic() - self.start > self.AFTER and _looked_at():
            self._show(f"comparing {self.name} with one worker ({optimizer}): step {self.done} of {self.steps}")

    def end(self) -> None:
        """Empty the line."""
        if self.handle is not None:
            self._show("")

    def _show(self, text: str) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self.handle.update({"text/plain": text}, raw=True)


def _looked_at() -> bool:
    """Tell whether this is a cell of a notebook that is open in a browser: JupyterLab says which cell it runs."""
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    try:
        return bool(shell.kernel.get_parent("shell")["metadata"]["cellId"])
    except (AttributeError, KeyError, TypeError):
        return False


class _Comparing:
    """One training beside another, under one optimizer."""

    def __init__(self, name: str, training: Fixture, optimizer: str, measured: dict[str, float]) -> None:
        self.name, self.fixture, self.optimizer, self.measured = name, training, optimizer, measured
        self.config = training.config
        self.reference = Reference(self.config, training.seeds[0], optimizer)
        self.step = 0
        self.forms: dict[str, Any] = {}
        self.before: Tensors = {}  # gradients of the step before

    def run(self, steps: int, progress: Progress) -> None:
        """Train both, and raise Parted where they part."""
        reports = self._call(trainers.build, self.name, self.config, self.fixture.seeds, self.optimizer)
        self._compare_start(reports)
        for index in range(steps):
            self.step = index + 1
            tokens, targets = self.fixture.batch(index)
            expected = self.reference.step(tokens, targets)
            reports = self._call(trainers.step, tokens, targets)
            self._compare_step(reports, expected, tokens, targets)
            progress.tick(NAMES[self.optimizer])

    def _call(self, function: Callable[..., Report], *args: Any) -> list[Report]:
        """Call on every rank, and turn what cannot be compared into an answer."""
        from utils import ranks

        try:
            reports = ranks.call(function, *args)
        except ranks.RanksError as error:
            outcome = _explained(error)
            if isinstance(outcome, NotYet):
                raise Parted(outcome.what, outcome.hint, step=self.step, head=self._when(outcome.what)) from None
            raise outcome from None
        problems = {rank: report.problem for rank, report in enumerate(reports) if report.problem}
        if problems:
            self._explain_problem(*next(iter(problems.items())))
        return reports

    def _when(self, what: str) -> str:
        does = {"deadlock": "the ranks wait for each other for ever", "interrupted": "interrupted"}
        return f"{does.get(what, 'it failed')} {'while it was built' if not self.step else f'at step {self.step}'}."

    def _explain_problem(self, rank: int, problem: str) -> None:
        form = "\n```\n" + SIGNATURE.format(name=self.name) + "\n```"
        if problem == "missing":
            raise NotAttempted(f"There is no class `{self.name}` on rank {rank}. Define it in a `%%ranks` cell:{form}")
        if problem.startswith(("has no", "cannot be built")):
            raise Parted("class", f"A trainer has this form:{form}", head=f"the class {problem}.")
        raise Parted("class", problem, head=f"rank {rank} returned what cannot be compared.", step=self.step, rank=rank)

    def _compare_start(self, reports: list[Report]) -> None:
        start = self.reference.start
        held = self._taken_apart("parameters", [report.parameters for report in reports], start)
        unit = {name: judge.rms(tensor) or 1.0 for name, tensor in start.items()}
        off = judge.differences(judge.errors(held, start, unit, self.config), held, 1e-6)
        if off:
            cause, words = causes.of_the_start(held, off, self.reference, self.fixture.seeds)
            raise self._parted("first parameters", cause, words, off, [])

    def _compare_step(self, reports: list[Report], expected: Expected, tokens: Any, targets: Any) -> None:
        gradients = self._taken_apart("gradients", [r.gradients for r in reports], expected.gradients)
        parameters = self._taken_apart("parameters", [r.parameters for r in reports], expected.after)
        losses = [r.loss for r in reports]
        if not any(v is not None for v in losses):
            raise Parted("loss", "`step` returned None on every rank. At least one must return the loss of the batch.",
                         head=f"no rank returned a loss at step {self.step}.", step=self.step)
        norm = judge.norm_of(gradients, expected.gradients, self.config)
        by_gradient = judge.errors(gradients, expected.gradients, judge.units(expected, {}), self.config)
        by_way = judge.units(None, self.reference.start, expected.after)
        by_parameter = judge.errors(parameters, expected.after, by_way, self.config)
        by_loss = [0.0 if v is None else abs(v - expected.loss) / expected.loss for v in losses]
        self._note("loss", by_loss)
        self._note("gradient norm", [abs(norm - expected.norm) / expected.norm])
        self._note("gradient", [error for by_name in by_gradient for error in by_name.values()])
        self._note("parameter", [error for by_name in by_parameter for error in by_name.values()])
        off_gradients = judge.differences(by_gradient, gradients, judge.GRADIENT)
        off_parameters = judge.differences(by_parameter, parameters, judge.PARAMETER)
        off_losses = [rank for rank, error in enumerate(by_loss) if not error <= judge.LOSS]
        if not (off_gradients or off_parameters or off_losses):
            self.before = expected.gradients
            return
        scene = causes.Scene(self.reference, expected, tokens, targets, gradients, parameters, losses, self.before)
        facts = [_loss_fact(losses, expected), _norm_fact(norm, expected),
                 _tensor_fact("gradients", off_gradients), _tensor_fact("parameters", off_parameters)]
        if off_gradients:
            raise self._parted("gradient", *causes.of_gradients(scene, off_gradients), off_gradients, facts)
        if off_parameters:
            raise self._parted("parameters", *causes.of_parameters(scene, off_parameters), off_parameters, facts)
        cause, words = causes.of_loss(scene)
        raise Parted("loss", words, *facts, head=f"the loss differs at step {self.step}, on rank {off_losses[0]}.",
                     cause=cause, step=self.step, rank=off_losses[0])

    def _taken_apart(self, what: str, bundles: list[Bundle], expected: Tensors) -> judge.Pieces:
        """Unpack what the ranks sent; look at names, shapes and places whenever they are new."""
        held, form = [bundle.pieces() for bundle in bundles], [bundle.form() for bundle in bundles]
        if self.forms.get(what) != form:
            try:
                judge.checked(what, held, expected, self.reference.start, self.config)
            except judge.Problem as problem:
                head = "what it returned cannot be compared."
                raise Parted("class", str(problem), head=head, step=self.step) from None
            self.forms[what] = form
        return held

    def _note(self, kind: str, values: Iterable[float]) -> None:
        self.measured[kind] = max([self.measured.get(kind, 0.0), *values])

    def _parted(self, what: str, cause: str, words: str, off: list[judge.Difference], facts: list[str]) -> Parted:
        first = off[0]
        when = "before the first step" if not self.step else f"at step {self.step}"
        head = (f"the {what} differ{'' if what.endswith('parameters') else 's'} {when}: `{first.name}`{first.where} on "
                f"rank {first.rank}, off by {share(first.error)}.")
        return Parted(what, words, *facts, head=head, cause=cause, step=self.step, tensor=first.name, rank=first.rank)


def share(error: float) -> str:
    """Write a difference relative to its unit."""
    if error != error or error == float("inf"):
        return "all (not a number)"
    return f"{error:.2g} times its size" if error >= 0.995 else f"{100 * error:.2g} %"


def _loss_fact(losses: list[float | None], expected: Expected) -> str:
    if all(v is None or abs(v - expected.loss) <= judge.LOSS * expected.loss for v in losses):
        return "loss: right"
    for digits in (4, 7):  # as many as it takes to see the difference
        texts, one = ["none" if v is None else f"{v:.{digits}g}" for v in losses], f"{expected.loss:.{digits}g}"
        if set(texts) - {one, "none"}:
            break
    given = texts[0] if len(set(texts)) == 1 else "by rank " + ", ".join(texts)
    return f"loss: {given}; one worker: {one}"


def _norm_fact(norm: float, expected: Expected) -> str:
    right = abs(norm - expected.norm) <= judge.GRADIENT * expected.norm
    return f"gradient norm: {'right' if right else f'{norm:.3g}; one worker: {expected.norm:.3g}'}"


def _tensor_fact(what: str, off: list[judge.Difference]) -> str:
    if not off:
        return f"{what}: right"
    ranks, tensors = sorted({d.rank for d in off}), list(dict.fromkeys(d.name for d in off))
    on = "rank " if len(ranks) == 1 else "ranks "
    first = ", ".join(f"`{t}`" for t in tensors[:2]) + (" ..." if len(tensors) > 2 else "")
    return f"{what}: {len(tensors)} tensor{'s' * (len(tensors) > 1)} off on {on}{', '.join(map(str, ranks))}: {first}"


def _with(traps: list[str]) -> str:
    return f"traps: {', '.join(traps)}" if traps else "no traps"


def _passed(name: str, traps: list[str], optimizers: list[str], steps: int, measured: dict[str, float]) -> Comparison:
    under = " and ".join(NAMES[o] for o in optimizers)
    head = (f"`{name}` is the training of one worker: loss, gradients, their norm and the parameters are the same at "
            f"all {steps} steps under {under} ({_with(traps)}).")
    return Comparison(name, "passed", head, details=(TOLERANCES,), measured=measured)


def _failed(name: str, found: NotYet | NotAttempted, traps: list[str], optimizer: str,
            measured: dict[str, float]) -> Comparison:
    if isinstance(found, NotAttempted):
        why = str(found) or "Write your code in place of the line that raises NotImplementedError."
        return Comparison(name, "not attempted", f"`{name}`: {why}", cause="missing")
    where = {"cause": found.what} | getattr(found, "where", {})
    ours = "interrupted." if found.what == "interrupted" else "the check itself failed; please report it."
    head = getattr(found, "head", "") or ours
    under = f" ({NAMES.get(optimizer, optimizer)}, {_with(traps)})" if optimizer else ""
    return Comparison(name, "not yet", f"`{name}`{under}: {head}", found.hint, found.what, found.details,
                      optimizer=optimizer, measured=measured, **where)


__all__ = ["TRAPS", "Comparison", "same_training"]
