"""On the ranks: build the learner's trainer, let it step, and report what it holds."""
from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.check.piece import Bundle, ContractError, held

if TYPE_CHECKING:
    import torch

    from utils.model import Config

SIGNATURE = '''\
class {name}:
    def __init__(self, config, seed, optimizer): ...  # optimizer: "sgd" or "adamw", for model.optimizer
    def step(self, tokens, targets): ...              # one step on the global batch; returns its loss
    def parameters(self): ...                         # {{name: tensor}} of what this rank holds, named as in model.GPT
    def gradients(self): ...                          # the same, of the last step, before clipping'''


@dataclass
class Report:
    """What one rank answers: `problem` says in words why there is nothing to compare."""

    loss: float | None = None
    parameters: Bundle = field(default_factory=Bundle)
    gradients: Bundle = field(default_factory=Bundle)
    problem: str = ""


class _Running:
    """The trainer under test on this rank."""

    trainer: Any = None


def build(name: str, config: Config, seeds: list[int], optimizer: str) -> Report:
    """Build the trainer of class `name` from this rank's seed and report its first parameters."""
    import torch

    from utils.ranks import engine

    names = engine.namespace()
    kind = names.get(name)
    if not inspect.isclass(kind):
        return Report(problem="missing")
    absent = [method for method in ("step", "parameters", "gradients") if not callable(getattr(kind, method, None))]
    if absent:
        return Report(problem=f"has no {', '.join(f'`{method}`' for method in absent)}")
    try:
        inspect.signature(kind).bind(config, seeds[0], optimizer)
    except TypeError as error:
        return Report(problem=f"cannot be built from (config, seed, optimizer): {error}")
    forget()
    seed = seeds[names["rank"]]
    torch.manual_seed(seed)
    _Running.trainer = names[name](config, seed, optimizer)
    return _report(None, gradients=False)


def step(tokens: torch.Tensor, targets: torch.Tensor) -> Report:
    """Let the trainer take one step and report its loss, gradients and parameters."""
    return _report(_Running.trainer.step(tokens, targets), gradients=True)


def forget() -> None:
    """Let go of the trainer and its memory."""
    import gc

    _Running.trainer = None
    gc.collect()


def _report(loss: Any, gradients: bool) -> Report:
    try:
        return Report(
            _number(loss),
            _settled("parameters", _Running.trainer.parameters()),
            _settled("gradients", _Running.trainer.gradients()) if gradients else Bundle(),
        )
    except ContractError as error:
        return Report(problem=str(error))


def _number(loss: Any) -> float | None:
    """Read the loss: a number, a tensor with one element, or None on a rank that does not know it."""
    if loss is None:
        return None
    try:
        return float(loss)
    except (TypeError, ValueError, RuntimeError):
        kind = type(loss).__name__
        raise ContractError(f"`step` returned a {kind}; return the loss, a number (None on ranks without it)") from None


def _settled(what: str, values: Any) -> Bundle:
    """Settle what `parameters()` or `gradients()` returned. No gradient (None) is left out."""
    if not isinstance(values, Mapping):
        hint = " (call dict(...) on named_parameters())" if inspect.isgenerator(values) else ""
        raise ContractError(f"`{what}()` returned a {type(values).__name__}; return a dict of tensors by name{hint}")
    return Bundle.of({str(n): held(f"{what}()[{n!r}]", value) for n, value in values.items() if value is not None})
