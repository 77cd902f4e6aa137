"""Trials of a reducer, on the first n ranks: what gradients it leaves, what it sends, and how early.

Three kinds of trial: "overlap" (a function that hangs hooks on a small network of two branches and returns `finish`),
"sums" (a function that adds up the gradients of a GPT), "accumulate" (a function that accumulates with DDP). The same
networks and data stand in the kernel, which computes what one worker finds.
"""
from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.check import gradients
from utils.check.gradients import FROZEN, Case

if TYPE_CHECKING:
    from torch import Tensor

BUCKETS = (("right.bias", "right.weight"), ("left.bias", "left.weight", "middle.weight"), ("read.bias", "read.weight"))
CAP_MIB = 0.004  # of DDP's buckets: the little GPT has several


@dataclass(frozen=True)
class Trial:
    """One trial on the first `n` ranks.

    swapped: ranks that compute the two branches in the other order. whole: one bucket for all. backwards: the
    bucket that is full last comes first. micro: micro-batches by rank. idle: ranks without sequences.
    """

    kind: str
    title: str
    n: int
    steps: int = 1
    swapped: tuple[int, ...] = ()
    whole: bool = False
    backwards: bool = False
    tied: bool = True
    frozen: bool = False
    idle: tuple[int, ...] = ()
    micro: tuple[int, ...] = ()

    def buckets(self) -> list[list[str]]:
        """Give the names in each bucket, in the order in which buckets are to be sent."""
        if self.whole:
            return [[name for bucket in BUCKETS for name in bucket]]
        return [[*bucket] for bucket in (BUCKETS[::-1] if self.backwards else BUCKETS)]

    def case(self) -> Case:
        """Give the data of a trial of accumulation."""
        return Case("accumulate", self.title, self.n, tuple((1,) * count for count in self.micro))


@dataclass
class Sent:
    """One message: bytes, the phase in which it began, and how many gradients were ready then."""

    op: str
    payload: int
    phase: str
    ready: int


@dataclass
class Trace:
    """What one rank brings back."""

    calls: list[Sent] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)  # by step, one long vector
    named: dict[str, Any] = field(default_factory=dict)  # gradients by name, None where there is none
    waits_in_backward: int = 0
    unwaited: int = 0  # messages that were begun and never waited for
    problem: str = ""
    through_ddp: bool = False  # a forward pass of DDP itself was made
    quiet: bool = False  # no_sync() was used
    buckets: int = 0  # of DDP
    alive: int = 0


# ---------------------------------------------------------------------------------------------------------------------
# Networks and data, the same on the ranks and in the kernel


def branches(swapped: bool = False) -> Any:
    """Build the network of two branches; one weight is used twice, one parameter is frozen."""
    import torch
    from torch import nn

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.middle = nn.Linear(6, 8), nn.Linear(8, 5, bias=False)
            self.left, self.right = nn.Linear(5, 8), nn.Linear(8, 8)
            self.scale = nn.Parameter(torch.ones(8), requires_grad=False)
            generator = torch.Generator().manual_seed(1)
            for parameter in self.parameters():
                if parameter.requires_grad:
                    nn.init.normal_(parameter, std=0.5, generator=generator)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.read(x)) * self.scale
            if swapped:
                b, a = self.right(x), self.left(torch.tanh(self.middle(x)))
            else:
                a, b = self.left(torch.tanh(self.middle(x))), self.right(x)
            return torch.tanh(a + b) @ self.read.weight

    return Branches()


def samples(rank: int, step: int) -> Tensor:
    """Draw the samples of a rank in a step, [4, 6]."""
    import torch

    return torch.randn(4, 6, generator=torch.Generator().manual_seed(100 + 10 * step + rank))


def _gpt(trial: Trial) -> Any:
    from utils import model

    network = model.GPT(model.replace(gradients.config(), tied=trial.tied), seed=3)
    if trial.frozen:
        network.get_parameter(FROZEN).requires_grad_(False)
    return network


def _share(trial: Trial, rank: int) -> Callable[[Any], Any]:
    """Give a function from a network to this rank's loss: its sum, divided by the tokens of all ranks."""
    from utils import model

    sizes = [0 if r in trial.idle else 2 for r in range(trial.n)]
    tokens, targets = (x.split(sizes) for x in model.batch(0, sum(sizes), gradients.config().context))
    count = sum(map(int, (t.numel() for t in targets)))
    return lambda network: model.loss(network(tokens[rank]), targets[rank], reduction="sum") / count


# ---------------------------------------------------------------------------------------------------------------------
# In the kernel: what is right


def own(trial: Trial, rank: int) -> list[Tensor]:
    """Compute a rank's own gradients of the network of branches, by step."""
    return _own_branches(rank, trial.steps, rank in trial.swapped)


@functools.cache
def _own_branches(rank: int, steps: int, swapped: bool) -> list[Tensor]:
    found = []
    for step in range(steps):
        network = branches(swapped)
        network(samples(rank, step)).square().mean().backward()
        found.append(_long(network))
    return found


def _long(network: Any) -> Tensor:
    return gradients.vector({n: p.grad for n, p in network.named_parameters() if p.requires_grad})


def averages(trial: Trial) -> list[Tensor]:
    """Compute the averages over the ranks, by step."""
    by_rank = [own(trial, rank) for rank in range(trial.n)]
    return [sum(tensors[1:], start=tensors[0]) / trial.n for tensors in zip(*by_rank, strict=True)]


def gradient_bytes(trial: Trial) -> int:
    """Return the bytes of all gradients of the network of branches."""
    return sum(p.nbytes for p in branches().parameters() if p.requires_grad)


def own_named(trial: Trial, rank: int) -> dict[str, Tensor]:
    """Compute a rank's own gradients of the GPT by name; zeros where it has no sequences."""
    import torch

    network = _gpt(trial)
    if rank not in trial.idle:
        _share(trial, rank)(network).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in network.named_parameters()
            if p.requires_grad}  # fmt: skip


def sums(trial: Trial) -> dict[str, Tensor]:
    """Compute the sums of all ranks' gradients by name."""
    by_rank = [own_named(trial, rank) for rank in range(trial.n)]
    return {name: sum((one[name] for one in by_rank[1:]), start=by_rank[0][name]) for name in by_rank[0]}


# ---------------------------------------------------------------------------------------------------------------------
# On every rank


def run_trial(name: str, trial: Trial) -> Trace | None:
    """Run the learner's function called `name` once on this rank; None on ranks that take no part."""
    from utils.ranks import engine

    namespace = engine.namespace()
    with gradients.world_of(trial.n, namespace) as member:
        if not member:
            return None
        run = {"overlap": _overlap, "sums": _sums, "accumulate": _accumulate}[trial.kind]
        return run(namespace[name], trial)


class _Watch:
    """Write down, in `trace`, each message with its phase, and which were waited for."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.phase, self.ready = trace, "", 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        from torch._C._distributed_c10d import Work

        from utils.ranks import calls, engine

        kept, awaited = Work.wait, set()
        before = set(calls.book().pending)

        def wait(work: Any, *args: Any, **kwargs: Any) -> Any:
            self.trace.waits_in_backward += self.phase == "backward"
            return kept(work, *args, **kwargs)

        future = Work.get_future

        def get_future(work: Any) -> Any:
            awaited.add(id(work))
            return future(work)

        def note(call: Any) -> None:
            self.trace.calls.append(Sent(call.op, call.payload, self.phase, self.ready))

        stop = engine.on_call(note)
        Work.wait, Work.get_future = wait, get_future  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            stop()
            Work.wait, Work.get_future = kept, future  # type: ignore[method-assign]
            left = {key: work for key, (_, work) in calls.book().pending.items() if key not in before}
            self.trace.unwaited = len(set(left) - awaited)
            for work in left.values():
                kept(work)


def _overlap(function: Any, trial: Trial) -> Trace:
    import torch.distributed as dist

    trace, rank = Trace(), dist.get_rank()
    watch, network = _Watch(trace), branches(rank in trial.swapped)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _: setattr(watch, "ready", watch.ready + 1))
    named = dict(network.named_parameters())
    with watch():
        finish = function(network, [[named[name] for name in bucket] for bucket in trial.buckets()])
        if not callable(finish):
            trace.problem = "Return a function without arguments: it is called after every `backward()`."
            return trace
        for step in range(trial.steps):
            network.zero_grad()
            loss = network(samples(rank, step)).square().mean()
            watch.phase, watch.ready = "backward", 0
            loss.backward()
            watch.phase = "finish"
            finish()
            trace.gradients.append(_long(network))
    return trace


def _sums(function: Any, trial: Trial) -> Trace:
    import torch.distributed as dist

    trace, rank = Trace(), dist.get_rank()
    network = _gpt(trial)
    if rank not in trial.idle:
        _share(trial, rank)(network).backward()
    with _Watch(trace)():
        function(network)
    trace.named = {n: None if p.grad is None else p.grad.clone() for n, p in network.named_parameters()}
    return trace


def _accumulate(function: Any, trial: Trial) -> Trace:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from utils import model

    trace, rank, case = Trace(), dist.get_rank(), trial.case()
    network = case.network()
    ddp = DistributedDataParallel(network, bucket_cap_mb=CAP_MIB)
    pieces: Sequence[Any] = case.pieces()[rank]
    for _ in range(3):  # DDP settles its buckets in the first two
        settling = Trace()
        with _Watch(settling)():
            model.loss(ddp(pieces[0][0]), pieces[0][1]).backward()
    trace.buckets = sum(call.op == "all_reduce" for call in settling.calls)
    network.zero_grad()
    seen, quiet = gradients.Seen(), ddp.no_sync

    def no_sync() -> Any:
        trace.quiet = True
        return quiet()

    ddp.no_sync = no_sync  # type: ignore[method-assign]
    ddp.register_forward_pre_hook(lambda *_: setattr(trace, "through_ddp", True))
    gradients._watch_graphs(network, seen)
    with _Watch(trace)():
        function(ddp, pieces, sum(trial.micro))
    trace.calls = [call for call in trace.calls if call.op == "all_reduce"]
    trace.alive, trace.unwaited = seen.alive, 0
    trace.named = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in network.named_parameters()}
    return trace
