"""The exercises on sharded data parallelism from three sides: stub, solution, and plausible wrong answers."""

from typing import Any

import pytest

from tests.exercises.sides import Sides, swap

SIDES = Sides("06_sharded_data_parallelism")
EXERCISES = ("flat_shards", "zero_1_step", "run_sharded", "global_norm")
pytestmark = pytest.mark.usefixtures("four_ranks")


@pytest.mark.parametrize("name", EXERCISES)
def test_the_stub_is_not_attempted(name):
    SIDES.stub_is_not_attempted(name)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name):
    SIDES.solution_passes(name)


# name of the mistake -> (wrong answer, what is off, what its hint says)
Wrong = dict[str, tuple[Any, str, str]]

PAD = "    row = torch.nn.functional.pad(row, (0, -len(row) % ranks))\n"
CHUNKS = "return list(row.chunk(ranks)), join"

FLAT: Wrong = {
    "no padding": (
        swap((PAD, ""), (CHUNKS, "return list(row.tensor_split(ranks)), join")), "result", "not equally long",
    ),
    "chunks without padding": (
        swap((PAD, "")), "result", "`torch.chunk` gives fewer",
    ),
    "the rest is dropped": (
        swap((PAD, "    row = row[: max(1, len(row) // ranks) * ranks]\n    row = torch.nn.functional.pad(row, "
                   "(0, max(0, ranks - len(row))))\n")),
        "result", "Numbers are lost",
    ),
    "always padded": (swap(("-len(row) % ranks", "ranks - len(row) % ranks")), "result", "longer than they need be"),
    "each tensor padded by itself": (
        swap(("torch.cat([t.flatten() for t in tensors])",
              "torch.cat([torch.nn.functional.pad(t.flatten(), (0, -t.numel() % ranks)) for t in tensors])")),
        "result", "Every tensor is padded by itself",
    ),
    "dealt out like cards": (
        swap((CHUNKS, "return [row[rank::ranks] for rank in range(ranks)], join"),
             ("torch.cat(list(shards)), [], 0", "torch.stack(list(shards), 1).flatten(), [], 0")),
        "result", "dealt out like cards",
    ),
    "padded in front": (
        swap(("(0, -len(row) % ranks)", "(-len(row) % ranks, 0)"), ("[], 0", "[], -sum(s.numel() for s in shapes)"),
             ("start : start + shape.numel()]", "start : start + shape.numel() or None]")),
        "result", "does not stand at the end",
    ),
    "padded with something": (swap(("% ranks))", "% ranks), value=1.0)")), "result", "must be zeros"),
    "shapes forgotten": (swap((".view(shape)", "")), "result", "in the wrong shapes"),
    "join remembers": (
        swap(("        return found\n", "        return tensors\n")), "result", "does not read the shards",
    ),
    "join stands still": (
        swap(("            start += shape.numel()\n", "")), "result", "in the wrong places",
    ),
    "the last tensor first": (
        swap(("t.flatten() for t in tensors]", "t.flatten() for t in reversed(tensors)]")), "result",
        "begins with the first tensor",
    ),
    "only the shards": (swap((CHUNKS, "return list(row.chunk(ranks))")), "result", "Return two things"),
}  # fmt: skip

SCATTER = "    dist.reduce_scatter_single(found, gradient)\n"
GATHER = "    dist.all_gather_single(row, mine.clone())"  # the last line
STATE = 'state["momentum"] = momentum * state.get("momentum", 0) + found / n'

STEP: Wrong = {
    "sum instead of mean": (swap(("found / n", "found")), "result", "too long by the number of ranks"),
    "right only for 4 ranks": (swap(("found / n", "found / 4")), "result", "right only on 4 ranks"),
    "mean of the mean": (swap(("found / n", "found / n**2")), "result", "too short by the number of ranks"),
    "keeps a view of the row too": (
        swap((STATE, STATE + '\n    state["mine"] = mine')), "memory", "more than the momentum of your shard",
    ),
    "its own gradient": (
        swap((SCATTER, "    found.copy_(gradient.chunk(n)[dist.get_rank()] * n)\n")), "result",
        "steps with its own gradient",
    ),
    "no gather": (swap((GATHER, "    return")), "result", "nobody has told the others"),
    "another tensor of the same name": (
        swap(("    mine = row.", "    row = row.clone()\n    mine = row.")), "result", "`row` is as it was",
    ),
    "momentum is lost": (swap(("state.get(\"momentum\", 0)", "0")), "result", "lost between the steps"),
    "another shard": (swap(("row.chunk(n)[dist.get_rank()]", "row.chunk(n)[(dist.get_rank() + 1) % n]")), "result",
                      "the gradient of another part"),
    "whole states on every rank": (
        swap((SCATTER + "    " + STATE, "    dist.all_reduce(gradient)\n    " + STATE.replace("found", "gradient")),
             ('mine -= rate * state["momentum"]', 'row -= rate * state["momentum"]'), (GATHER, "    return")),
        "memory", "momentum of the whole row",
    ),
    "momentum elsewhere": (
        swap((STATE, 'm = zero_1_step.__dict__.setdefault(id(state), [state, torch.zeros_like(mine)])\n'
                     "    m[1] = momentum * m[1] + found / n"),
             ('rate * state["momentum"]', "rate * m[1]")),
        "memory", "holds no tensor",
    ),
    "all-reduce": (
        swap((SCATTER, "    dist.all_reduce(gradient)\n    found.copy_(gradient.chunk(n)[dist.get_rank()])\n")),
        "bytes", "third pass",
    ),
    "gathers twice": (swap((GATHER, GATHER + "\n" + GATHER)), "bytes", "more is sent than needed"),
    "only rank 0 gathers (deadlock)": (
        swap((GATHER, "    if dist.get_rank() == 0:\n        dist.all_gather_single(row, mine.clone())")), "deadlock",
        "every rank must reduce and gather",
    ),
    "a step uphill": (swap(("mine -= rate", "mine += rate")), "result", "not that of one worker"),
}  # fmt: skip

FREE = "        for p in block.parameters():\n            p.data = torch.empty(0)\n"
ALL_GATHER = "        dist.all_gather_single(row, mine)\n"

RUN: Wrong = {
    "never freed": (swap((FREE, "")), "memory", "parameters of a block are still there"),
    "all gathered first": (
        swap(("        x = block(x)\n" + FREE,
              "    for block in blocks:\n        x = block(x)\n    for block in blocks:\n" + FREE)),
        "memory", "several blocks are there at once",
    ),
    "all rows gathered first, filled one by one": (
        swap((ALL_GATHER, ""),
             ("    for block, mine in zip(blocks, shards, strict=True):\n        row = torch.empty",
              "    rows = []\n    for mine in shards:\n        rows.append(torch.empty"),
             ("len(mine) * dist.get_world_size())", "len(mine) * dist.get_world_size()))\n"
              "        dist.all_gather_single(rows[-1], mine)\n    for block, row in zip(blocks, rows, strict=True):"),
             ),
        "memory", "Rows of blocks to come",
    ),
    "another order on one rank": (
        swap(("    for block, mine in zip(blocks, shards, strict=True):\n        row = torch.empty",
              "    rows, back = {}, dist.get_rank() == dist.get_world_size() - 1\n"
              "    for i in range(len(blocks)):\n        mine = shards[len(blocks) - 1 - i if back else i]\n"
              "        row = rows[len(blocks) - 1 - i if back else i] = torch.empty"),
             (ALL_GATHER, ALL_GATHER + "    for block, row in zip(blocks, [rows[i] for i in sorted(rows)], "
                                       "strict=True):\n")),
        "result", "in the same order",
    ),
    "each parameter padded": (
        swap(("            start += shapes[name].numel()\n", "            start += shapes[name].numel() + 1\n"),
             ("torch.empty(len(mine) * dist.get_world_size())", "torch.empty(len(mine) * dist.get_world_size() + 99)"),
             ("dist.all_gather_single(row, mine)", "dist.all_gather_single(row[:-99], mine)")),
        "result", "without gaps",
    ),
    "its own shard everywhere": (
        swap((ALL_GATHER, "        row = mine.repeat(dist.get_world_size())\n")), "result", "Nothing is gathered",
    ),
    "adds to the shards": (
        swap(("        x = block(x)\n", "        x = block(x)\n        mine.zero_()\n")),
        "result", "changes the shards",
    ),
    "sums rows of zeros": (
        swap((ALL_GATHER, "        row.zero_().chunk(dist.get_world_size())[dist.get_rank()].copy_(mine)\n"
                          "        dist.all_reduce(row)\n")),
        "bytes", "rows full of zeros",
    ),
    "through rank 0": (
        swap((ALL_GATHER, "        n = dist.get_world_size()\n"
                          "        dist.gather(mine, list(row.chunk(n)) if dist.get_rank() == 0 else None)\n"
                          "        dist.broadcast(row, 0)\n")),
        "bytes", "goes through one rank",
    ),
    "gathers twice": (swap((ALL_GATHER, ALL_GATHER + ALL_GATHER)), "bytes", "more than once"),
    "a rank without sequences leaves (deadlock)": (
        swap(("    for block, mine", "    if len(x) == 0:\n        return x\n    for block, mine")), "deadlock",
        "without sequences computes nothing",
    ),
}  # fmt: skip

REDUCE = "    dist.all_reduce(square)\n"
REPLICAS = "    for g in replicated:\n        square += g.square().sum()\n"
ROOT = "return square.sqrt().item()"

NORM: Wrong = {
    "the norm of its own shards": (swap((REDUCE, "")), "messages", "norm of one rank's shards"),
    "norms added up": (
        swap((REDUCE, "    square = square.sqrt()\n" + REDUCE + "    square = square.square()\n")), "result",
        "Norms do not add up",
    ),
    "replicas counted on every rank": (
        swap((REDUCE + REPLICAS, REPLICAS + REDUCE)), "result", "count them once for each",
    ),
    "right only for 4 ranks": (
        swap((REDUCE + REPLICAS, REPLICAS.replace("sum()", "sum() / 4") + REDUCE)), "result", "right only on 4 ranks",
    ),
    "replicas forgotten": (swap((REPLICAS, "")), "result", "are missing from the norm"),
    "divided by the ranks": (swap((REDUCE, REDUCE + "    square /= dist.get_world_size()\n")), "result",
                             "Shards are parts of one gradient"),
    "the greatest": (swap(("dist.all_reduce(square)", "dist.all_reduce(square, dist.ReduceOp.MAX)")), "result",
                     "greatest norm of all ranks"),
    "no root": (swap((ROOT, "return square.item()")), "result", "square of the norm"),
    "a message for each piece (deadlock)": (
        swap(("            square += g.square().sum()\n    dist.all_reduce(square)\n",
              "            dist.all_reduce(one := g.square().sum())\n            square += one\n")),
        "deadlock", "ranks hold different numbers of shards",
    ),
    "a message for each sum": (
        swap((REDUCE, REDUCE + "    dist.all_reduce(torch.zeros(()))\n")), "messages", "a message for each tensor",
    ),
    "gathers everything": (
        swap((REDUCE, "    flat = torch.cat([g.flatten() for g in sharded if g is not None] + [torch.zeros(80)])[:80]\n"
                      "    dist.all_gather_single(torch.empty(80 * dist.get_world_size()), flat)\n" + REDUCE)),
        "bytes", "whole gradients are sent",
    ),
    "only rank 0 knows": (swap(("dist.all_reduce(square)", "dist.reduce(square, 0)")), "result",
                          "return different numbers"),
    "no gradient, no number": (
        swap(("        if g is not None:\n            square", "        square")), "error", "None",
    ),
    "sum of numbers": (swap(("g.square().sum()", "g.abs().sum()")), "result", "not the norm of the whole"),
}  # fmt: skip

ANSWERS = {"flat_shards": FLAT, "zero_1_step": STEP, "run_sharded": RUN, "global_norm": NORM}
WRONG = [(name, *answer) for name, answers in ANSWERS.items() for answer in answers.values()]
TITLES = [f"{name}: {mistake}" for name, answers in ANSWERS.items() for mistake in answers]


@pytest.mark.parametrize(("name", "wrong", "what", "hint"), WRONG, ids=TITLES)
def test_a_wrong_answer_gets_its_own_hint(name, wrong, what, hint):
    SIDES.wrong_is_not_yet(name, wrong, what, hint)


@pytest.mark.parametrize("name", EXERCISES)
def test_there_are_enough_wrong_answers(name):
    SIDES.enough_wrong_answers(name, [hint for _, _, hint in ANSWERS[name].values()])
