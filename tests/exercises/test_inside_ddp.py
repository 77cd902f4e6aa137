"""The exercises inside DDP from three sides: stub, solution, and plausible wrong answers."""

from typing import Any

import pytest

from tests.exercises.sides import Sides, swap

SIDES = Sides("05_inside_ddp")
EXERCISES = ("bucket_plan", "overlapped_reducer", "sum_gradients_once", "accumulate_ddp")
pytestmark = pytest.mark.usefixtures("four_ranks")


@pytest.mark.parametrize("name", EXERCISES)
def test_the_stub_is_not_attempted(name):
    SIDES.stub_is_not_attempted(name)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name):
    SIDES.solution_passes(name)


# name of the mistake -> (wrong answer, what is off, what its hint says)
Wrong = dict[str, tuple[Any, str, str]]

FULL = "not buckets or held + nbytes > limit"
LIMIT = "limit = cap if buckets else first_cap"
RETURN = "    return buckets"

PLAN: Wrong = {
    "the order of registration": (swap(("reversed(parameters)", "parameters")), "result", "order of registration"),
    "packed forward, buckets turned round": (
        swap(("reversed(parameters)", "parameters"), (RETURN, "    return buckets[::-1]")), "result",
        "inside a bucket the order is another",
    ),
    "largest first": (
        swap(("reversed(parameters)", "sorted(parameters, key=lambda p: -p[1])")), "result", "order is that of size",
    ),
    "frozen parameters": (swap(("if not trained", "if False")), "result", "frozen parameter stands in a bucket"),
    "closed after it has reached the cap": (
        swap((FULL, "not buckets or held >= limit")), "result", "as the lesson does",
    ),
    "the first cap ignored": (swap((LIMIT, "limit = cap"), ("0, first_cap", "0, cap")), "result", "cap of its own"),
    "the first cap for all": (swap((LIMIT, "limit = first_cap")), "result", "cap of the first one only"),
    "closed at an exact fit": (swap(("> limit", ">= limit")), "result", "exactly its cap"),
    "a bucket for each": (swap((FULL, "True")), "result", "bucket of its own: that is a message"),
    "an empty bucket at the start": (
        swap(("[], 0, first_cap", "[[]], 0, first_cap"), ("not buckets or ", "")), "result", "empty bucket",
    ),
    "the last bucket lost": (swap((RETURN, "    return buckets[:-1] or buckets")), "result", "last bucket is not full"),
    "too large to fit": (
        swap(("        if not trained:", "        if nbytes > cap:\n            continue\n        if not trained:")),
        "result", "larger than the cap is in no bucket",
    ),
    "one list of names": (swap((RETURN, "    return sum(buckets, [])")), "result", "each a list of names"),
    "one bucket for all": (swap((FULL, "not buckets")), "result", "holds more than its cap"),
    "sorted inside": (swap((RETURN, "    return [sorted(bucket) for bucket in buckets]")), "result",
                      "inside a bucket|one order through all buckets"),
}  # fmt: skip

SEND = "flying.append((flat, dist.all_reduce(flat, async_op=True)))"
WHILE = "        while len(flying) < len(buckets) and missing[len(flying)] == 0:\n"
COPY = "                p.grad.copy_(part.view_as(p))\n"
RESET = "        missing[:] = [len(bucket) for bucket in buckets]\n"

OVERLAP: Wrong = {
    "sends after backward": (
        swap((WHILE, "    def late():\n        while len(flying) < len(buckets):\n"),
             ("    def finish():\n", "    def finish():\n        late()\n")),
        "overlap", "nothing is hidden",
    ),
    "waits in the hook": (
        swap((SEND, "work = dist.all_reduce(flat, async_op=True)\n            work.wait()\n"
                    "            flying.append((flat, work))")),
        "overlap", "the hook waits for its message",
    ),
    "looks at one bucket a hook": (
        swap((WHILE, WHILE.replace("while", "if"))), "messages", "look at the next one",
    ),
    "looks at one bucket a hook, and forgives itself": (
        swap((WHILE, WHILE.replace("while", "if")), ("flying, strict=True)", "flying)")), "messages",
        "no hook comes after",
    ),
    "only rank 0 sends (deadlock)": (
        swap((SEND, SEND.replace("async_op=True)", "async_op=True) if rank == 0 else None")),
             ("            work.wait()\n", "            work and work.wait()\n")),
        "deadlock", "make the same calls",
    ),
    "sends whatever is full": (
        swap((WHILE, "        number = place[p]\n        if missing[number] == 0:\n"),
             ("buckets[len(flying)]]", "buckets[number]]"), (SEND, SEND.replace("((flat", "((number, flat")),
             ("for bucket, (flat, work) in zip(buckets, flying, strict=True):",
              "for number, flat, work in flying:\n            bucket = buckets[number]")),
        "messages", "may not leave before it",
    ),
    "sum instead of mean": (swap((" / world_size", "")), "result", "added up and not averaged"),
    "right only for 4 ranks": (swap(("/ world_size", "/ 4")), "result", "right only on 4 ranks"),
    "never copied back": (swap((COPY, "                pass\n")), "result", "copy the averages back"),
    "launched and not waited for": (swap(("            work.wait()\n", "")), "result", "only begins a message"),
    "counts do not begin anew": (
        swap((RESET, ""), ("strict=True):\n            work", "strict=False):\n            work")),
        "result", "counts and the list of messages must begin anew",
    ),
    "old messages are kept": (
        swap(("        flying.clear()\n", ""), ("strict=True):\n            work", "strict=False):\n            work")),
        "result", "counts and the list of messages must begin anew|next one is not",
    ),
    "a message a gradient": (
        swap((WHILE, "        if True:\n"),
             ("torch.cat([p.grad.flatten() for p in buckets[len(flying)]]) / world_size",
              "p.grad.div_(world_size)"),
             ("for bucket, (flat, work) in zip(buckets, flying, strict=True):\n", "for flat, work in flying:\n"),
             ("            for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):\n", ""),
             (COPY, "")),
        "messages", "message of its own",
    ),
    "the parts in another order": (
        swap(("for p, part in zip(bucket, flat.split([p.numel() for p in bucket])",
              "for p, part in zip(bucket[::-1], flat.split([p.numel() for p in bucket[::-1]])")),
        "result", "order in which it was joined",
    ),
    "everything once more": (
        swap(("    def finish():\n",
              "    def finish():\n        for p in place:\n            dist.all_reduce(p.grad)\n")),
        "messages", "number of messages is not that of the buckets",
    ),
    "waits until all are ready": (
        swap(("and missing[len(flying)] == 0", "and not any(missing)")), "overlap", "wait longer than they must",
    ),
    "nothing returned": (swap(("    return finish", "")), "result", "function without arguments"),
    "no hooks": (
        swap(("        p.register_post_accumulate_grad_hook(ready)", "        pass"),
             ("strict=True):\n            work", "strict=False):\n            work")),
        "messages", "No gradient travels",
    ),
}  # fmt: skip

BUG = """
def sum_gradients_once(net):
    for module in net.modules():
        for p in module.parameters(recurse=False):
            if p.requires_grad:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
                dist.all_reduce(p.grad)
"""
LOOP = "    for p in net.parameters():\n"
SEEN = """\
    seen = set()
    for module in net.modules():
        for name, p in module.named_parameters(recurse=False):
"""


def walking(key: str, skip: str = "") -> str:
    """Write a walk over modules that treats two parameters with the same `key` as one."""
    return (
        f"\ndef sum_gradients_once(net):\n{SEEN}"
        f"            if not p.requires_grad or {key} in seen{skip}:\n                continue\n"
        f"            seen.add({key})\n            if p.grad is None:\n                p.grad = torch.zeros_like(p)\n"
        "            dist.all_reduce(p.grad)\n"
    )


TIED: Wrong = {
    "the bug itself": (BUG, "result", "walk over modules comes past it twice"),
    "mended by the number of ranks, then halved": (
        BUG + "    net.token.weight.grad /= 2\n", "result", "Do not mend it afterwards",
    ),
    "one by its name": (walking("name"), "result", "same object"),
    "output left out by its name": (
        walking("id(p)", ' or (name == "weight" and module is net.output)'), "result", "left out by its name",
    ),
    "the tied one left out": (
        swap((LOOP + "        if p.requires_grad:",
              LOOP + "        if p.requires_grad and p is not net.token.weight:")),
        "result", "once, not never",
    ),
    "mean instead of sum": (
        swap(("dist.all_reduce(p.grad)", "dist.all_reduce(p.grad)\n            p.grad /= world_size")), "result",
        "gradients are averaged",
    ),
    "none skipped (deadlock)": (
        swap(("            if p.grad is None:\n                p.grad = torch.zeros_like(p)\n", ""),
             ("if p.requires_grad:", "if p.grad is not None:")),
        "deadlock", "takes part with zeros",
    ),
    "zeros for the frozen one": (swap(("if p.requires_grad:", "if True:")), "result", "has none on any rank"),
    "sent twice, put right": (
        BUG + "    if net.output.weight is net.token.weight:\n        net.token.weight.grad /= world_size\n", "bytes",
        "tied weight is sent twice",
    ),
    "gradients gathered in one list": (
        swap(("            dist.all_reduce(p.grad)",
              "            parts = [torch.empty_like(p) for _ in range(world_size)]\n"
              "            dist.all_gather(parts, p.grad)\n            p.grad = sum(parts)\n"
              "            dist.all_reduce(torch.zeros_like(p))")),
        "bytes", "more is sent than each gradient once",
    ),
    "nothing sent": (
        swap(("            dist.all_reduce(p.grad)", "            pass")), "messages", "No gradient travels",
    ),
}  # fmt: skip

CONTEXT = "        with nullcontext() if last else ddp.no_sync():\n"
FORWARD = "            loss = model.loss(ddp(tokens), targets) * world_size / total\n"
BACK = "            loss.backward()"

ACCUMULATE: Wrong = {
    "only backward inside": (
        swap((CONTEXT + FORWARD, FORWARD.replace("            loss", "        loss") + CONTEXT)), "messages",
        "DDP decides in the forward pass",
    ),
    "no no_sync at all": (swap((CONTEXT, "        if True:\n")), "messages", "never used"),
    "everything inside no_sync": (swap((CONTEXT, "        with ddp.no_sync():\n")), "messages",
                                  "last one has to stand outside"),
    "the first one sends": (swap(("number == len(micro_batches) - 1", "number == 0")), "messages", "is not the last"),
    "past DDP": (swap(("ddp(tokens)", "ddp.module(tokens)")), "messages", "ddp.module"),
    "not divided": (swap((" * world_size / total", "")), "result", "add up the means of the micro-batches"),
    "the ranks forgotten": (swap((" * world_size / total", " / total")), "result", "DDP divides by it as well"),
    "its own number of micro-batches": (swap((" * world_size / total", " / len(micro_batches)")), "result",
                                        "divides by its own number"),
    "cleared in the loop": (swap(("        last = ", "        ddp.zero_grad()\n        last = ")), "result",
                            "cleared inside the loop"),
    "the average number of micro-batches (deadlock)": (
        swap(("len(micro_batches) - 1", "total // world_size - 1")), "deadlock", "any other number than its own",
    ),
    "averaged by hand": (
        swap((CONTEXT, "        with ddp.no_sync():\n"),
             (BACK, BACK + "\n    for p in ddp.parameters():\n        dist.all_reduce(p.grad)\n"
                           "        p.grad /= world_size")),
        "messages", "other messages than DDP's buckets",
    ),
    "the last two send": (swap(("number == len(micro_batches) - 1", "number >= len(micro_batches) - 2")), "messages",
                          "more than one micro-batch sends"),
    "one backward for all": (
        swap((CONTEXT, "        with nullcontext():\n"),
             (BACK, "            losses.append(loss)\n    sum(losses).backward()"),
             ("    for number", "    losses = []\n    for number")),
        "memory", "held at once",
    ),
}  # fmt: skip

ANSWERS = {
    "bucket_plan": PLAN, "overlapped_reducer": OVERLAP, "sum_gradients_once": TIED, "accumulate_ddp": ACCUMULATE,
}  # fmt: skip
WRONG = [(name, *answer) for name, answers in ANSWERS.items() for answer in answers.values()]
TITLES = [f"{name}: {mistake}" for name, answers in ANSWERS.items() for mistake in answers]


@pytest.mark.parametrize(("name", "wrong", "what", "hint"), WRONG, ids=TITLES)
def test_a_wrong_answer_gets_its_own_hint(name, wrong, what, hint):
    SIDES.wrong_is_not_yet(name, wrong, what, hint)


@pytest.mark.parametrize("name", EXERCISES)
def test_there_are_enough_wrong_answers(name):
    SIDES.enough_wrong_answers(name, [hint for _, _, hint in ANSWERS[name].values()])
