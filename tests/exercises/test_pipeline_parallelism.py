"""The exercises on pipeline parallelism from three sides: stub, solution, and plausible wrong answers."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.exercises.sides import MAGIC, Sides, swap

SIDES = Sides("07_pipeline_parallelism", before=["pe-received"])
PLAIN = Sides("07_pipeline_parallelism")
ON_RANKS = ("mended_step", "run_actions")
pytestmark = pytest.mark.usefixtures("four_ranks")


def sides(name: str) -> Sides:
    return SIDES if name in ON_RANKS else PLAIN


# name of the mistake -> (wrong answer, what is off, what its hint says)
Wrong = dict[str, tuple[Any, str, str]]

# ---------------------------------------------------------------------------------------------------------------------
# Two bubbles


def shares(total: str, ideal: str) -> str:
    return f"def bubbles(p, m, v):\n    return {total}, {ideal}\n"


IDLE = "(p - 1) / v"
BUBBLES: Wrong = {
    "swapped": (shares(f"{IDLE} / m", f"{IDLE} / (m + {IDLE})"), "result", "The two are swapped"),
    "both over the total": (shares(*[f"{IDLE} / (m + {IDLE})"] * 2), "result", "Both are of the total time"),
    "both over computing": (shares(*[f"{IDLE} / m"] * 2), "result", "Both are of the computing time"),
    "no interleaving": (shares("(p - 1) / (m + p - 1)", "(p - 1) / m"), "result", "Interleaving is left out"),
    "all stages count": (
        shares("(p * v - 1) / (m + p * v - 1)", "(p * v - 1) / m"), "result", "as if each had a rank of its own",
    ),
    "all stages, shorter": (
        shares("(p * v - 1) / v / (m + (p * v - 1) / v)", "(p * v - 1) / v / m"), "result", "and shorten their slots",
    ),
    "interleaving makes it larger": (
        shares("(p - 1) * v / (m + (p - 1) * v)", "(p - 1) * v / m"), "result", "v times smaller, not larger",
    ),
    "total of plain 1F1B": (shares(f"{IDLE} / (m + p - 1)", f"{IDLE} / m"), "result", "still has the idle time"),
    "first of plain 1F1B": (shares("(p - 1) / (m + p - 1)", f"{IDLE} / m"), "result", "only the second gets smaller"),
    "one slot too many in the total": (
        shares(f"{IDLE} / (m + p / v)", f"{IDLE} / m"), "result", "one less than you count",
    ),
    "p idle slots": (shares("p / v / (m + p / v)", "p / v / m"), "result", "p - 1 are idle, not p"),
    "the computing share": (
        shares(f"m / (m + {IDLE})", f"1 - {IDLE} / m"), "result", "share of the time in which a rank computes",
    ),
    "one whole batch": (shares("1 - 1 / p", "p - 1"), "result", "where one batch goes through whole"),
    "percentages": (shares(f"100 * {IDLE} / (m + {IDLE})", f"100 * {IDLE} / m"), "result", "not percentages"),
    "one number": (
        "def bubbles(p, m, v):\n    return (p - 1) / (m * v + p - 1)\n", "result", "Return two numbers",
    ),
    "something else": (shares("0.5", "1.0"), "result", "Count on the picture"),
}  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Stages that keep pace

FREE = "free = [s for s in range(stages) if (counts[s] + 1) * (stages - s) <= room]"
START = "counts = [0 if stage in (0, stages - 1) else 1 for stage in range(stages)]"
EQUAL = """
def blocks_by_stage(blocks, stages, block, embedding, head, room):
    return [len(range(stage, blocks, stages)) for stage in range(stages)]
"""
FILL_UP = """
def blocks_by_stage(blocks, stages, block, embedding, head, room):
    goal, left, counts = (blocks * block + embedding + head) / stages, blocks, []
    for stage in range(stages - 1):
        n = max(0 if stage == 0 else 1, int((goal - (stage == 0) * embedding) / block + 1e-9))
        n = min(n, left - (stages - 2 - stage), room // (stages - stage))
        counts.append(n)
        left -= n
    return [*counts, left]
"""
BLOCKS: Wrong = {
    "equal numbers": (EQUAL, "slowest stage", "Equal numbers of blocks are not equal work"),
    "head forgotten": (
        swap(("    ends[-1] += head\n", "")), "slowest stage", "The head is left out",
    ),
    "embedding forgotten": (
        swap(("    ends[0] += embedding\n", "")), "slowest stage", "The embedding is left out",
    ),
    "ends exchanged": (
        swap(("ends[0] += embedding", "ends[0] += head"), ("ends[-1] += head", "ends[-1] += embedding")),
        "slowest stage", "Embedding and head are exchanged",
    ),
    "memory ignored": (swap((FREE, "free = range(stages)")), "memory", "give blocks to later stages"),
    "one micro-batch on every stage": (
        swap((FREE, "free = [s for s in range(stages) if counts[s] + 1 <= room]")),
        "memory", "Count all the micro-batches that a stage holds",
    ),
    "memory grows with the stage": (
        swap(("* (stages - s) <= room", "* (s + 1) <= room")), "memory", "let memory grow",
    ),
    "every stage as full as the first": (
        swap(("* (stages - s) <= room", "* stages <= room or s == stages - 1")),
        "slowest stage", "the room of the first",
    ),
    "at least one block everywhere": (
        swap((START, "counts = [1] * stages"), ("    for _ in", "    counts[0] -= stages == 1 and 1\n    for _ in")),
        "slowest stage", "best left without blocks",
    ),
    "empty stages": (swap((START, "counts = [0] * stages")), "result", "nothing to do"),
    "filled from the left": (FILL_UP, "slowest stage", "takes what the others left over"),
    "one block lost": (swap(("range(blocks - sum(counts))", "range(blocks - sum(counts) - 1)")), "result", "there are"),
    "layers instead of numbers": (
        swap(("    return counts", "    return [list(range(n)) for n in counts]")),
        "result", "the number of blocks of each",
    ),
    "four stages always": (
        swap(("    counts = [0", "    stages = 4\n    counts = [0")), "result", "your list has 4 numbers",
    ),
}  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Find the bugs


def colleague(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """Take the step with the bugs instead of the solution, and mend some of them."""

    def change(_solution: str) -> str:
        code = MAGIC.sub("", next(c.source for c in SIDES._cells() if c.id == "pe-colleague"), count=1)
        return swap(*pairs)("%%ranks\n" + code.replace("colleagues_step", "mended_step"))

    return change


LAST_FIRST = ("    while kept:\n        x, out = kept.pop()\n", "    for x, out in kept:\n")
LOSS = "losses.append(model.loss(out, y))"
NO_M = ("for loss in losses) / m if", "for loss in losses) if")
SHARED = 'model.loss(out, y, reduction="sum") / (targets != -100).sum()'
FINISH = "    finished(part, sends, tied)\n"
SEND_BACK = "before is None or sends.append(dist.isend(x.grad, before))"

def weighed(by: str) -> Callable[[str], str]:
    return swap((SHARED, f"model.loss(out, y) * ({by})"))


MENDED: Wrong = {
    "all bugs": (colleague(), "result", "which micro-batch do the others apply it to"),
    "only the loss divided": (
        colleague((LOSS, "losses.append(model.loss(out, y) / m)"), NO_M),
        "result", "on the last part the gradients are right, on the others they are not even",
    ),
    "only the order mended": (colleague(LAST_FIRST), "result", "gradient is 4 times too large"),
    "divided by m": (
        colleague(LAST_FIRST, (LOSS, "losses.append(model.loss(out, y) / m)"), NO_M),
        "result", "Right for equal micro-batches",
    ),
    "weighed by sequences": (weighed("len(y) / len(targets)"), "result", "weighs by its targets that count"),
    "mean over nothing": (
        weighed("(y != -100).sum() / (targets != -100).sum()"), "result", "the mean over nothing is 0 / 0",
    ),
    "all targets in the denominator": (
        swap(("(targets != -100).sum()", "targets.numel()")), "result", "you divide by all targets",
    ),
    "scaled on the last part, afterwards": (
        colleague(LAST_FIRST, (FINISH, "    if after is None:\n        for p in part.parameters():\n"
                               "            p.grad /= m\n" + FINISH)),
        "result", "Scale the loss, before backward",
    ),
    "divided on every part": (
        colleague(LAST_FIRST, (LOSS, "losses.append(model.loss(out, y) / m)"), NO_M,
                  ("out.backward(received(out.shape, after))", "out.backward(received(out.shape, after) / m)")),
        "result", "each part divides again",
    ),
    "divided twice": (
        colleague(LAST_FIRST, (LOSS, "losses.append(model.loss(out, y) / m**2)")), "result", "times too small",
    ),
    "loss as before": (
        swap(("for loss in losses) if", "for loss in losses) / m if")), "result", "Weigh each micro-batch's loss",
    ),
    "loss by sequences": (
        swap(("losses[-1].backward()", "losses[-1].backward()\n"
              "            losses[-1] = model.loss(out, y) * len(y) / len(targets)")),
        "result", "Weigh the losses as you weigh the gradients",
    ),
    "only the last micro-batch": (
        swap(("losses[-1].backward()", "part.zero_grad(); losses[-1].backward()")),
        "result", "added up",
    ),
    "blocking sends": (
        swap(("sends.append(dist.isend(out.detach(), after))", "dist.send(out.detach(), after)"),
             (SEND_BACK, "before is None or dist.send(x.grad, before)")),
        "deadlock", "both wait in a send",
    ),
    "the first gradient is not sent": (
        swap(("            before is None or sends", "            before is None or len(losses) == 1 or sends")),
        "deadlock", "waits for a gradient .* never sends",
    ),
    "tied weight summed after each micro-batch": (
        swap((FINISH, "        tied is None or dist.all_reduce(part.token.weight.grad, group=tied)\n"
                      "    [work.wait() for work in sends]\n")),
        "deadlock", "both ends of the chain must join it",
    ),
}  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# One forward, one backward

AHEAD = "ahead = min(ranks - rank, micro_batches)"
TURN = """\
        actions.append(f"{rank}B{i}")
        if ahead + i < micro_batches:
            actions.append(f"{rank}F{ahead + i}")
"""
FORWARD_FIRST = """\
        if ahead + i < micro_batches:
            actions.append(f"{rank}F{ahead + i}")
        actions.append(f"{rank}B{i}")
"""
ORDER: Wrong = {
    "GPipe": (swap((AHEAD, "ahead = micro_batches")), "memory", "that is GPipe's order"),
    "the same warm-up everywhere": (
        swap((AHEAD, "ahead = min(ranks, micro_batches)")), "memory", "Every rank starts 4 forwards",
    ),
    "warm-up one too short": (
        swap((AHEAD, "ahead = min(ranks - rank - 1, micro_batches)")), "deadlock", "begins with a backward",
    ),
    "warm-up one too short, but one at least": (
        swap((AHEAD, "ahead = max(1, min(ranks - rank - 1, micro_batches))")), "time", "has 3 forwards: too few",
    ),
    "forward before backward": (swap((TURN, FORWARD_FIRST)), "memory", "first a backward, which frees an activation"),
    "warm-up grows with the rank": (
        swap((AHEAD, "ahead = min(rank + 1, micro_batches)")), "deadlock", "The warm-up grows with the rank",
    ),
    "one at a time": (swap((AHEAD, "ahead = 1")), "time", "one rank works at a time"),
    "fewer micro-batches than ranks": (
        swap((AHEAD, "ahead = ranks - rank"), ("range(micro_batches):\n", "range(max(micro_batches, ahead)):\n")),
        "result", "fewer micro-batches than ranks",
    ),
    "no drain": (
        swap(("for i in range(micro_batches)", "for i in range(max(1, micro_batches - ahead))")),
        "result", "The pipeline has to drain",
    ),
    "latest first": (
        swap(('actions.append(f"{rank}B{i}")', 'actions.append(f"{rank}B{open_.pop()}")'),
             ("    return actions", "    return [a for a in actions]"),
             ("    for i in range(micro", "    open_ = list(range(ahead))\n    for i in range(micro"),
             ('            actions.append(f"{rank}F{ahead + i}")',
              '            actions.append(f"{rank}F{ahead + i}")\n            open_.append(ahead + i)')),
        "time", "the latest first",
    ),
    "numbered from 1": (
        swap(("F{i}", "F{i + 1}"), ("B{i}", "B{i + 1}"), ("F{ahead + i}", "F{ahead + i + 1}")),
        "result", "numbered from 0",
    ),
    "a forward twice": (swap(("F{ahead + i}", "F{ahead + i - 1}")), "result", "is done twice"),
    "without the stage": (
        swap(('f"{rank}B{i}"', 'f"B{i}"')), "result", "holds 'B0'",
    ),
    "every list of stage 0": (swap(('f"{rank}B{i}"', 'f"0B{i}"')), "result", "holds stage 1 and no other"),
    "half a backward": (swap(('f"{rank}B{i}"', 'f"{rank}I{i}"')), "result", "half a backward"),
    "one text": (swap(("return actions", 'return " ".join(actions)')), "result", "you return str"),
    "a forward forgotten": (
        swap(("if ahead + i < micro_batches:", "if ahead + i < micro_batches - 1:")),
        "result", "goes forward on every rank",
    ),
}  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Carry it out

WEIGHT = " * len(xs[i]) / len(tokens)"
COUNT = 'm = sum(kind == "F" for _, kind, _ in actions)'
NOTHING_IN_I = '        if kind != "I" or before is not None:\n'
INPUTS_OF = 'inputs={"B": None, "I": [x], "W": [*part.parameters()]}[kind]'
SEND = '        kind == "W" or before is None or sends.append(dist.isend(x.grad, before))'
RUN: Wrong = {
    "loss not weighed": (swap((WEIGHT, "")), "result", "is 4 times too large"),
    "weighed by 1 / m": (swap((WEIGHT, " / m")), "result", "Right for equal micro-batches"),
    "all forwards first": (
        swap(("    for _, kind, i in actions:", "    for _, kind, i in sorted(actions, key=lambda a: a[1] != 'F'):")),
        "order", "its list asks for FFFFBFBFBBBB",
    ),
    "blocking sends": (
        swap(("sends.append(dist.isend(out.detach(), after))", "dist.send(out.detach(), after)"),
             ("sends.append(dist.isend(x.grad, before))", "dist.send(x.grad, before)")),
        "deadlock", "waiting at once for what isend returns is as bad",
    ),
    "waits at once": (
        swap(("dist.isend(out.detach(), after)", "dist.isend(out.detach(), after).wait()"),
             ("dist.isend(x.grad, before)", "dist.isend(x.grad, before).wait()"),
             ("finished(part, sends, tied)", "finished(part, [], tied)")),
        "deadlock", "both wait in a send to each other",
    ),
    "keeps everything": (swap(("kept.pop(i)", "kept[i]")), "memory", "outputs alive at once"),
    "the latest first": (
        swap(("grad = kept.pop(i)", "grad = kept.popitem()[1]")), "result", "the same order on both sides",
    ),
    "four micro-batches always": (swap((COUNT, "m = 4")), "error", "stands in `actions`"),
    "m from the length of the list": (swap((COUNT, "m = len(actions)")), "result", "part of the batch is left out"),
    "rank numbers": (
        swap(("part.config.width], before)", "part.config.width], rank - 1)"),
             ("out.shape, after", "out.shape, rank + 1"),
             ("out.detach(), after", "out.detach(), rank + 1"), ("x.grad, before", "x.grad, rank - 1")),
        "messages", "do not count with `rank`",
    ),
    "not finished": (
        swap((FINISH, "    [work.wait() for work in sends]\n")), "result", "gradient of its own use",
    ),
    "no gradient sent back": (swap((SEND, "")), "deadlock", "waits for a gradient"),
    "the loss of the last micro-batch": (
        swap(("return sum(losses)", "return losses[-1]")), "result", "return the sum, undivided",
    ),
    "only F and B": (
        swap(("        x, out, grad = kept.pop(i)\n",
              "        if kind != 'B':\n            continue\n        x, out, grad = kept.pop(i)\n")),
        "error", "every rank has to do both",
    ),
    "I does the whole backward": (
        swap((INPUTS_OF, "inputs=None"), (NOTHING_IN_I, '        if kind != "W":\n')),
        "order", "does the whole backward in `I`",
    ),
    "I and W both do the whole": (
        swap((INPUTS_OF, "inputs=None"), (NOTHING_IN_I, "        if True:\n")), "messages", "while the message with it",
    ),
    "W does the whole": (
        swap((INPUTS_OF, 'inputs=[x] if kind == "I" else None')), "messages", "told which gradients are wanted",
    ),
    "I does the whole": (
        swap(('"I": [x]', '"I": None')), "result", "both `I` and `W` add",
    ),
    "B in two": (
        swap(("            out.backward(grad", '            if kind == "B" and before is not None:\n'
              "                x.grad, = torch.autograd.grad(out, x, grad, retain_graph=True)\n"
              "            out.backward(grad"),
             ('{"B": None,', '{"B": [*part.parameters()],')),
        "order", "goes through the graph twice",
    ),
    "graph not kept": (swap((', retain_graph=kind == "I"', "")), "error", "retain_graph=True"),
    "gradient not kept": (
        swap(("kept[i] = x, out, grad", "kept[i] = x, out, None")), "error", "the gradient that `I` received",
    ),
    "I on tokens": (swap((NOTHING_IN_I, "        if True:\n")), "error", "there `I` has nothing to do"),
    "gradient sent after W": (
        swap((SEND, SEND.replace('"W"', '"I"'))),
        "deadlock", "as soon as `I` is done, before `W`",
    ),
    "all gradients sent at the end": (
        swap((COUNT, COUNT + "\n    late = []"), (SEND, '        kind == "W" or before is None or late.append(x.grad)'),
             (FINISH, "    sends += [dist.isend(gradient, before) for gradient in late]\n" + FINISH)),
        "order", "gradients leave late",
    ),
}  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Fill the bubble

OWED = """\
            if i >= rank:  # this rank may owe `rank` weight passes
                row.append(f"{rank}W{i - rank}")
"""
REST = '        row += [f"{rank}W{i}" for i in range(max(0, micro_batches - rank), micro_batches)]\n'
INPUTS = '            row.append(f"{rank}I{i}")\n'
AT_ONCE = '            row.append(f"{rank}W{i}")\n'
AT_THE_END = '        row += [f"{rank}W{i}" for i in range(micro_batches)]\n'


def owing(count: str) -> Callable[[str], str]:
    """Let a rank put off `count` weight passes."""
    return swap((OWED, f"            if i >= {count}:\n                row.append(f'{{rank}}W{{i - ({count})}}')\n"),
                ("max(0, micro_batches - rank)", f"max(0, micro_batches - ({count}))"))  # fmt: skip


FILL: Wrong = {
    "1F1B": (swap((OWED, ""), (REST, ""), ('f"{rank}I{i}"', 'f"{rank}B{i}"')), "time", "Split it"),
    "W after I at once": (swap((OWED, AT_ONCE), (REST, "")), "time", "Each `W` follows its `I` at once"),
    "all W at the end": (swap((OWED, ""), (REST, AT_THE_END)), "memory", "All `W` wait until the end"),
    "ZB-H2": (
        swap((AHEAD, "ahead = min(2 * (ranks - rank) - 1, micro_batches)"), ("i >= rank:", "i >= 2 * rank:"),
             ("{i - rank}", "{i - 2 * rank}"), ("micro_batches - rank)", "micro_batches - 2 * rank)")),
        "memory", "paid in memory",
    ),
    "GPipe's order": (swap((AHEAD, "ahead = micro_batches")), "memory", "which is GPipe's order"),
    "put off too many": (owing("rank + 1"), "memory", "it can owe r"),
    "first ranks put off most": (owing("ranks - rank - 1"), "memory", "Turn it round"),
    "warm-up too short": (
        swap((AHEAD, "ahead = max(1, min(ranks - rank - 1, micro_batches))")), "time", "starts 3 forwards before",
    ),
    "W before I": (
        swap((OWED, ""), (INPUTS, AT_ONCE + INPUTS), (REST, "")),
        "deadlock", "`I` first",
    ),
    "owed W forgotten": (swap((REST, "")), "result", "still owed when the last `I` is done"),
    "rest counted wrong": (swap(("max(0, micro_batches - rank)", "micro_batches - rank")), "result", "holds '"),
    "whole and half": (
        swap((OWED, '            row.append(f"{rank}B{i}")\n'), (REST, "")), "result", "and half of one",
    ),
    "W done twice": (swap(("max(0, micro_batches - rank)", "0")), "result", "is done twice"),
    "latest first": (
        swap(("        for i in range(micro", "        begun = list(range(ahead))\n        for i in range(micro"),
             ('row.append(f"{rank}I{i}")', 'row.append(f"{rank}I{begun.pop()}")'),
             (OWED, '            row.append(row[-1].replace("I", "W"))\n'), (REST, ""),
             ('(f"{rank}F{ahead + i}")', '(f"{rank}F{ahead + i}")\n                begun.append(ahead + i)')),
        "time", "the latest first",
    ),
    "one list": (swap(("    return rows", "    return sum(rows, [])")), "result", "one list of actions for each rank"),
    "half as many put off": (owing("rank // 2"), "time", "which `W` could have waited|Put `W` off"),
}  # fmt: skip

ANSWERS = {
    "bubbles": BUBBLES,
    "blocks_by_stage": BLOCKS,
    "mended_step": MENDED,
    "one_f_one_b": ORDER,
    "run_actions": RUN,
    "fill_the_bubble": FILL,
}
ALL = [(exercise, *wrong) for exercise, answers in ANSWERS.items() for wrong in answers.values()]
NAMES = [f"{exercise}: {name}" for exercise, answers in ANSWERS.items() for name in answers]


@pytest.mark.parametrize("name", ANSWERS)
def test_the_stub_is_not_attempted(name):
    sides(name).stub_is_not_attempted(name)


@pytest.mark.parametrize("name", ANSWERS)
def test_the_solution_passes(name):
    sides(name).solution_passes(name)


@pytest.mark.parametrize(("exercise", "wrong", "what", "hint"), ALL, ids=NAMES)
def test_a_wrong_answer_gets_its_own_hint(exercise, wrong, what, hint):
    sides(exercise).wrong_is_not_yet(exercise, wrong, what, hint)


@pytest.mark.parametrize(("exercise", "answers"), [*ANSWERS.items()])
def test_there_are_enough_wrong_answers(exercise, answers):
    sides(exercise).enough_wrong_answers(exercise, [hint for _, _, hint in answers.values()])
