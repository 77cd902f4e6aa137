"""The exercises on model parallelism from three sides: stub, solution, and plausible wrong answers."""

from typing import Any

import pytest

from tests.exercises.sides import Sides, swap

SIDES = Sides("04_model_parallelism")
EXERCISES = ("across_the_cuts", "in_micro_batches", "balance", "idle_share")
pytestmark = pytest.mark.usefixtures("four_ranks")


@pytest.mark.parametrize("name", EXERCISES)
def test_the_stub_is_not_attempted(name):
    SIDES.stub_is_not_attempted(name)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name):
    SIDES.solution_passes(name)


# name of the mistake -> (wrong answer, what is off, what its hint says)
Wrong = dict[str, tuple[Any, str, str]]

# Lines of the solutions that wrong answers change or leave out.
NO_SUM = ("if tied is not None:", "if tied is not None and False:")
SUM = "        dist.all_reduce(weight.grad, group=tied)"
SEND_BACK = "        dist.send(x.grad, before)"
TAKE_BACK = "        gradient = torch.empty_like(y)\n        dist.recv(gradient, after)\n"
USE_BACK = "        y.backward(gradient)\n"
FIRST_LINES = "    if before is not None:\n        x = torch.empty"
BUFFER = "torch.empty(*tokens.shape, part.config.width)"
RECEIVE = f"        x = {BUFFER}\n        dist.recv(x, before)\n"
RETURN = "    return None if loss is None"
SHARE_THE_LOSS = """\
    everyone = torch.tensor(0.0 if loss is None else loss.item())
    if after is not None:
        dist.recv(everyone, after)
    if before is not None:
        dist.send(everyone, before)
"""

ACROSS: Wrong = {
    "gradient never sent back": (
        swap((TAKE_BACK + USE_BACK, ""), (SEND_BACK, "        pass"), NO_SUM),
        "result", "nothing comes back over the cut",
    ),
    "gradient received and not used": (
        swap((USE_BACK, ""), ("x.grad, before", "x.detach(), before"), NO_SUM),
        "result", "receives a gradient and does nothing",
    ),
    "one side forgets to send the gradient": (
        swap((SEND_BACK, "        pass")), "deadlock", "waits for a gradient .* never sends",
    ),
    "activations not watched by autograd": (
        swap(("        x.requires_grad_()\n", "")), "error", "x.requires_grad_\\(\\), and use x itself",
    ),
    "outputs detached before the backward pass": (
        swap(("    y = part(x)\n", "    y = part(x).detach()\n")), "error", "detach only what you send",
    ),
    "tied weight not summed": (swap(NO_SUM), "result", "its own use only"),
    "tied weight averaged": (swap((SUM, SUM + "\n        weight.grad /= 2")), "result", "you average"),
    "tied weight summed twice": (swap((SUM, SUM + "\n" + SUM)), "result", "the sum is made two times"),
    "tied weight summed on one side only": (
        swap((SUM, "        dist.reduce(weight.grad if part.first else weight.grad.clone(), group_dst=0, group=tied)")),
        "result", "on one of its two ranks only",
    ),
    "gradients averaged over the parts": (
        swap(("        loss.backward()", "        (loss / 3).backward()")), "result", "Parts are not replicas",
    ),
    "everybody receives first": (
        swap((FIRST_LINES, f"    if after is not None:\n        dist.recv({BUFFER}, after)\n" + FIRST_LINES)),
        "deadlock", "The first part has its input: it begins",
    ),
    "two neighbours send to each other first": (
        swap((FIRST_LINES, f"    if before is not None:\n        dist.send({BUFFER}, before)\n" + FIRST_LINES)),
        "deadlock", "both wait in a send to each other",
    ),
    "counts with rank instead of before and after": (
        swap((", before)", ", rank - 1)"), (", after)", ", rank + 1)")), "messages", "do not count with `rank`",
    ),
    "sizes of the lesson": (swap((BUFFER, "torch.empty(90, 64, 64)")), "messages", "take the sizes from tokens"),
    "no gradient handed to backward": (
        swap(("y.backward(gradient)", "y.backward()")), "error", "Only the last part has a loss",
    ),
    "the loss is sent to all": (swap((RETURN, SHARE_THE_LOSS + RETURN)), "messages", "sends 2 messages"),
    "activations in double width": (
        swap((RECEIVE, RECEIVE.replace("width)\n", "width).double()\n") + "        x = x.float()\n"),
             ("dist.send(y.detach(), after)", "dist.send(y.detach().double(), after)")),
        "bytes", "Parameters and tokens do not cross a cut",
    ),
    "the loss is not returned": (
        swap((RETURN + " else loss.item()", "    return None")), "result", "last part returns none",
    ),
}  # fmt: skip

BACK = "        out.backward(gradient)"
SHARE = "share = len(x) / len(tokens)"
SUM_MICRO = "        dist.all_reduce((part.token if part.first else part.output).weight.grad, group=tied)\n"
SENT_BACK = "        before is None or sends.append(dist.isend(x.grad, before))"

MICRO: Wrong = {
    "loss not divided": (swap((" * share", "")), "result", "times too large"),
    "divided by m where sizes differ": (
        swap((SHARE, "share = 1 / m")), "result", "Right for equal micro-batches",
    ),
    "divided by something else": (
        swap((SHARE, "share = 1 / 2")), "result", "scales the loss",
    ),
    "one after the other": (
        swap(("    kept, sends = [], []\n", "    kept, sends = [], []\n    done = []\n"),
             ("    for x, out in kept:\n        gradient", "        gradient"), ("out in kept)", "out in done)"),
             ("        kept.append((x, out))\n", "        done.append((x, out))\n")),
        "order", "Send all of them forward first",
    ),
    "gradients of micro-batches in another order": (
        swap(("    for x, out in kept:", "    for x, out in (kept if after is None else kept[::-1]):")),
        "result", "the same order on both sides",
    ),
    "only the last micro-batch counts": (
        swap((BACK, "        part.zero_grad()\n" + BACK)), "result", "added up",
    ),
    "tied weight summed after each micro-batch": (
        swap(("    if tied is not None:\n" + SUM_MICRO, ""),
             (SENT_BACK, SENT_BACK + "\n        if tied is not None:\n    " + SUM_MICRO)),
        "result", "after the last backward pass",
    ),
    "one message for the whole batch": (
        swap(("zip(tokens.tensor_split(m), targets.tensor_split(m), strict=True)", "[(tokens, targets)]")),
        "messages", "cut the batch into m pieces",
    ),
    "returns the loss of the last micro-batch": (
        swap(("sum(out.item() for _, out in kept)", "kept[-1][1].item()")), "result", "Weigh each micro-batch's loss",
    ),
    "nobody waits for what isend has begun": (
        swap(("    [work.wait() for work in sends]\n", "")), "messages", "isend without wait",
    ),
    "send against send": (
        lambda code: ALTERNATING, "deadlock", "both wait in a send to each other",
    ),
    "the last part forgets a gradient": (
        swap((SENT_BACK, "        end = after is None and x is kept[-1][0]\n"
              + SENT_BACK.replace(" or", " or end or"))),
        "deadlock", "waits for a gradient",
    ),
}  # fmt: skip

# One forward, one backward, with blocking sends: both sides of a cut come to send at the same time.
ALTERNATING = """
%%ranks
from utils import model

def in_micro_batches(part, tokens, targets, m, before, after, tied):
    ahead = 1 if after is None else 2
    waiting = []
    def back():
        x, out = waiting.pop(0)
        gradient = None
        if after is not None:
            gradient = torch.empty_like(out)
            dist.recv(gradient, after)
        out.backward(gradient)
        if before is not None:
            dist.send(x.grad, before)
    for x, y in zip(tokens.tensor_split(m), targets.tensor_split(m)):
        if before is not None:
            x = torch.empty(*x.shape, part.config.width)
            dist.recv(x, before)
            x.requires_grad_()
        out = part(x)
        if after is None:
            out = model.loss(out, y) / m
        else:
            dist.send(out.detach(), after)
        waiting.append((x, out))
        if len(waiting) == ahead:
            back()
    while waiting:
        back()
""".lstrip()

GREEDY = """
def balance(costs, parts):
    goal, cut, current = sum(costs) / parts, [], []
    for layer, cost in enumerate(costs):
        left = parts - len(cut) - 1
        if current and left and (sum(costs[i] for i in current) + cost > goal or len(costs) - layer == left):
            cut, current = cut + [current], []
        current = current + [layer]
    cut = cut + [current]
    while len(cut) < parts:
        big = max(range(len(cut)), key=lambda k: len(cut[k]))
        cut[big:big + 1] = [cut[big][:1], cut[big][1:]]
    return cut
"""
FILLED = """
def balance(costs, parts):
    cut = [[]]
    for layer, cost in enumerate(costs):
        if cut[-1] and sum(costs[i] for i in cut[-1]) + cost > max(sum(costs) / parts, max(costs)):
            cut.append([])
        cut[-1].append(layer)
    return cut
"""
EQUAL = """
def balance(costs, parts):
    each, more = divmod(len(costs), parts)
    ends = [each * (k + 1) + min(k + 1, more) for k in range(parts)]
    return [list(range(end - each - (k < more), end)) for k, end in enumerate(ends)]
"""
LARGEST_FIRST = """
def balance(costs, parts):
    cut = [[] for _ in range(parts)]
    for layer in sorted(range(len(costs)), key=lambda i: -costs[i]):
        min(cut, key=lambda part: sum(costs[i] for i in part)).append(layer)
    return [sorted(part) for part in cut]
"""
UP_TO_THE_LIMIT = """
def balance(costs, parts):
    runs = sorted({sum(costs[a:b]) for a in range(len(costs)) for b in range(a + 1, len(costs) + 1)})
    for limit in runs:
        cut = [[]]
        for layer, cost in enumerate(costs):
            if sum(costs[i] for i in cut[-1]) + cost > limit and cut[-1]:
                cut.append([])
            cut[-1].append(layer)
        if len(cut) <= parts and max(costs) <= limit:
            return cut + [[]] * (parts - len(cut))
"""
BALANCE: Wrong = {
    "equal numbers of layers": (EQUAL, "slowest part", "Equal numbers of layers are not equal work"),
    "greedy up to the mean": (GREEDY, "slowest part", "takes what the others left over|look at all places"),
    "largest first, anywhere": (LARGEST_FIRST, "result", "each part must hold neighbours"),
    "empty parts": (UP_TO_THE_LIMIT, "result", "a part is empty"),
    "the last layer is lost": (
        swap(("parts][1], len(costs)]", "parts][1], len(costs) - 1]")),
        "result", "layer 5 is in no part",
    ),
    "greedy, as many parts as it takes": (FILLED, "result", "then force the rest open"),
    "always three parts": (
        swap(("    best = {", "    parts = 3\n    best = {")), "result", "you return 3 parts",
    ),
    "sizes instead of layers": (
        swap(("return [list(range(a, b)) for", "return [b - a for")), "result", "each a list of layer numbers",
    ),
    "boundaries counted twice": (
        swap(("list(range(a, b))", "list(range(a, min(b + 1, len(costs))))")), "result", "a layer is in two parts",
    ),
}  # fmt: skip

HEAD = """
def idle_share(forward, backward, micro_batches):
    p, m, both = len(forward), micro_batches, [f + b for f, b in zip(forward, backward)]
"""
EQUAL_COSTS = "(p - 1) / (m + p - 1)"
IDLE: Wrong = {
    "idle over working time": (HEAD + "    return (p - 1) / m\n", "result", "divide the idle time by the working time"),
    "1/p": (HEAD + "    return 1 / p\n", "result", "works 1/p of the time|the share in which the parts work"),
    "1 - 1/p for any m": (HEAD + "    return 1 - 1 / p\n", "result", "holds for one whole batch"),
    "one slot too many": (
        HEAD + "    return (p - 1) / (m + p) if m > 1 else 1 - 1 / p\n",
        "result", "each further one one more",
    ),
    "equal costs only": (HEAD + f"    return {EQUAL_COSTS}\n", "result", "for parts of equal cost"),
    "forward pass only": (
        HEAD + "    return 1 - m * sum(forward) / (p * (sum(forward) + (m - 1) * max(forward)))\n",
        "result", "leave out the backward",
    ),
    "no filling and draining": (
        HEAD + f"    return {EQUAL_COSTS} if len(set(both)) == 1 else 1 - sum(both) / (p * max(both))\n",
        "result", "filling and draining",
    ),
    "one maximum for both directions": (
        HEAD + "    return 1 - m * sum(both) / (p * (sum(both) + (m - 1) * max(both)))\n",
        "result", "take a maximum of each",
    ),
    "the pace of the mean": (
        HEAD + "    return 1 - m * sum(both) / (p * (sum(both) + (m - 1) * sum(both) / p))\n", "result",
        "at the pace of the slowest|for parts of equal cost",
    ),
    "the working share": (HEAD + "    return m / (m + p - 1)\n", "result", "the idle share is the rest"),
    "in per cent": (HEAD + f"    return 100 * {EQUAL_COSTS}\n", "result", "That is a percentage"),
    "a percentage": (HEAD + f"    return f'{{{EQUAL_COSTS}:.0%}}'\n", "result", "Return a number between 0 and 1"),
}  # fmt: skip

GATHERED = """        both = [torch.empty_like(weight) for _ in range(2)]
        dist.all_gather(both, weight.grad, group=tied)
        weight.grad = both[0] + both[1]"""
OTHER_FORMS = {
    "the tied gradients by all-gather": ("across_the_cuts", swap((SUM, GATHERED))),
    "messages in batches of one": (
        "in_micro_batches",
        swap(("sends.append(dist.isend(out.detach(), after))",
              "sends += dist.batch_isend_irecv([dist.P2POp(dist.isend, out.detach(), after)])")),
    ),
    "a number of NumPy": (
        "idle_share",
        swap(("    return ", "    import numpy as np\n    return np.float32("), ("* total)", "* total))")),
    ),
    "a tensor with one number": (
        "idle_share", swap(("    return ", "    import torch\n    return torch.tensor("), ("* total)", "* total))")),
    ),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_right_answer_of_another_form_passes(form):
    name, change = OTHER_FORMS[form]
    verdict = SIDES.judge(name, change(SIDES.solution(name)))
    assert verdict.passed, str(verdict)


ALL = [
    (exercise, *wrong)
    for exercise, answers in zip(EXERCISES, (ACROSS, MICRO, BALANCE, IDLE), strict=True)
    for wrong in answers.values()
]
NAMES = [f"{e}: {n}" for e, answers in zip(EXERCISES, (ACROSS, MICRO, BALANCE, IDLE), strict=True) for n in answers]


@pytest.mark.parametrize(("exercise", "wrong", "what", "hint"), ALL, ids=NAMES)
def test_a_wrong_answer_gets_its_own_hint(exercise, wrong, what, hint):
    SIDES.wrong_is_not_yet(exercise, wrong, what, hint)


@pytest.mark.parametrize(("exercise", "answers"), [*zip(EXERCISES, (ACROSS, MICRO, BALANCE, IDLE), strict=True)])
def test_there_are_enough_wrong_answers(exercise, answers):
    SIDES.enough_wrong_answers(exercise, [hint for _, _, hint in answers.values()])
