"""The exercises on data parallelism from three sides: stub, solution, and plausible wrong answers."""

from typing import Any

import pytest

from tests.exercises.sides import Sides, swap

SIDES = Sides("03_data_parallelism")
EXERCISES = ("epoch_shard", "train_as_one", "accumulate_once")
pytestmark = pytest.mark.usefixtures("four_ranks")


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
        "result", "Frozen parameters are shared at the start too",
    ),
    "steps before it synchronises": (
        swap(("                dist.all_reduce(p.grad)\n                p -= rate * p.grad\n",
              "                p -= rate * p.grad\n                dist.all_reduce(p.grad)\n")),
        "result", "step with the same gradient",
    ),
    "parameters gathered from all": (
        swap((BROADCAST, "    states = [None] * world_size\n    dist.all_gather_object(states, net.state_dict())\n"
                         "    net.load_state_dict(states[0])\n")),
        "bytes", "sharing the first parameters takes more",
    ),
    "parameters broadcast twice": (swap((BROADCAST, BROADCAST * 2)), "bytes", "after it, equal steps keep them equal"),
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

# What one may write as well. A ring sends the same bytes for a reduce-scatter with an all-gather as for an all-reduce.
SHARD_AND_GATHER = """
def shard_and_gather(tensors):
    n = dist.get_world_size()
    flat = torch.cat([t.flatten() for t in tensors])
    row = torch.zeros(-(-len(flat) // n) * n)
    row[: len(flat)] = flat
    mine = torch.empty(len(row) // n)
    dist.reduce_scatter_tensor(mine, row)
    dist.all_gather_into_tensor(row, mine)
    for t, piece in zip(tensors, row[: len(flat)].split([t.numel() for t in tensors])):
        t.copy_(piece.view_as(t))
"""
BY_HAND = """
def ring(t):
    n = dist.get_world_size()
    chunks = t.view(-1).tensor_split(n)
    for step in range(2 * (n - 1)):
        give, take = chunks[(rank - step) % n], chunks[(rank - step - 1) % n]
        inbox = torch.empty_like(take)
        sending = dist.isend(give, dst=(rank + 1) % n)
        dist.recv(inbox, src=(rank - 1) % n)
        sending.wait()
        take.copy_(take + inbox if step < n - 1 else inbox)
"""
DDP = """%%ranks
from torch.nn.parallel import DistributedDataParallel
from utils import model

def train_as_one(net, shards, rate):
    for p in net.parameters():
        if not p.requires_grad:
            dist.broadcast(p.data, src=0)
    ddp, losses = DistributedDataParallel(net), []
    for tokens, targets in shards:
        count = (targets != -100).sum()
        dist.all_reduce(count)
        ddp.zero_grad()
        loss = model.loss(ddp(tokens), targets, reduction="sum") / count
        (loss * dist.get_world_size()).backward()
        with torch.no_grad():
            for p in net.parameters():
                if p.grad is not None:
                    p -= rate * p.grad
        total = loss.detach()
        dist.all_reduce(total)
        losses.append(total.item())
    return losses
"""
SUMS = "        with torch.no_grad():\n            for p in trained:\n                dist.all_reduce(p.grad)\n"
OTHER_FORMS = {
    "train_as_one, by DDP": ("train_as_one", lambda code: DDP),
    "train_as_one, all parameters in one pickled message": (
        "train_as_one",
        swap((BROADCAST, "    state = [net.state_dict()]\n    dist.broadcast_object_list(state, src=0)\n"
                         "    net.load_state_dict(state[0])\n")),
    ),
    "train_as_one, reduce-scatter and all-gather": (
        "train_as_one", lambda code: swap((SUMS, "        shard_and_gather([p.grad for p in trained])\n"
                                           + SUMS.replace("                dist.all_reduce(p.grad)\n", "")))(code)
        + SHARD_AND_GATHER,
    ),
    "train_as_one, a ring by hand": (
        "train_as_one", lambda code: swap(("dist.all_reduce(p.grad)", "ring(p.grad)"))(code) + BY_HAND,
    ),
    "train_as_one, to rank 0 and back": (
        "train_as_one", swap(("dist.all_reduce(p.grad)", "dist.reduce(p.grad, dst=0); dist.broadcast(p.grad, src=0)")),
    ),
    "accumulate_once, reduce-scatter and all-gather": (
        "accumulate_once",
        lambda code: swap(("    for p in net.parameters():\n        dist.all_reduce(p.grad)\n",
                           "    shard_and_gather([p.grad for p in net.parameters()])\n"
                           "    for p in net.parameters():\n"))(code)
        + SHARD_AND_GATHER,
    ),
    "epoch_shard, cut in one piece each": (
        "epoch_shard", swap(("order[rank::world_size]",
                             "order[samples * rank // world_size : samples * (rank + 1) // world_size]")),
    ),
    "epoch_shard, whole numbers of NumPy": (
        "epoch_shard", swap(("torch.randperm(samples, generator=generator).tolist()",
                             "list(__import__('numpy').random.default_rng([seed, epoch]).permutation(samples))")),
    ),
    "epoch_shard, a tensor": ("epoch_shard", swap((".tolist()", ""))),
    "epoch_shard, Python's random numbers": (
        "epoch_shard", swap(("torch.randperm(samples, generator=generator).tolist()",
                             "__import__('random').Random(1000 * seed + epoch).sample(range(samples), samples)")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_right_answer_of_another_form_passes(form):
    name, change = OTHER_FORMS[form]
    verdict = SIDES.judge(name, change(SIDES.solution(name)))
    assert verdict.passed, str(verdict)


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
    "turned, not shuffled": (
        swap(("torch.randperm(samples, generator=generator).tolist()", "list(range(samples))"),
             ("    return ", "    turn = (epoch + 31 * seed) % max(samples, 1)\n"
                             "    order = order[turn:] + order[:turn]\n    return ")),
        "result", "turned or stepped through",
    ),
    "forwards and backwards": (
        swap(("torch.randperm(samples, generator=generator).tolist()", "list(range(samples))[:: 1 - 2 * (epoch % 2)]")),
        "result", "Some epochs have the order",
    ),
    "in steps that depend on the epoch": (
        swap(("torch.randperm(samples, generator=generator).tolist()",
              "[(i * pace + seed) % samples for i in range(samples)]"),
             ("    order = ", "    apart = (p for p in range(3 + 2 * epoch, 10**6) if math.gcd(p, samples or 1) == 1)\n"
                              "    pace = next(apart)\n    order = "),
             ("import torch\n", "import math\n\nimport torch\n")),
        "result", "not shuffled: most samples follow",
    ),
    "three orders in turn": (
        swap(("1000 * seed + epoch", "1000 * seed + epoch % 3")), "result", "let the seed depend on the epoch itself",
    ),
    "NumPy's global random state": (
        swap(("torch.randperm(samples, generator=generator).tolist()",
              "__import__('numpy').random.permutation(samples).tolist()")),
        "result", "differs from rank to rank in real training",
    ),
    "sets NumPy's global random state": (
        swap(("torch.randperm(samples, generator=generator).tolist()", "np.random.permutation(samples).tolist()"),
             ("    order", "    import numpy as np\n    np.random.seed(1000 * seed + epoch)\n    order")),
        "result", "so dropout and everything else random starts over",
    ),
    "parts of numbers": (swap((DEAL, "[float(one) for one in order[rank::world_size]]")), "result", "whole numbers"),
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
    "the mean of a micro-batch without targets": (
        swap(('reduction="sum")', 'reduction="mean") * (targets != -100).sum()')),
        "result", "A mean over no tokens is 0 / 0",
    ),
    "gathered instead of reduced": (
        swap((SYNC, "        everyone = [torch.empty_like(p) for _ in range(world_size)]\n"
                    "        dist.all_gather(everyone, p.grad)\n        p.grad = sum(everyone)\n")),
        "bytes", "N - 1 times",
    ),
    "broadcasts what is equal": (
        swap(("    totals = ", "    for p in net.parameters():\n        dist.broadcast(p.data, src=0)\n    totals = ")),
        "bytes", "The copies are equal already",
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
