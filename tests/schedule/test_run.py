"""Every schedule, run on the ranks with real messages, is the training of one worker."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from utils import check, ledger, model, ranks, schedule
from utils.schedule import ScheduleError
from utils.schedule.run import _inputs_backward, _Kept, _watched, _weights_backward

CONFIG = model.Config(layers=8, width=16, heads=2, context=8)
TRAINER = '''
from utils import model, schedule

def cut(s, config, seed):
    """Build the stages that this rank holds."""
    at = [config.layers * k // s.stages for k in range(s.stages + 1)]
    return {k: model.Part(config, range(at[k], at[k + 1]), k == 0, k == s.stages - 1, seed)
            for k in range(s.stages) if s.placement[k] == rank}

class Trainer:
    def __init__(self, config, seed, optimizer):
        seed = torch.tensor(seed)
        dist.broadcast(seed, 0)
        self.config, self.parts = config, cut(SCHEDULE, config, seed.item())
        self.optimizer = model.optimizer(optimizer, self.parameters().values())

    def step(self, tokens, targets):
        self.optimizer.zero_grad()
        self.done = schedule.run(SCHEDULE, self.parts, (tokens, targets))
        self.before = {n: p.grad.clone() for n, p in self.parameters().items() if p.grad is not None}
        if self.config.clip:
            once = [g for n, g in self.before.items() if not (self.config.tied and n == "output.weight")]
            square = torch.stack([g.square().sum() for g in [torch.zeros(1), *once]]).sum()
            dist.all_reduce(square)
            torch.nn.utils.clip_grads_with_norm_(self.parameters().values(), self.config.clip, square.sqrt())
        self.optimizer.step()
        return self.done.loss

    def parameters(self):
        return {n: p for part in self.parts.values() for n, p in part.named_parameters()}

    def gradients(self):
        return self.before
'''


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    ranks.start(4, fresh=True)
    ranks.run(TRAINER)
    yield
    ranks.stop()


def set_schedule(name: str | list, stages: int | None = None, micro_batches: int = 4) -> schedule.Schedule:
    two = name in ("interleaved-1f1b", "zb-v", "dualpipe-v")
    s = schedule.build(name, stages or (8 if two else 4), micro_batches)
    ranks.scatter("SCHEDULE", [s] * 4)
    return s


@pytest.mark.parametrize("name", schedule.NAMES)
def test_it_is_the_training_of_one_worker(name: str) -> None:
    set_schedule(name, micro_batches=8 if name == "dualpipe-v" else 1 if name == "naive" else 4)
    verdict = check.same_training("Trainer", traps="all", steps=2, config=CONFIG)
    assert verdict.passed, str(verdict)


def test_a_plain_list_in_an_order_of_its_own() -> None:
    """Two stages on rank 0, rank 3 before rank 1 in the chain, micro-batches in another order on each side."""
    rows = [["0F1", "0F0", "3F1", "3F0", "3B0", "3B1", "0I0", "0B1", "0W0"], ["2F0", "2F1", "2I1", "2B0", "2W1"],
            ["4F1", "4F0", "4I0", "4B1", "4W0"], ["1F1", "1F0", "1B0", "1B1"]]  # fmt: skip
    set_schedule(rows)
    verdict = check.same_training("Trainer", traps="all", steps=2, config=CONFIG)
    assert verdict.passed, str(verdict)


def step(sequences: int = 12, config: model.Config = CONFIG) -> None:
    ranks.scatter("config", [config] * 4)
    ranks.scatter("batch", [model.batch(0, sequences, config.context)] * 4)
    ranks.run("parts = cut(SCHEDULE, config, 0); done = schedule.run(SCHEDULE, parts, batch)")


@pytest.mark.parametrize("name", ["gpipe", "interleaved-1f1b", "zb-v"])
def test_it_sends_what_the_schedule_says(name: str) -> None:
    """And the gradient of the tied weight both ways, where its ends stand on two ranks."""
    s = set_schedule(name)
    step()
    count = ledger.count("schedule.run(SCHEDULE, parts, batch)")
    tied = 0 if s.placement[-1] == 0 else 2
    assert sum(count.calls["send"]) == sum(count.calls["recv"]) == len(s.messages()) + tied
    one = 3 * CONFIG.context * CONFIG.width * 4
    assert sum(count.payload["send"]) == len(s.messages()) * one + tied * CONFIG.vocab * CONFIG.width * 4


@pytest.mark.parametrize("name", ["1f1b", "zb-v"])
def test_records_are_the_schedule_and_keep_its_dependencies(name: str) -> None:
    s = set_schedule(name)
    step()
    done = ranks.gather("done")
    assert tuple(tuple(r.action for r in one.records) for one in done) == s.ranks
    assert [one.loss is None for one in done] == [rank != s.placement[-1] for rank in range(4)]
    by_clock = schedule.recorded(s, done)
    assert min(start for start, _ in by_clock.times.values()) == 0
    for action, (start, end) in by_clock.times.items():
        assert end >= start
        assert all(start >= by_clock.times[need][1] for need in s.needs(action)), str(action)
    replayed = schedule.replay(s, done)
    assert replayed.work == pytest.approx([sum(r.seconds for r in one.records) for one in done])
    assert replayed.total <= sum(r.seconds for one in done for r in one.records) + 1e-9
    assert schedule.replay(s, done, transfer=1.0).total >= replayed.total + 2 * 3
    with pytest.raises(ScheduleError, match="not the runs of"):
        schedule.replay(s, done[:3])


def test_two_pipelines_in_groups_of_their_own() -> None:
    ranks.scatter("SCHEDULE", [schedule.build("zb-h1", 2, 3)] * 4)
    ranks.scatter("batch", [model.batch(pair, 6, CONFIG.context) for pair in (0, 0, 1, 1)])
    ranks.scatter("config", [CONFIG] * 4)
    ranks.run("""
        pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        at = rank % 2
        part = model.Part(config, range(4 * at, 4 * at + 4), at == 0, at == 1, seed=0)
        done = schedule.run(SCHEDULE, part, batch, group=pairs[rank // 2])
    """)
    losses = ranks.gather("done.loss")
    whole = model.GPT(CONFIG, seed=0)
    for pair in (0, 1):
        tokens, targets = model.batch(pair, 6, CONFIG.context)
        assert losses[2 * pair + 1] == pytest.approx(model.loss(whole(tokens), targets).item(), rel=1e-5)


# -- the backward in two ----------------------------------------------------------------------------------------------

PARTS = {
    "first": lambda: model.Part(CONFIG, range(2), first=True, seed=0),
    "middle": lambda: model.Part(CONFIG, range(2, 4), seed=0),
    "last": lambda: model.Part(CONFIG, range(6, 8), last=True, seed=0),
    "whole, tied": lambda: model.GPT(CONFIG, seed=0),
    "frozen": lambda: model.Part(model.replace(CONFIG, frozen=("blocks.2.mlp.up.weight",)), range(2, 4), seed=0),
    "no block": lambda: model.Part(CONFIG, [], seed=0),
}


def forward(part: model.Part) -> tuple[_Kept, torch.Tensor]:
    tokens, _ = model.batch(0, 3, CONFIG.context)
    torch.manual_seed(0)
    x = tokens if part.first else torch.randn(3, CONFIG.context, CONFIG.width, requires_grad=True)
    calls, y = _watched(part, x)
    return _Kept(x, y, calls), torch.randn_like(y)


@pytest.mark.parametrize("kind", PARTS)
def test_backward_in_two_is_the_backward(kind: str) -> None:
    """The same gradients, and no more work: the multiplications of both halves are those of the whole."""
    part = PARTS[kind]()
    kept, gradient = forward(part)
    whole = FlopCounterMode(display=False)
    with whole:
        kept.y.backward(gradient, retain_graph=True)
    right = {n: p.grad for n, p in part.named_parameters() if p.grad is not None}
    right_x = kept.x.grad
    part.zero_grad()

    kept, gradient = forward(part)
    halves = [FlopCounterMode(display=False), FlopCounterMode(display=False)]
    with halves[0]:
        found = _inputs_backward(kept, gradient, list(part.parameters()))
    early = {n for n, p in part.named_parameters() if p.grad is not None}
    assert early == {"first": {"position.weight"}, "whole, tied": {"position.weight", "token.weight"}}.get(kind, set())
    with halves[1]:
        _weights_backward(kept)
    assert {n for n, p in part.named_parameters() if p.grad is not None} == set(right)
    for name, p in part.named_parameters():
        if name in right:
            assert torch.allclose(p.grad, right[name], rtol=1e-5, atol=1e-6), name
    assert (found is None) == (right_x is None)
    if found is not None:
        assert torch.allclose(found, right_x, rtol=1e-5, atol=1e-6)
    assert sum(half.get_total_flops() for half in halves) == whole.get_total_flops()
    if kind in ("middle", "last"):
        share = halves[1].get_total_flops() / whole.get_total_flops()
        assert share == 0.5, "of each multiplication's backward one half is for the input, and one for the weight"


def test_a_module_that_is_called_twice_gets_its_gradient_with_the_inputs() -> None:
    """Its second output depends on its weights by way of the first one, too."""

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.once, self.twice = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.twice(self.once(self.twice(x)))

    torch.manual_seed(0)
    part, x = Twice(), torch.randn(2, 4, requires_grad=True)
    part(x).sum().backward()
    right = {n: p.grad.clone() for n, p in part.named_parameters()}
    part.zero_grad()
    calls, y = _watched(part, x)
    kept = _Kept(x, y, calls)
    _inputs_backward(kept, torch.ones_like(y), list(part.parameters()))
    assert part.once.weight.grad is None
    _weights_backward(kept)
    assert all(torch.allclose(p.grad, right[n]) for n, p in part.named_parameters())


# -- PyTorch's own ----------------------------------------------------------------------------------------------------

PYTORCH = """
from torch.distributed.pipelining import PipelineStage, schedules

def by_pytorch(kind, s, tokens, targets):
    torch.manual_seed(0)
    parts = cut(s, config, 0)
    stages = [PipelineStage(part, k, s.stages, device) for k, part in sorted(parts.items())]
    several = issubclass(getattr(schedules, kind), schedules.PipelineScheduleMulti)
    theirs = getattr(schedules, kind)(stages if several else stages[0], s.micro_batches, loss_fn=model.loss)
    losses = []
    theirs.step(*([tokens] if 0 in parts else []),
                **({"target": targets, "losses": losses} if s.stages - 1 in parts else {}))
    return {n: p.grad for part in parts.values() for n, p in part.named_parameters()}
"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gpipe", "ScheduleGPipe"), ("1f1b", "Schedule1F1B"), ("interleaved-1f1b", "ScheduleInterleaved1F1B"),
     ("zb-h1", "ScheduleInterleavedZeroBubble"), ("zb-v", "ScheduleZBVZeroBubble"),
     ("dualpipe-v", "ScheduleDualPipeV")],
)  # fmt: skip
def test_pytorch_gives_the_same_gradients(name: str, kind: str) -> None:
    s = set_schedule(name, micro_batches=8)
    step(sequences=16, config=model.replace(CONFIG, tied=False))  # PyTorch knows nothing of tied weights
    ranks.run(PYTORCH)
    ranks.run(f"""
        theirs = by_pytorch({kind!r}, SCHEDULE, *batch)
        ours = {{n: p.grad for part in parts.values() for n, p in part.named_parameters()}}
        off = max((ours[n] - theirs[n]).norm().item() / theirs[n].norm().item() for n in theirs)
    """)
    assert max(ranks.gather("off")) < 1e-5
    assert sum(ranks.gather("len(theirs)")) == len(list(model.GPT(model.replace(CONFIG, tied=False)).parameters()))
    assert s.ranks == tuple(tuple(r.action for r in one.records) for one in ranks.gather("done"))


# -- what cannot be run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("schedule.build('gpipe', 3, 4), {}, batch", "3 ranks; there are 4"),
        ("schedule.build([['0F0', '0B0'], ['1B0', '1F0'], ['2F0', '2B0'], ['3F0', '3B0']]), {}, batch", "waits for"),
        ("SCHEDULE, {}, batch", "rank 0 holds stages [0] of gpipe, not []"),
        ("SCHEDULE, [parts[rank]] * 2, batch", "rank 0 holds stages [0] of gpipe, but got 2 parts"),
        ("SCHEDULE, {(rank + 1) % 4: parts[rank]}, batch", "rank 0 holds stages [0] of gpipe, not [1]"),
        ("SCHEDULE, model.Part(config, [rank], last=rank == 3), batch", "stage 0 of 4 was given a part that is not"),
        ("SCHEDULE, model.Part(config, [rank], rank == 0, last=True), batch", "was given a part that is the last"),
        ("SCHEDULE, parts, [b[:3] for b in batch]", "cannot be cut into 4 micro-batches"),
        ("SCHEDULE, parts, [batch[0], batch[1][:, 1:]]", "each token a target"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call: str, words: str) -> None:
    set_schedule("gpipe")
    step()
    with pytest.raises(ranks.RanksError) as caught:
        ranks.run(f"schedule.run({call})")
    assert words in str(caught.value)


def test_without_ranks_it_says_where_it_runs() -> None:
    with pytest.raises(ScheduleError, match="ranks.start"):
        schedule.run(schedule.build("gpipe", 1, 1), model.GPT(CONFIG), model.batch(0, 2, CONFIG.context))


def test_a_schedule_needs_no_torch() -> None:
    source = "import sys; from utils import schedule; schedule.simulate(schedule.build('zb-v', 8, 8)); " \
             "assert 'torch' not in sys.modules"  # fmt: skip
    subprocess.run([sys.executable, "-c", source], check=True)
