"""The exercises on tensor parallelism from three sides: stub, solution, and plausible wrong answers."""

from typing import Any

import pytest

from tests.exercises.sides import Sides, swap
from utils.figures import tensor_parallelism as pictures

SIDES = Sides("08_tensor_parallelism", before=("given",))
EXERCISES = ("cut_perceptron", "cut_loss", "sequence_norm", "attend_by_heads")
pytestmark = pytest.mark.usefixtures("four_ranks")


@pytest.mark.parametrize("name", EXERCISES)
def test_the_stub_is_not_attempted(name):
    SIDES.stub_is_not_attempted(name)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name):
    SIDES.solution_passes(name)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_table_shows_what_a_function_does(name, capsys):
    SIDES.judge(name, SIDES.stub(name))
    assert pictures.tried(name) is None
    assert "Not written yet" in capsys.readouterr().out
    SIDES.judge(name, SIDES.solution(name))
    cases = pictures.tried(name)._repr_mimebundle_()["text/plain"].splitlines()[3:]
    assert len(cases) >= 3
    assert all("right" in line and "off" not in line for line in cases)


# name of the mistake -> (wrong answer, what is off, what its hint says)
Wrong = dict[str, tuple[Any, str, str]]

ENTER = "Conjugate.apply(x, same, total)"
SUMMANDS = "F.linear(hidden, down)"
LEAVE = f"Conjugate.apply({SUMMANDS}, total, same)"

PERCEPTRON: Wrong = {
    "row bias on every rank": (
        swap((f"{LEAVE} + down_bias", "Conjugate.apply(F.linear(hidden, down, down_bias), total, same)")),
        "result", "once for each rank",
    ),
    "a share of the bias on every rank": (
        swap((f"{LEAVE} + down_bias",
              "Conjugate.apply(F.linear(hidden, down, down_bias / world_size), total, same)")),
        "gradient", "the gradient of `down_bias` is not",
    ),
    "summands not added up": (swap((LEAVE, SUMMANDS)), "result", "different results"),
    "mean instead of sum": (swap((f"{LEAVE} +", f"{LEAVE} / world_size +")), "result", "averaged"),
    "no all-reduce on the way back": (swap((ENTER, "x")), "gradient", "only what comes back through its own"),
    "an all-reduce on the way back of the sum": (
        swap((LEAVE, f"Conjugate.apply({SUMMANDS}, total, total)")), "gradient", "too large by the number of ranks",
    ),
    "a collective without a way back": (
        swap((f"{LEAVE} + down_bias", f"total(({SUMMANDS}).detach())")), "result", "is not that of",
    ),
    "cut off from autograd": (
        swap((f"{LEAVE} + down_bias", f"(total(({SUMMANDS}).detach()) + down_bias).detach()")),
        "gradient", "Nothing leads back",
    ),
    "mean on the way back": (
        swap((LEAVE, f"Conjugate.apply({SUMMANDS}, total, lambda t: t / world_size)")),
        "gradient", "added up, not averaged",
    ),
    "twice the messages": (
        swap(("    hidden = ", "    total(x.detach())\n    hidden = ")), "messages", "more is sent than needed",
    ),
    "only rank 0 adds up (deadlock)": (
        swap(("        dist.all_reduce(t := t.clone())\n", "        t = t.clone()\n        if rank == 0:\n"
              "            dist.all_reduce(t)\n")),
        "deadlock", "every rank must reach every collective",
    ),
}  # fmt: skip

TOP = "    dist.all_reduce(top, op=dist.ReduceOp.MAX)\n"
PICK = "logits.flatten(0, 1)[torch.arange(len(flat)), flat].view_as(here) * here"
RETURN = "((denominator.log() - right) * counts).sum() / counts.sum()"

LOSS: Wrong = {
    "no maximum": (swap(("    logits = logits - top[..., None]\n", "")), "result", "overflows"),
    "its own maximum": (swap((TOP, "")), "result", "its own greatest logit"),
    "its own sum of exponentials": (
        swap(("denominator, right = Conjugate.apply(sums, total, lambda gradient: gradient)",
              "denominator, right = sums[0], Conjugate.apply(sums[1], total, lambda gradient: gradient)")),
        "result", "each rank's own symbols",
    ),
    "the target's logit from every rank": (
        swap((PICK, "logits.flatten(0, 1)[torch.arange(len(flat)), "
                    "local.clamp(0, logits.size(-1) - 1).flatten()].view_as(here)")),
        "result", "do not own the target",
    ),
    "counts padding": (swap(("/ counts.sum()", "/ counts.numel()")), "result", "divide by all positions"),
    "adds up padding": (swap((" * counts).sum()", ").sum()")), "result", "They must add nothing"),
    "right only for equal pieces": (
        swap(("targets - first", "targets - rank * logits.size(-1)")), "result", "equally large",
    ),
    "gathers the logits": (
        swap(("    top = ", "    everything = [torch.empty_like(logits) for _ in range(world_size)]\n"
              "    sizes = torch.zeros(world_size, dtype=torch.int64)\n    sizes[rank] = logits.size(-1)\n"
              "    dist.all_reduce(sizes)\n    padded = F.pad(logits.detach(), (0, int(sizes.max()) - sizes[rank]))\n"
              "    everything = [torch.empty_like(padded) for _ in range(world_size)]\n"
              "    dist.all_gather(everything, padded)\n    top = ")),
        "bytes", "the logits travel",
    ),
    "an all-reduce on the way back": (
        swap(("lambda gradient: gradient", "total")), "gradient", "too large by the number of ranks",
    ),
    "the sum detached": (
        swap(("torch.stack([logits.exp().sum(-1), right])", "torch.stack([logits.detach().exp().sum(-1), right])")),
        "gradient", "has lost its way back",
    ),
    "a mask as large as the logits": (
        swap((PICK, "(logits * F.one_hot(local * here, logits.size(-1)).float()).sum(-1) * here")),
        "memory", "pick the target's logit by indexing",
    ),
    "a rank without targets leaves out a call (deadlock)": (
        swap(("Conjugate.apply(sums, total, lambda gradient: gradient)",
              "Conjugate.apply(sums, total, lambda gradient: gradient) if here.any() else sums")),
        "deadlock", "owns no target",
    ),
}  # fmt: skip

GATHER = "F.layer_norm(x, weight.shape, weight, bias), gather, scatter"
PARAMETERS = "    weight, bias = (Conjugate.apply(t, lambda t: t.view_as(t), total) for t in (weight, bias))\n"
SCATTER = ("        dist.reduce_scatter(mine := torch.empty_like(parts[0]), parts)\n"
           "        return mine[:, : sizes[rank]]\n")  # fmt: skip

NORM: Wrong = {
    "right only for equal parts": (
        swap(("F.pad(t, (0, 0, 0, sizes[0] - t.size(1))).contiguous()", "t.contiguous()")), "messages", "do not divide",
    ),
    "joined along the wrong dimension": (
        swap(("torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)",
              "torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1).flip(1)")),
        "result", "side by side",
    ),
    "joined along the batch": (
        swap(("strict=True)], dim=1)", "strict=True)], dim=0)")), "result", "dimension of positions",
    ),
    "gathered first": (
        swap((f"Conjugate.apply({GATHER})",
              "F.layer_norm(Conjugate.apply(x, gather, scatter), weight.shape, weight, bias)")),
        "memory", "normalises all positions",
    ),
    "keeps only its own use": (
        swap((GATHER, "F.layer_norm(x, weight.shape, weight, bias), gather, "
                      "lambda t: t[:, sum(sizes[:rank]) : sum(sizes[: rank + 1])]")),
        "gradient", "All ranks used them",
    ),
    "parameters not summed": (swap((PARAMETERS, "")), "gradient", "copies: let them enter"),
    "averaged": (
        swap(("        return mine[:, : sizes[rank]]", "        return mine[:, : sizes[rank]] / world_size")),
        "gradient", "not averaged",
    ),
    "an all-reduce, then cut": (
        swap((SCATTER, "        start = sum(sizes[:rank])\n"
                       "        return total(t)[:, start : start + sizes[rank]]\n")),
        "messages", "A reduce-scatter gives each rank its own",
    ),
    "no way back": (
        swap((f"Conjugate.apply({GATHER})", "gather(F.layer_norm(x, weight.shape, weight, bias).detach())")),
        "gradient", "Nothing leads back",
    ),
    "biased twice": (
        swap((f"return Conjugate.apply({GATHER})", f"return Conjugate.apply({GATHER}) + bias")), "result",
        "is not the layer norm",
    ),
    "a rank without positions leaves (deadlock)": (
        swap((PARAMETERS, "    if not x.numel():\n        return x.new_zeros(2, positions, 8).requires_grad_()\n"
              + PARAMETERS)),
        "deadlock", "without positions",
    ),
}  # fmt: skip

DEAL = "torch.arange(heads).tensor_split(world_size)[rank].tolist()"

ATTENTION: Wrong = {
    "contributions not added up": (swap(("    dist.all_reduce(y)\n", "")), "result", "contribution of its own heads"),
    "the rest of the division is lost": (
        swap((DEAL, "range(rank * (heads // world_size), (rank + 1) * (heads // world_size))")), "result",
        "belong to nobody",
    ),
    "shared heads dealt in turn": (
        swap(("head // (heads // kv_heads)", "head % kv_heads")), "result", "wrong key-value heads",
    ),
    "not causal": (swap(("is_causal=True", "is_causal=False")), "result", "comes after"),
    "scaled by the whole width": (
        swap(("is_causal=True", "is_causal=True, scale=x.size(-1) ** -0.5")), "result", "scaled by another width",
    ),
    "all heads on every rank": (
        swap((DEAL, "range(heads)"), ("    return y", "    return y / world_size")), "work", "more heads than",
    ),
    "heads cut by features": (
        swap(("width = len(query) // heads", "width = len(query) // heads - 1")), "result", "attention of the whole",
    ),
    "the sum sent twice": (
        swap(("    dist.all_reduce(y)\n", "    dist.all_reduce(y.clone())\n    dist.all_reduce(y)\n")), "messages",
        "one all-reduce of the result is enough",
    ),
    "a rank without heads leaves out the call (deadlock)": (
        swap(("    dist.all_reduce(y)\n", "    if len(torch.arange(heads).tensor_split(world_size)[rank]):\n"
              "        dist.all_reduce(y)\n")),
        "deadlock", "fewer heads, or none",
    ),
}  # fmt: skip

ANSWERS = {"cut_perceptron": PERCEPTRON, "cut_loss": LOSS, "sequence_norm": NORM, "attend_by_heads": ATTENTION}
WRONG = [(name, *answer) for name, answers in ANSWERS.items() for answer in answers.values()]
TITLES = [f"{name}: {mistake}" for name, answers in ANSWERS.items() for mistake in answers]


@pytest.mark.parametrize(("name", "wrong", "what", "hint"), WRONG, ids=TITLES)
def test_a_wrong_answer_gets_its_own_hint(name, wrong, what, hint):
    SIDES.wrong_is_not_yet(name, wrong, what, hint)


@pytest.mark.parametrize("name", EXERCISES)
def test_there_are_enough_wrong_answers(name):
    SIDES.enough_wrong_answers(name, [hint for _, _, hint in ANSWERS[name].values()])
