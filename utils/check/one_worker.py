"""Checks of the exercises on one worker: the work of a step, exact accumulation, the largest micro-batch.

The references are counted, not computed by a second formula, where something can count: FLOPs by PyTorch's counter,
gradients by the whole batch at once, memory by the ledger's meter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from utils.check.verdict import NotYet, exercise

if TYPE_CHECKING:
    from torch import Tensor, nn

    from utils.model import Config

# ------------------------------------------------------------------------------------------------------ count the work

# (layers, width, heads, context, vocab), sequences: no two sizes alike, so that one can not stand for another
WORK = (((6, 64, 4, 64, 100), 4), ((2, 32, 2, 48, 50), 3), ((1, 96, 3, 128, 70), 2))


@functools.cache
def counted_work(config: Config, sequences: int) -> int:
    """Count the FLOPs of one training step with PyTorch's counter, attention's products included."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from utils import model

    tokens = torch.zeros(sequences, config.context, dtype=torch.int64)
    network = model.GPT(config, seed=0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(network(tokens), tokens).backward()
    return int(counter.get_total_flops())


def _work_mistakes(c: Config, sequences: int) -> dict[str, float]:
    """Give what known mistakes lead to: hint -> FLOPs."""
    tokens = sequences * c.context
    blocks, output = c.layers * 12 * c.width**2, c.vocab * c.width
    weights = blocks + output
    vectors = c.layers * 10 * c.width + 2 * c.width  # biases, gains and shifts
    attention = 12 * c.layers * c.context * c.width
    right = (6 * weights + attention) * tokens
    return {
        "That is half of it: a multiply-add is two operations.": right / 2,
        "That is the forward pass alone. The backward pass costs twice as much again.": right / 3,
        "That is the backward pass alone; add the forward pass.": right * 2 / 3,
        "That is one token. Every token of the batch passes through the model.": right / tokens,
        "That is one sequence. Every sequence of the batch passes through the model.": right / sequences,
        "You counted tokens as if each sequence were one token: multiply by the context.": right / c.context,
        "Attention's own products are missing: queries with keys, and weights with values.": 6 * weights * tokens,
        "That is 6 × all parameters × tokens. Some parameters are in no product, and attention's products are missing.":
            6 * (weights + c.context * c.width + vectors) * tokens,
        "You counted every parameter. Position embedding, norms and biases are in no matrix product.":
            (6 * (weights + c.context * c.width + vectors) + attention) * tokens,
        "You counted the position embedding. It is looked up and added: no product.":
            (6 * (weights + c.context * c.width) + attention) * tokens,
        "You counted the token embedding twice. On the way in it is looked up; only as output weight it is multiplied.":
            (6 * (weights + output) + attention) * tokens,
        "The output layer is missing: vocab × width weights, the tied embedding.": (6 * blocks + attention) * tokens,
        "Attention's products have a backward pass too: three times their forward work.":
            (6 * weights + attention / 3) * tokens,
        "Attention has two products, queries with keys and weights with values; one is missing.":
            (6 * weights + attention / 2) * tokens,
        "You took the width of one head for attention; the heads together are as wide as the model.":
            (6 * weights + attention / c.heads) * tokens,
        "Attention's products belong to every block: multiply by the number of blocks.":
            (6 * weights + attention / c.layers) * tokens,
        "A block has 12 × width² weights in products: 4 in attention, and 8 in the perceptron.":
            (6 * (c.layers * 8 * c.width**2 + output) + attention) * tokens,
    }  # fmt: skip


@exercise(judges=("result",))
def count_work(function: Callable[[Config, int], float]) -> NotYet | None:
    """The FLOPs of one training step."""
    from utils import model

    cases = [(model.Config(*sizes), sequences) for sizes, sequences in WORK]
    answers = [_number(function(config, sequences)) for config, sequences in cases]
    rights = [counted_work(config, sequences) for config, sequences in cases]
    if all(math.isclose(a, right, rel_tol=1e-9) for a, right in zip(answers, rights, strict=True)):
        return None
    details = [f"{_sizes(c)}, {n} sequences: your {a:,.0f}, counted {right:,}"
               for (c, n), a, right in zip(cases, answers, rights, strict=True)]  # fmt: skip
    mistakes = [_work_mistakes(config, sequences) for config, sequences in cases]
    for hint in mistakes[0]:
        if all(math.isclose(a, table[hint], rel_tol=1e-9) for a, table in zip(answers, mistakes, strict=True)):
            return NotYet("result", hint, *details)
    fitting = [math.isclose(a, right, rel_tol=1e-9) for a, right in zip(answers, rights, strict=True)]
    if any(fitting):
        hint = "Right for one model and not for another: is a number of this lesson's model written into your function?"
    else:
        hint = "Take it apart: the blocks, the output layer, attention's own products; each forwards and backwards."
    return NotYet("result", hint, *details)


def _sizes(config: Config) -> str:
    return f"{config.layers} blocks, width {config.width}, context {config.context}, vocab {config.vocab}"


def _number(value: Any) -> float:
    """Take the learner's answer as a number."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise NotYet("result", f"Return a number; yours is {_kind(value)}.")
    return float(value)


def _kind(value: Any) -> str:
    return "None: is there a `return`?" if value is None else f"of type `{type(value).__name__}`"


# ---------------------------------------------------------------------------------------------------------- accumulate

# sequences, size of a micro-batch, are some targets left out (-100)?
BATCHES = ((8, 4, False), (10, 4, False), (3, 8, False), (10, 4, True), (13, 4, True))  # the last: a part without any
_NO_MEAN = (
    "In one micro-batch no target counts, and a mean over none is 0 / 0: take the sum (`reduction=\"sum\"`), and "
    "divide by the targets that count in the whole batch."
)
_SUM_MISTAKE = "Each micro-batch counts as much as it has tokens."


def accumulation_case(sequences: int, masked: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """Build a network without gradients and a batch; if `masked`, rows have unequal numbers of targets that count."""
    from utils import model

    tokens, targets = model.batch(3, sequences, context=32)
    if masked:
        for row in range(sequences):
            targets[row, max(0, 32 - 3 * row) :] = -100  # row 0 keeps all, later rows fewer, from 11 on none
    return model.GPT(model.Config(layers=2, width=32, context=32), seed=0), tokens, targets


def whole_batch(network: nn.Module, tokens: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Give the loss and the gradient of the whole batch at once, as one vector."""
    from utils import model

    network.zero_grad()
    loss = model.loss(network(tokens), targets)
    loss.backward()
    gradient = _gradient(network)
    network.zero_grad()
    return loss.item(), gradient


def _gradient(network: nn.Module) -> Tensor:
    import torch

    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in network.parameters()])


@exercise(judges=("result", "memory"))
def accumulate(function: Callable[..., float]) -> NotYet | None:
    """Accumulation that equals the whole batch, whatever the sizes."""
    for sequences, size, masked in BATCHES:
        found = _judge_accumulation(function, sequences, size, masked)
        if found:
            return found
    return None


def _judge_accumulation(function: Callable[..., float], sequences: int, size: int, masked: bool) -> NotYet | None:
    from utils import ledger

    network, tokens, targets = accumulation_case(sequences, masked)
    loss, gradient = whole_batch(network, tokens, targets)
    before = [p.detach().clone() for p in network.parameters()]
    seen: list[int] = []
    handle = network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    with ledger.Meter(network) as meter:
        answer = function(network, tokens, targets, size)
    handle.remove()
    case = f"a batch of {sequences}, at most {size} at a time" + (", some targets -100" if masked else "")
    if any((p.detach() != old).any() for p, old in zip(network.parameters(), before, strict=True)):
        return NotYet("result", "The parameters have changed: add up gradients only; the optimizer comes later.", case)
    assert meter.memory is not None
    if seen and not _gradient(network).any():
        return NotYet("result", "There are no gradients: is `backward()` called on each micro-batch's loss?", case)
    found = (
        _judge_passes(seen, sequences, size)
        or _judge_memory(meter.memory.activations[0], sequences, size, masked)
        or _judge_gradient(_gradient(network), gradient, sequences, size, masked)
        or _judge_loss(answer, loss, sequences, size)
    )
    return NotYet(found[0], found[1], case) if found else None


def _judge_passes(seen: list[int], sequences: int, size: int) -> tuple[str, str] | None:
    """Look at how many sequences went through the network at a time."""
    if not seen:
        return "result", "Nothing went through the network."
    if max(seen) > size:
        return "memory", f"{max(seen)} sequences went through at once; at most {size} may."
    if sum(seen) < sequences:
        return "result", f"Only {sum(seen)} of {sequences} sequences went through: mind those that are left at the end."
    if sum(seen) > sequences:
        return "result", f"{sum(seen)} sequences went through, of a batch of {sequences}: some came twice."
    return None


def _judge_memory(activations: int, sequences: int, size: int, masked: bool) -> tuple[str, str] | None:
    """Compare the greatest sum of live activations with that of one micro-batch of the full size."""
    from utils import ledger, model

    network, tokens, targets = accumulation_case(sequences, masked)
    with ledger.Meter(network) as meter:
        model.loss(network(tokens[:size]), targets[:size])
    assert meter.memory is not None
    share = activations / meter.memory.activations[0]
    if share < 1.3:
        return None
    return "memory", (
        f"At the peak there were {share:.1f} times the activations of one micro-batch: call backward() on each "
        "micro-batch before the next one goes forward."
    )


def _judge_gradient(
    mine: Tensor, right: Tensor, sequences: int, size: int, masked: bool
) -> tuple[str, str] | None:
    """Compare the gradients, and name a known mistake."""
    if _close(mine, right):
        return None
    for hint, wrong in _gradient_mistakes(sequences, size, masked).items():
        if _close(mine, wrong):
            return "result", hint
    network, tokens, targets = accumulation_case(sequences, masked)
    start = (sequences - 1) // size * size
    last = whole_batch(network, tokens[start:], targets[start:])[1]
    if start and _close(mine, (mine @ last / (last @ last)).item() * last):
        return "result", "Only the last micro-batch is left: `zero_grad` inside the loop throws the others away."
    factor = (mine @ right / (right @ right)).item()
    if _close(mine, factor * right):
        return "result", f"The gradient is {factor:.3g} times the right one in every number: a constant factor."
    return "result", f"The gradient differs from that of the whole batch. {_SUM_MISTAKE}"


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= 1e-5 * b.norm() + 1e-12)


def _gradient_mistakes(sequences: int, size: int, masked: bool) -> dict[str, Tensor]:
    """Give what known mistakes lead to: hint -> gradient."""
    import torch

    network, tokens, targets = accumulation_case(sequences, masked)
    parts = list(zip(tokens.split(size), targets.split(size), strict=True))
    means = torch.stack([whole_batch(network, *part)[1].nan_to_num(0.0) for part in parts])
    rows = torch.tensor([float(len(part)) for part, _ in parts])
    counts = torch.tensor([float((wanted != -100).sum()) for _, wanted in parts])
    sums = means * counts[:, None]
    wrong = {}
    if len(parts) > 1:
        wrong["The means of the micro-batches are added up, and nothing is divided."] = means.sum(0)
        if len(set(counts.tolist())) > 1:
            wrong["The mean of means: a smaller micro-batch counts as much as a full one."] = means.mean(0)
        if sequences % size:
            whole = max(1, sequences // size)
            wrong["You divide by the number of full micro-batches; there is a smaller one at the end."] = (
                means.sum(0) / whole
            )
        if masked:
            wrong["Targets of -100 do not count: weigh by the targets that do, not by sequences."] = (
                means * rows[:, None]
            ).sum(0) / sequences
            wrong["You divide by all targets; those of -100 do not count."] = sums.sum(0) / targets.numel()
    wrong["The sum over all targets: divide by their number."] = sums.sum(0)
    return wrong


def _judge_loss(answer: Any, right: float, sequences: int, size: int) -> tuple[str, str] | None:
    if hasattr(answer, "requires_grad") and answer.requires_grad:
        return "memory", "The loss you return still holds its graph: add up `loss.item()`, or `.detach()` it."
    number = _number(answer)
    if math.isclose(number, right, rel_tol=1e-4):
        return None
    if math.isnan(number):
        return "result", f"The gradients are right, the loss returned is NaN. {_NO_MEAN}"
    return "result", (
        f"The gradients are right, the loss returned is not: {number:.3f}, and the mean over the batch is {right:.3f}."
    )


# --------------------------------------------------------------------------------------------- the largest micro-batch


Case = tuple["Config", int, int, int]  # config, its parameters, sequences of the batch, bytes of the device


def largest(config: Config, parameters: int, sequences: int, device: int) -> int:
    """Give the largest micro-batch by the lesson's formulas: 16 bytes a parameter, 16 × width numbers and so on."""
    return int(max(0, min(sequences, (device - 16 * parameters) // of_one_sequence(config))))


def of_one_sequence(config: Config) -> int:
    """Give the bytes of the activations of one sequence."""
    numbers = config.layers * 16 * config.width + 2 * config.width + config.vocab  # for each token
    return 4 * numbers * config.context


@functools.cache
def micro_batch_cases() -> list[Case]:
    """Give the trials: with room, exactly full, one byte short, more room than batch, and none at all."""
    import torch

    from utils import model

    def case(config: Config, sequences: int, sizes: float, more: int = 0) -> Case:
        """Make a device with room for so many sequences and a few bytes more."""
        with torch.device("meta"):
            parameters = sum(p.numel() for p in model.GPT(config).parameters())
        return config, parameters, sequences, int(16 * parameters + sizes * of_one_sequence(config)) + more

    small, deep = model.Config(), model.Config(layers=24, width=128, heads=8, context=128)
    wide = model.Config(layers=2, width=256, heads=8, context=32, vocab=1000)
    return [case(small, 512, 57.5), case(deep, 64, 9.4), case(small, 512, 5), case(small, 512, 5, -1),
            case(wide, 1000, 37, 11), case(small, 16, 600), case(wide, 64, 1, -1), case(wide, 64, -5)]  # fmt: skip


def _micro_batch_mistakes(c: Config, parameters: int, sequences: int, device: int) -> dict[str, float]:
    """Give what known mistakes lead to: hint -> sequences."""
    each, states = of_one_sequence(c), 16 * parameters
    behind = 4 * (2 * c.width + c.vocab) * c.context

    def fit(fixed: float, per_sequence: float) -> int:
        return int(max(0, min(sequences, (device - fixed) // per_sequence)))

    right = fit(states, each)
    return {
        "You left room for the parameters only. Gradients and AdamW's states stand beside them.":
            fit(4 * parameters, each),
        "AdamW's states are missing: two more numbers for each parameter.": fit(8 * parameters, each),
        "Twelve bytes a parameter are too few: in accumulation the gradients stay, and AdamW keeps two numbers.":
            fit(12 * parameters, each),
        "You left no room for the model at all.": fit(0, each),
        "That takes parameters and activations as numbers; each has four bytes.": fit(4 * parameters, each // 4),
        "That counts numbers of activations, not bytes: four bytes each.": fit(states, each // 4),
        "Activations are kept in every block: multiply by the number of blocks.":
            fit(states, 4 * 16 * c.width * c.context + behind),
        "Activations are kept for every token of a sequence: multiply by the context.": fit(states, each // c.context),
        "What is kept behind the blocks is missing: 2 × width + vocab numbers a token.": fit(states, each - behind),
        "A micro-batch can not have more sequences than the batch.": max(0, (device - states) // each),
        "If not even one sequence fits, the answer is 0.": max(1, right),
        "If the model alone does not fit the answer is 0, not a negative number.":
            min(sequences, (device - states) // each),
        "Rounded up: the last sequence does not fit whole.": max(0, min(sequences, -((states - device) // each))),
        "That is the number of micro-batches; asked is the size of the largest.": math.ceil(sequences / max(1, right)),
    }  # fmt: skip


@exercise(judges=("result",))
def largest_micro_batch(function: Callable[[Config, int, int, int], int]) -> NotYet | None:
    """The largest micro-batch that fits in a device."""
    cases = micro_batch_cases()
    answers = [_number(function(*case)) for case in cases]
    rights = [largest(*case) for case in cases]
    if answers == rights:
        return None
    wrong = next(i for i, (a, right) in enumerate(zip(answers, rights, strict=True)) if a != right)
    config, parameters, sequences, device = cases[wrong]
    detail = (
        f"{_sizes(config)}, {parameters:,} parameters, a batch of {sequences}, a device of {device:,} bytes: "
        f"your {answers[wrong]:g}, right is {rights[wrong]}"
    )
    if any(not answer.is_integer() for answer in answers):
        return NotYet("result", "A number of sequences is a whole number: round down.", detail)
    mistakes = [_micro_batch_mistakes(*case) for case in cases]
    for hint in mistakes[0]:
        if answers == [table[hint] for table in mistakes]:
            return NotYet("result", hint, detail)
    return NotYet("result", "Compare with the case below: what is fixed, what does one sequence add?", detail)
