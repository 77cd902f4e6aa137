"""same_training on real ranks: right trainers pass every trap, wrong ones are found and their cause is named."""
import pytest

from tests.check import right
from utils import check, model, ranks
from utils.check.traps import TRAPS


@pytest.fixture(scope="module", autouse=True)
def four():
    ranks.start(4)
    yield
    ranks.stop()


def change(source, *changes):
    for old, new in changes:
        assert old in source, f"nothing to change: {old}"
        source = source.replace(old, new)
    return source


SMALLER = model.Config(layers=4, width=32, context=32)


def compared(source, traps=(), optimizer=("sgd", "adamw"), steps=2, config=SMALLER):
    ranks.run(source)
    return check.same_training("Trainer", traps=traps, optimizer=optimizer, steps=steps, config=config)


@pytest.mark.parametrize("name", ["BY_HAND", "DDP", "PIPELINE", "SHARDED", "FSDP"])
def test_right_trainers_pass_all_traps(name):
    verdict = compared(getattr(right, name), traps="all", steps=3, config=None)
    assert verdict.passed, str(verdict)
    assert verdict.measured["gradient"] < 1e-4  # a tenth of the tolerance
    assert 0 < verdict.measured["parameter"] < 1e-3
    assert "3 steps under SGD and AdamW" in str(verdict)
    assert "traps: seeds, tied, frozen, uneven, clip, tokens" in str(verdict)


# For each trap a trainer that is right as long as the trap is not set: (source, what is off, cause, words of the hint)
BROADCAST = "        for p in self.model.parameters():\n            dist.broadcast(p.data, 0)\n"
REDUCE = "            if p.grad is not None:\n                dist.all_reduce(p.grad)\n"
ONLY = {
    "seeds": (change(right.BY_HAND, (BROADCAST, "")), "first parameters", "seeds", "broadcast"),
    "tied": (change(right.PIPELINE, ("        self.tie()\n", "")), "gradient", "tied", "add the two up"),
    "frozen": (
        change(right.BY_HAND, (REDUCE, "            p.grad = torch.zeros_like(p) if p.grad is None else p.grad\n"
                                       "            dist.all_reduce(p.grad)\n")),
        "parameters", "frozen", "not zeros"),
    "uneven": (
        change(right.BY_HAND, ("        total = ", "        n = len(tokens) // world_size * world_size\n"
                                                   "        tokens, targets = tokens[:n], targets[:n]\n"
                                                   "        total = ")),
        "gradient", "remainder", "torch.tensor_split"),
    "clip": (
        change(right.PIPELINE, ("        dist.all_reduce(squares)\n", "")),
        "parameters", "clip", "norm of the whole gradient"),
    "tokens": (
        change(right.BY_HAND, ('wanted, reduction="sum") / total', "wanted) * len(mine) / len(tokens)")),
        "gradient", "mean of means", "count the targets of all ranks"),
}


def test_there_is_one_for_every_trap():
    assert list(ONLY) == list(TRAPS)


@pytest.mark.parametrize("trap", TRAPS)
def test_only_its_trap_catches_it(trap):
    source, what, cause, words = ONLY[trap]
    others = [other for other in TRAPS if other != trap]
    verdict = compared(source, traps=others)
    assert verdict.passed, str(verdict)
    verdict = check.same_training("Trainer", traps=[trap], steps=2, config=SMALLER)
    assert (verdict.status, verdict.what, verdict.cause) == ("not yet", what, cause), str(verdict)
    assert words in verdict.hint
    assert f"traps: {trap}" in str(verdict)


CLIP = ("        if self.config.clip is not None:\n"
        "            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)\n")
MICRO = ('loss = model.loss(y, targets, reduction="sum") / total', "loss = model.loss(y, targets)")
WRONG = {
    "sum instead of mean": (
        change(right.BY_HAND, ('wanted, reduction="sum") / total', "wanted)")), (),
        "gradient", "sum", "4 times what it should be: that is the number of ranks"),
    "divided twice": (
        change(right.BY_HAND, ("dist.all_reduce(p.grad)", "dist.all_reduce(p.grad); p.grad /= world_size")), (),
        "gradient", "twice", "1/4 of what"),
    "no synchronisation, mean": (
        change(right.BY_HAND, (REDUCE, "            pass\n"), ('wanted, reduction="sum") / total', "wanted)")), (),
        "gradient", "unsynchronised", "their mean is right"),
    "no synchronisation, sum": (
        change(right.BY_HAND, (REDUCE, "            pass\n")), (), "gradient", "unsynchronised", "their sum is right"),
    "micro-batches not divided": (change(right.PIPELINE, MICRO), (), "gradient", "micro-batches", "3 the number of"),
    "mean of means of uneven shares": (
        change(right.BY_HAND, ('wanted, reduction="sum") / total', "wanted) / world_size")), ("uneven",),
        "gradient", "mean of means", "weigh each by its number of sequences"),
    "mean of means of unequal tokens": (
        change(right.BY_HAND, ('wanted, reduction="sum") / total', "wanted) / world_size")), ("tokens",),
        "gradient", "mean of means", "count the targets"),
    "sequences for weights": (
        change(right.BY_HAND, ('wanted, reduction="sum") / total', "wanted) * len(mine) / len(tokens)")),
        ("uneven", "tokens"), "gradient", "tokens", "by their sequences"),
    "masked positions counted": (
        change(right.BY_HAND, ("(targets != -100).sum()", "targets.numel()")), ("tokens",),
        "gradient", "masked", "with target -100 included"),
    "all ranks train on one share": (
        change(right.BY_HAND, ("[rank]", "[0]"), ("/ total", "/ (wanted != -100).sum() / world_size")), (),
        "gradient", "one share", "rank 0's share alone"),
    "tied weight twice": (
        change(right.BY_HAND, ("in self.model.parameters():\n            if p.grad",
                               "in self.model.state_dict(keep_vars=True).values():\n            if p.grad")), ("tied",),
        "gradient", "tied", "4 times what it should be"),
    "gradients not zeroed": (
        change(right.BY_HAND, ("        self.model.zero_grad()\n", "")), (), "gradient", "not zeroed", "zero_grad"),
    "one tensor not reduced": (
        change(right.BY_HAND, ("p.grad is not None:\n", "p.grad is not None and p is not self.model.norm.bias:\n")), (),
        "gradient", "disagree", "disagree with each other"),
    "wrong sign": (
        change(right.BY_HAND, ("loss.backward()", "(-loss).backward()")), (), "gradient", "sign", "wrong sign"),
    "nothing clipped": (
        change(right.BY_HAND, ("if self.config.clip is not None", "if False")), ("clip",),
        "parameters", "clip", "Nothing was clipped"),
    "each rank clips its contribution": (
        change(right.BY_HAND, (CLIP, ""), ("        loss.backward()\n", "        loss.backward()\n" + CLIP)), ("clip",),
        "gradient", "clip", "Combine the gradients first, then clip"),
    "each rank clips its mean": (
        change(right.BY_HAND, (CLIP, ""), ("        loss.backward()\n",
                                           "        (loss * world_size).backward()\n" + CLIP),
               ("dist.all_reduce(p.grad)", "dist.all_reduce(p.grad); p.grad /= world_size")), ("clip",),
        "gradient", "clip", "each rank clips the gradient of its own share"),
    "clipped gradients returned": (
        change(right.BY_HAND, ("        return self.grads", "        return {n: p.grad for n, p in "
                               "self.model.named_parameters() if p.grad is not None}")), ("clip",),
        "gradient", "clip", "copies that were taken before clipping"),
    "another learning rate": (
        change(right.BY_HAND, ("self.model.parameters())\n\n    def step",
                               "self.model.parameters(), lr=0.02)\n\n    def step")), (),
        "parameters", "step size", "moved 1/5 of"),
    "no step": (
        change(right.BY_HAND, ("self.optimizer.step()", "pass")), (), "parameters", "no step", "step missing"),
    "one rank takes no step": (
        change(right.BY_HAND, ("self.optimizer.step()", "if rank: self.optimizer.step()")), (),
        "parameters", "disagree", "does every rank take the step"),
    "a parameter the optimizer does not know": (
        change(right.BY_HAND, ("optimizer(optimizer, self.model.parameters())",
                               "optimizer(optimizer, list(self.model.parameters())[:-1])")), (),
        "parameters", "some", "are all in the optimizer"),
    "loss of the own share": (
        change(right.BY_HAND, ("        dist.all_reduce(loss)\n", "        loss = loss * world_size\n")), (),
        "loss", "own loss", "Each rank returns the loss of its own share"),
    "contribution to the loss": (
        change(right.BY_HAND, ("        dist.all_reduce(loss)\n", "")), (), "loss", "own loss", "Return their sum"),
    "loss added up twice": (
        change(right.BY_HAND, ("        return loss\n", "        return loss * world_size\n")), (),
        "loss", "loss factor", "4 times"),
    "no loss": (change(right.BY_HAND, ("        return loss\n", "")), (), "loss", "loss", "At least one"),
    "a seed of its own choice": (
        change(right.BY_HAND, ("model.GPT(config, seed)", "model.GPT(config, 5)")), (),
        "first parameters", "start", "seed that is handed in"),
    "a shard at the wrong place": (
        change(right.SHARDED, ("check.Piece(flat[a - low:b - low]", "check.Piece(flat[a - low:b - low].flip(0)")), (),
        "first parameters", "start", ""),
    "a shard is missing": (
        change(right.SHARDED, ("return self.pieces(self.grad)", "return self.pieces(self.grad) if rank != 2 else {}")),
        (), "class", "class", "a rank's shard is missing|no rank returned"),
    "a rank's rows are missing": (
        change(right.FSDP, ("return self.grads", "return self.grads if rank != 2 else {}")),
        (), "class", "class", "leave gaps"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_trainers_and_their_causes(name):
    source, traps, what, cause, words = WRONG[name]
    verdict = compared(source, traps)
    assert (verdict.status, verdict.what, verdict.cause) == ("not yet", what, cause), str(verdict)
    assert any(part in verdict.hint for part in words.split("|")), str(verdict)
    assert verdict.step is not None


FORM = {
    "no such class": ("Trainer = 3", "not attempted", "class Trainer:"),
    "no method": ("class Trainer:\n    def step(self): pass", "not yet", "has no `parameters`, `gradients`"),
    "other arguments": (change(right.BY_HAND, ("config, seed, optimizer)", "config, seed, optimizer, lr)")),
                        "not yet", "cannot be built from"),
    "a stub": (change(right.BY_HAND, ("        self.model.zero_grad()\n", "        raise NotImplementedError\n")),
               "not attempted", "NotImplementedError"),
    "raises": (change(right.BY_HAND, ("        self.model.zero_grad()\n", "        1 / 0\n")), "not yet",
               "ZeroDivisionError"),
    "a generator": (change(right.BY_HAND, ("dict(self.model.named_parameters())", "self.model.named_parameters()")),
                    "not yet", "call dict(...)"),
    "a wrapper's names": (change(right.DDP, ("dict(self.ddp.module.named", "dict(self.ddp.named")), "not yet",
                          "without `module.`"),
    "an unknown name": (change(right.BY_HAND, ("return self.grads", 'return self.grads | {"extra": torch.ones(2)}')),
                        "not yet", "no parameter `extra`"),
    "a missing name": (change(right.BY_HAND, ("return self.grads", 'return {"norm.bias": self.grads["norm.bias"]}')),
                       "not yet", "no rank returned `token.weight`"),
    "another shape": (change(right.BY_HAND, ("dict(self.model.named_parameters())",
                                             "{n: p.T for n, p in self.model.named_parameters()}")), "not yet",
                      "has shape [32, 100]; the whole has [100, 32]"),
    "a list of numbers": (change(right.BY_HAND, ("return self.grads", "return {'norm.bias': [1, 2]}")), "not yet",
                          "is of type list"),
    "a loss that is none": (change(right.BY_HAND, ("        return loss\n", "        return self.model\n")), "not yet",
                            "return the loss, a number"),
    "a partial DTensor": (
        change(right.FSDP, ("return self.grads", "from torch.distributed.tensor import Partial\n        "
                            "mesh = next(iter(self.grads.values())).device_mesh\n        return {n: DTensor.from_local("
                            "torch.ones(100, 32), mesh, [Partial()]) for n in list(self.grads)[:1]}")),
        "not yet", "still to be added up"),
}


@pytest.mark.parametrize("name", FORM)
def test_what_cannot_be_compared_is_explained(name):
    source, status, words = FORM[name]
    verdict = compared(source, steps=1, optimizer="sgd")
    assert verdict.status == status, str(verdict)
    assert words in str(verdict)


def test_a_deadlock_is_explained_and_the_next_check_works():
    one_waits = change(right.BY_HAND, ("        loss.backward()\n",
                                       "        loss.backward()\n        if rank == 1: dist.barrier()\n"))
    verdict = compared(one_waits)
    assert verdict.status == "not yet"
    assert verdict.what in ("deadlock", "messages"), str(verdict)
    assert "rank 1" in verdict.hint
    assert verdict.step == 1
    assert compared(right.BY_HAND, steps=1).passed


def test_a_difference_is_placed():
    late = change(right.BY_HAND, ("        self.optimizer.step()\n",
                                  "        self.optimizer.step()\n        self.n = getattr(self, 'n', 0) + 1\n"
                                  "        if rank == 2 and self.n == 3:\n"
                                  "            self.model.norm.bias.data[7] += 0.01\n"))
    verdict = compared(late, steps=4, optimizer="adamw")
    assert (verdict.step, verdict.rank, verdict.tensor) == (3, 2, "norm.bias")
    assert verdict.optimizer == "adamw"
    assert "at step 3: `norm.bias` on rank 2" in str(verdict)


def test_adamw_hides_a_factor_from_the_parameters_and_not_from_the_check():
    source = WRONG["sum instead of mean"][0]
    verdict = compared(source, optimizer="adamw", steps=1)
    assert verdict.cause == "sum"
    assert verdict.measured["gradient"] > 2.9
    assert verdict.measured["parameter"] < 0.01
    assert check.same_training("Trainer", optimizer="sgd", steps=1).measured["parameter"] > 2.9


def test_another_number_of_ranks():
    ranks.start(3)
    verdict = compared(right.PIPELINE, traps="all")
    assert verdict.passed, str(verdict)
    ranks.start(4)


def test_usage():
    with pytest.raises(ValueError, match="no trap 'seed'; there are seeds"):
        check.same_training("Trainer", traps=["seed"])
    with pytest.raises(ValueError, match="no optimizer 'adam'"):
        check.same_training("Trainer", optimizer="adam")
    assert "hand over its name" in str(check.same_training(int))
    ranks.stop()
    verdict = check.same_training("Trainer")
    assert verdict.status == "not attempted"
    assert "ranks.start" in str(verdict)
    ranks.start(4)
