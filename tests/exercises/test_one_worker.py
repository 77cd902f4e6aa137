"""The checks of the exercises on one worker: the stub, the solution, and wrong answers with their own hints."""

import pytest

from tests.exercises.sides import Sides, swap
from utils.check import one_worker

SIDES = Sides("01_one_worker", before=["imports"])
FUNCTIONS = ("count_work", "accumulate", "largest_micro_batch")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_stub_is_not_attempted(function):
    SIDES.stub_is_not_attempted(function)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_solution_passes(function):
    SIDES.solution_passes(function)


RIGHT_WORK = "(6 * weights + attention) * tokens"
WEIGHTS = "config.layers * 12 * config.width**2 + config.vocab * config.width"
EVERY = f"{WEIGHTS} + config.context * config.width + config.layers * 10 * config.width + 2 * config.width"
WORK = [
    (swap((RIGHT_WORK, "(3 * weights + attention / 2) * tokens")), "result", "a multiply-add is two operations"),
    (swap((RIGHT_WORK, "(2 * weights + attention / 3) * tokens")), "result", "forward pass alone"),
    (swap((RIGHT_WORK, "(4 * weights + attention * 2 / 3) * tokens")), "result", "backward pass alone"),
    (swap(("sequences * config.context", "1")), "result", "That is one token"),
    (swap(("sequences * config.context", "config.context")), "result", "That is one sequence"),
    (swap(("sequences * config.context", "sequences")), "result", "as if each sequence were one token"),
    (swap((RIGHT_WORK, "6 * weights * tokens")), "result", "Attention's own products are missing"),
    (lambda code: code.replace(WEIGHTS, EVERY).replace(RIGHT_WORK, "6 * weights * tokens"), "result",
     "6 × all parameters × tokens"),
    (swap((WEIGHTS, EVERY)), "result", "You counted every parameter"),
    (swap((WEIGHTS, f"{WEIGHTS} + config.context * config.width")), "result", "counted the position embedding"),
    (swap(("config.vocab * config.width", "2 * config.vocab * config.width")), "result", "token embedding twice"),
    (swap((" + config.vocab * config.width", "")), "result", "output layer is missing"),
    (swap(("12 * config.layers * config.context", "4 * config.layers * config.context")), "result",
     "have a backward pass"),
    (swap(("12 * config.layers * config.context", "6 * config.layers * config.context")), "result", "two products"),
    (swap(("config.context * config.width\n", "config.context * config.width // config.heads\n")), "result",
     "width of one head"),
    (swap(("12 * config.layers * config.context", "12 * config.context")), "result", "belong to every block"),
    (swap(("config.layers * 12 *", "config.layers * 8 *")), "result", "12 × width² weights"),
    (swap(("config.context * config.width\n", "64 * config.width\n")), "result", "written into your function"),
    (swap(("return (", "(")), "result", "is there a `return`"),
    ("def count_work(config, sequences):\n    return 10**9", "result", "Take it apart"),
]  # fmt: skip

ACCUMULATE = """
def accumulate(network, tokens, targets, size):
    total, parts = 0.0, list(zip(tokens.split(size), targets.split(size)))
    counted = (targets != -100).sum()
    for some, wanted in parts:
        loss = model.loss(network(some), wanted) * WEIGHT
        loss.backward()
        total += loss.item()
    return total
"""
TOGETHER = """
def accumulate(network, tokens, targets, size):
    counted, loss = (targets != -100).sum(), 0.0
    for some, wanted in zip(tokens.split(size), targets.split(size)):
        loss = loss + model.loss(network(some), wanted, reduction="sum") / counted
    loss.backward()
    return loss.item()
"""
GRADIENTS = [
    (ACCUMULATE.replace("WEIGHT", "1"), "result", "nothing is divided"),
    (ACCUMULATE.replace("WEIGHT", "1 / len(parts)"), "result", "The mean of means"),
    (ACCUMULATE.replace("WEIGHT", "1 / max(1, len(tokens) // size)"), "result", "number of full micro-batches"),
    (ACCUMULATE.replace("WEIGHT", "len(some) / len(tokens)"), "result", "not by sequences"),
    (ACCUMULATE.replace("WEIGHT", "(wanted != -100).sum() / counted"), "result", "NaN. In one micro-batch"),
    (swap(("/ counted", "/ targets.numel()")), "result", "divide by all targets"),
    (swap(("/ counted", "")), "result", "sum over all targets"),
    (swap(("        loss.backward()", "        network.zero_grad()\n        loss.backward()")), "result",
     "Only the last micro-batch"),
    (swap(("/ counted", "/ counted * 3")), "result", "3 times the right one"),
    (swap(("tokens.split(size), targets.split(size), strict=True",
          "tokens[: len(tokens) // size * size].split(size), targets.split(size)")), "result",
     "mind those that are left"),
    (TOGETHER, "memory", "before the next one goes forward"),
    (swap(("some, wanted in zip(tokens.split(size), targets.split(size), strict=True)",
          "some, wanted in [(tokens, targets)]")), "memory", "8 sequences went through at once"),
    (swap(("total += loss.item()", "total = total + loss")), "memory", "holds its graph"),
    (swap(("total += loss.item()", "total = loss.item()")), "result", "the loss returned is not"),
    (swap(("    return total", "    for p in network.parameters():\n        p.data -= 0.1 * p.grad\n    return total")),
     "result", "The parameters have changed"),
    (swap(("        loss.backward()", "        loss.detach()")), "result", "There are no gradients"),
    (swap(("/ counted", "/ counted * (1 + total)")), "result", "differs from that of the whole"),
]  # fmt: skip

SIZES = [
    (swap(("16 * parameters", "12 * parameters")), "result", "Twelve bytes"),
    (swap(("16 * parameters", "8 * parameters")), "result", "AdamW's states are missing"),
    (swap(("16 * parameters", "4 * parameters")), "result", "room for the parameters only"),
    (swap(("device - 16 * parameters", "device")), "result", "no room for the model at all"),
    (swap(("4 * numbers", "numbers")), "result", "numbers of activations, not bytes"),
    (swap(("config.layers * 16", "16")), "result", "kept in every block"),
    (swap(("4 * numbers * config.context", "4 * numbers")), "result", "every token of a sequence"),
    (swap((" + 2 * config.width + config.vocab", "")), "result", "behind the blocks is missing"),
    (swap(("min(sequences, room // one_sequence)", "room // one_sequence")), "result", "more sequences than the batch"),
    (swap(("max(0, ", "max(1, ")), "result", "not even one sequence fits"),
    (swap(("max(0, min(sequences, room // one_sequence))", "min(sequences, room // one_sequence)")), "result",
     "not a negative number"),
    (swap(("room // one_sequence", "-(-room // one_sequence)")), "result", "Rounded up"),
    (swap(("room // one_sequence", "room / one_sequence")), "result", "a whole number"),
    (swap(("return max(0, min(sequences, room // one_sequence))",
          "return -(-sequences // max(1, min(sequences, room // one_sequence)))")),
     "result", "number of micro-batches"),
    ("def largest_micro_batch(config, parameters, sequences, device):\n    return 7", "result", "what is fixed"),
]  # fmt: skip

ALL = [(name, *row) for name, rows in zip(FUNCTIONS, (WORK, GRADIENTS, SIZES), strict=True) for row in rows]


@pytest.mark.parametrize(("function", "wrong", "what", "hint"), ALL, ids=[f"{row[0]}: {row[3]}" for row in ALL])
def test_wrong_answers_get_their_own_hint(function, wrong, what, hint):
    SIDES.wrong_is_not_yet(function, wrong, what, hint)


@pytest.mark.parametrize(("function", "rows"), [("count_work", WORK), ("accumulate", GRADIENTS),
                                                ("largest_micro_batch", SIZES)])  # fmt: skip
def test_there_are_enough_wrong_answers(function, rows):
    SIDES.enough_wrong_answers(function, [hint for _, _, hint in rows])


def test_no_mistake_is_right_and_no_two_are_alike():
    """A hint must not fit a right answer, nor the mistake of another hint."""
    from utils import model

    work = [(model.Config(*sizes), sequences) for sizes, sequences in one_worker.WORK]
    found = [one_worker._work_mistakes(*case) for case in work]
    rights = [one_worker.counted_work(*case) for case in work]
    _all_differ(found, rights)
    cases = one_worker.micro_batch_cases()
    _all_differ([one_worker._micro_batch_mistakes(*case) for case in cases], [one_worker.largest(*c) for c in cases])


def _all_differ(mistakes, rights):
    answers = [tuple(round(table[hint], 3) for table in mistakes) for hint in mistakes[0]] + [tuple(rights)]
    assert len(set(answers)) == len(answers)
