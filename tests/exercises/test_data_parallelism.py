"""The exercises on data parallelism from three sides: stub, solution, and plausible wrong answers."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.exercises.sides import Sides

SIDES = Sides("03_data_parallelism")
EXERCISES = ("epoch_shard", "train_as_one", "accumulate_once")


@pytest.fixture(scope="module", autouse=True)
def four_ranks():
    """Start the ranks once for all tests of this file."""
    from utils import ranks

    ranks.start(4)
    yield
    ranks.stop()


def swap(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """Change the solution: replace each first text, which must be there, by the second."""

    def change(code: str) -> str:
        for old, new in pairs:
            assert old in code, f"the solution has no {old!r} any more"
            code = code.replace(old, new)
        return code

    return change


@pytest.mark.parametrize("name", EXERCISES)
def test_the_stub_is_not_attempted(name):
    SIDES.stub_is_not_attempted(name)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name):
    SIDES.solution_passes(name)


# name of the mistake -> (wrong answer, what is off, what its hint says)
Wrong = dict[str, tuple[Any, str, str]]

SUMMED = 'model.loss(net(tokens), targets, reduction="sum") / count'
LOCAL_MEAN = (SUMMED, "model.loss(net(tokens), targets)")
AVERAGED = ("dist.all_reduce(p.grad)", "dist.all_reduce(p.grad); p.grad /= world_size")
LOSS = ("        dist.all_reduce(total)", "        dist.all_reduce(total); total /= world_size")
BROADCAST = "    for p in net.parameters():\n        dist.broadcast(p.data, src=0)\n"

TRAIN: Wrong = {
    "forgotten broadcast": (swap((BROADCAST, "")), "result", "began with different parameters"),
    "no synchronisation": (swap(("                dist.all_reduce(p.grad)\n", "")), "messages", "never travel"),
    "sum instead of mean": (swap(LOCAL_MEAN), "result", "You add up the ranks' means"),
    "mean of means, right only for even shards": (
        swap(LOCAL_MEAN, AVERAGED, LOSS), "result", "average the ranks' means",
    ),
    "weighed by sequences": (
        swap((SUMMED, "model.loss(net(tokens), targets) * len(tokens) / sequences"),
             ("dist.all_reduce(count)", "dist.all_reduce(sequences := torch.tensor(len(tokens)))")),
        "result", "weigh each rank by its number of sequences",
    ),
    "right only for 4 ranks": (swap(AVERAGED, LOSS, (SUMMED, SUMMED + " * 4")), "result", "right only on 4 ranks"),
    "divided twice": (swap(AVERAGED), "result", "divide twice"),
    "counts what does not count": (
        swap(("(targets != -100).sum()", "torch.tensor(targets.numel())")), "result", "counts every target",
    ),
    "never divided": (swap((" / count", "")), "result", "never divided by the number of tokens"),
    "the mean of an empty shard": (
        swap((SUMMED, "model.loss(net(tokens), targets) * (targets != -100).sum() / count")), "result", "NaN",
    ),
    "gradients of the step before": (swap(("        net.zero_grad()\n", "")), "result", "several in a row"),
    "a rank without data skips the step (deadlock)": (
        swap(("        count = ", "        if len(tokens) == 0:\n            continue\n        count = ")),
        "deadlock", "leaves out a call that the others wait in",
    ),
    "frozen parameters have no gradient": (
        swap(("[p for p in net.parameters() if p.requires_grad]", "list(net.parameters())")), "error", "None",
    ),
    "frozen parameters not shared": (
        swap((BROADCAST, BROADCAST.replace("net.parameters()", "trained"))),
        "result", "was every parameter shared",
    ),
    "each rank's own loss": (swap(("        dist.all_reduce(total)\n", "")), "result", "that of its own shard"),
    "parameters broadcast in every step": (
        swap(("        net.zero_grad()", "        for p in net.parameters():\n"
              "            dist.broadcast(p.data, src=0)\n        net.zero_grad()")),
        "bytes", "broadcast more than once",
    ),
    "twice the messages": (
        swap(("                dist.all_reduce(p.grad)\n", "                dist.all_reduce(p.grad.clone())\n"
              "                dist.all_reduce(p.grad)\n")),
        "bytes", "each gradient travels once",
    ),
    "gathered instead of reduced": (
        swap(("                dist.all_reduce(p.grad)\n",
              "                parts = [torch.empty_like(p) for _ in range(world_size)]\n"
              "                dist.all_gather(parts, p.grad)\n"
              "                p.grad = sum(parts)\n")),
        "bytes", "N - 1 times",
    ),
}  # fmt: skip

SEED = "manual_seed(1000 * seed + epoch)"
DEAL = "order[rank::world_size]"

SHARD: Wrong = {
    "the same shuffle in each epoch": (swap((SEED, "manual_seed(seed)")), "result", "`set_epoch` is never called"),
    "shuffles that differ between ranks": (
        swap((SEED, "manual_seed(1000 * seed + epoch + rank)")), "result", "must not depend on the rank",
    ),
    "duplicates from padding": (
        swap((DEAL, "(order + order[: -samples % world_size] if samples else order)[rank::world_size]")), "result",
        "read twice: this fills up",
    ),
    "the rest is dropped": (
        swap((DEAL, "order[: samples // world_size * world_size][rank::world_size]")),
        "result", "does not divide evenly",
    ),
    "right only for 4 ranks": (swap((DEAL, "order[rank::4]")), "result", "number of ranks written into your code"),
    "the last rank takes the rest": (
        swap((DEAL, "order[rank * (samples // world_size) : None if rank == world_size - 1 else "
                    "(rank + 1) * (samples // world_size)]")),
        "result", "keeps all others waiting",
    ),
    "only its own shard is shuffled": (
        swap(("    order = torch.randperm(samples, generator=generator).tolist()\n    return " + DEAL,
              "    mine = torch.arange(samples)[rank::world_size]\n"
              "    return mine[torch.randperm(len(mine), generator=generator)].tolist()")),
        "result", "only in another order",
    ),
    "global random state": (swap((", generator=generator", "")), "result", "depends on the global random state"),
    "sets the global random state": (
        swap(("torch.Generator().", "torch."), (", generator=generator", "")), "result", "sets the global random state",
    ),
    "not shuffled": (swap(("torch.randperm(samples, generator=generator).tolist()", "list(range(samples))")), "result",
                     "Nothing is shuffled"),
    "the whole data set": (swap((DEAL, "order")), "result", "whole data set"),
    "seed is ignored": (swap((SEED, "manual_seed(epoch)")), "result", "Another `seed`"),
    "numbers from 1": (swap((DEAL, "[one + 1 for one in order[rank::world_size]]")), "result", "There is no sample"),
}  # fmt: skip

DIVIDE = "        p.grad /= totals[1]\n"
SYNC = "        dist.all_reduce(p.grad)\n"
BACK = "        loss.backward()\n"
MEANS = ('reduction="sum")', 'reduction="mean")')
WEIGHED = ("torch.stack([loss.detach(), ", "torch.stack([loss.detach() * (targets != -100).sum(), ")

ACCUMULATE: Wrong = {
    "synchronises after each micro-batch": (
        swap(("    for tokens, targets in micro_batches:\n",
              "    sums = [torch.zeros_like(p) for p in net.parameters()]\n    for tokens, targets in micro_batches:\n"
              "        net.zero_grad()\n"),
             (BACK, BACK + "        for p, s in zip(net.parameters(), sums):\n"
                           "            dist.all_reduce(p.grad)\n            s += p.grad\n"),
             (SYNC + DIVIDE, "        pass\n    for p, s in zip(net.parameters(), sums):\n"
                             "        p.grad = s / totals[1]\n")),
        "bytes", "synchronised after every micro-batch",
    ),
    "synchronises what is synchronised": (
        swap((SYNC, ""), (BACK, BACK + "        for p in net.parameters():\n            dist.all_reduce(p.grad)\n")),
        "result", "synchronised again after the next",
    ),
    "sum of means": (swap(MEANS, WEIGHED, (DIVIDE, "")), "result", "over ranks and over micro-batches"),
    "mean of micro-batch means": (
        swap(MEANS, WEIGHED, (DIVIDE, "        p.grad /= world_size * len(micro_batches)\n")), "result",
        "average the means of micro-batches",
    ),
    "forgotten number of micro-batches": (
        swap(MEANS, WEIGHED, (DIVIDE, "        p.grad /= world_size\n")),
        "result", "add up the means of the micro-batches",
    ),
    "sum over ranks of each rank's mean": (
        swap(MEANS, WEIGHED, (DIVIDE, "        p.grad /= len(micro_batches)\n")),
        "result", "You add up the ranks' means",
    ),
    "clears in the loop": (swap(("        loss = ", "        net.zero_grad()\n        loss = "),), "result",
                           "cleared inside the loop"),
    "no synchronisation": (swap((SYNC, "")), "messages", "keeps those of its own micro-batches"),
    "right only for 4 ranks": (
        swap((DIVIDE, "        p.grad *= 4 / totals[1] / world_size\n")), "result", "right only on 4 ranks",
    ),
    "never divided": (swap((DIVIDE, "")), "result", "never divided"),
    "a rank without micro-batches leaves (deadlock)": (
        swap(("    totals = ", "    if not micro_batches:\n        return 0.0\n    totals = ")), "deadlock",
        "different numbers of micro-batches",
    ),
    "one backward for all": (
        swap((BACK, "        losses.append(loss)\n"), ("    totals = ", "    losses = []\n    totals = "),
             ("    dist.all_reduce(totals)\n",
              "    if losses:\n        sum(losses).backward()\n    dist.all_reduce(totals)\n")),
        "memory", "held at once",
    ),
    "the loss of its own micro-batches": (
        swap(("    dist.all_reduce(totals)\n", "    mine = totals[0] / totals[1]\n    dist.all_reduce(totals)\n"),
             ("return (totals[0] / totals[1]).item()", "return mine.item()")),
        "result", "returned loss is not",
    ),
}  # fmt: skip

ANSWERS = {"train_as_one": TRAIN, "epoch_shard": SHARD, "accumulate_once": ACCUMULATE}
WRONG = [(name, *answer) for name, answers in ANSWERS.items() for answer in answers.values()]
TITLES = [f"{name}: {mistake}" for name, answers in ANSWERS.items() for mistake in answers]


@pytest.mark.parametrize(("name", "wrong", "what", "hint"), WRONG, ids=TITLES)
def test_a_wrong_answer_gets_its_own_hint(name, wrong, what, hint):
    SIDES.wrong_is_not_yet(name, wrong, what, hint)


@pytest.mark.parametrize("name", EXERCISES)
def test_there_are_enough_wrong_answers(name):
    SIDES.enough_wrong_answers(name, [hint for _, _, hint in ANSWERS[name].values()])
