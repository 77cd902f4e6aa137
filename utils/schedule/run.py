"""Do a schedule's work on the ranks, with real messages.

Every rank calls `run` with the same schedule and batch, and with the stages it holds. It goes through its list of
actions; what an action needs from another rank is received, and what another rank needs is sent. Sends are `isend` and
never waited for before the end, and each receive is posted one action ahead: a `send` of gloo ends only when it is
received, so two ranks that send to each other first would wait for ever.

torch is imported where it is used, so that a schedule can be built and simulated without it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.schedule.actions import BACKWARD, FORWARD, INPUT, WEIGHT, Action, Schedule, ScheduleError
from utils.schedule.check import check

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from utils.model import Part

Loss = Callable[..., "Tensor"]


class Record(NamedTuple):
    """One action as it was done: start and end on the machine's clock, and the processor's time; all in seconds."""

    action: Action
    start: float
    end: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """What one rank did in a step. `loss` is the batch's, on the rank that holds the last stage; None elsewhere."""

    schedule: Schedule
    loss: float | None
    records: list[Record] = field(repr=False)


def run(
    schedule: Schedule,
    parts: Part | Sequence[Part] | Mapping[int, Part],
    batch: tuple[Tensor, Tensor],
    loss: Loss | None = None,
    group: ProcessGroup | None = None,
) -> Run:
    """Run one training step of a schedule on this rank; every rank of the group calls it with the same arguments.

    parts: the stages that this rank holds: by stage, or in the order of their stages, or the one there is.
    batch: the whole batch on every rank, tokens and targets, int64 [sequences, positions]; micro-batches are cut from
    it as `tensor_split` does. loss: mean over the targets of a micro-batch (`model.loss` if not given); each is weighed
    by its share of all targets (those of -100 do not count), so that the sum is the mean over the batch.

    Gradients are added to `.grad` of the parameters, as `backward` does; those of a tied weight that stands in the
    first and in the last stage are added up across them. Raises ScheduleError, before anything is sent, for a schedule
    that cannot run and for parts or a batch that do not fit it.
    """
    import torch.distributed as dist

    check(schedule)
    if not dist.is_initialized():
        raise ScheduleError("schedule.run works on ranks: call it in a %%ranks cell, after ranks.start(...).")
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    if size != len(schedule.ranks):
        raise ScheduleError(f"{schedule.name} is a schedule for {len(schedule.ranks)} ranks; there are {size}.")
    held = _by_stage(schedule, rank, parts)
    tokens, targets = batch
    if len(tokens) < schedule.micro_batches or tokens.shape != targets.shape:
        shapes = f"tokens {list(tokens.shape)} and targets {list(targets.shape)}"
        raise ScheduleError(f"{shapes} cannot be cut into {schedule.micro_batches} micro-batches: each needs a "
                            "sequence, and each token a target.")  # fmt: skip
    return _Rank(schedule, rank, held, tokens, targets, loss, group).run()


def _by_stage(schedule: Schedule, rank: int, parts: Any) -> dict[int, Part]:
    """Give the parts by stage. Raises ScheduleError unless they are those that the schedule places on this rank."""
    mine = [stage for stage, home in enumerate(schedule.placement) if home == rank]
    if isinstance(parts, Mapping):
        found = dict(parts)
    else:
        given = list(parts) if isinstance(parts, list | tuple) else [parts]
        if len(given) != len(mine):
            raise ScheduleError(f"rank {rank} holds stages {mine} of {schedule.name}, but got {len(given)} parts.")
        found = dict(zip(mine, given, strict=True))
    if sorted(found) != mine:
        raise ScheduleError(f"rank {rank} holds stages {mine} of {schedule.name}, not {sorted(found)}.")
    for stage, part in found.items():
        for end, place in (("first", 0), ("last", schedule.stages - 1)):
            if getattr(part, end) != (stage == place):
                no = "" if getattr(part, end) else "not "
                raise ScheduleError(f"stage {stage} of {schedule.stages} was given a part that is {no}the {end}.")
    return found


@dataclass
class _Kept:
    """What a stage keeps of one micro-batch from its forward on: its input, its output, and its modules' outputs."""

    x: Tensor
    y: Tensor
    calls: list[tuple[Tensor, list[Tensor]]] = field(default_factory=list)  # output of a module, its own parameters
    gradients: list[Tensor | None] = field(default_factory=list)  # of these outputs, once the inputs' backward was done


class _Rank:
    """One rank's step."""

    def __init__(
        self, schedule: Schedule, rank: int, parts: dict[int, Part], tokens: Tensor, targets: Tensor,
        loss: Loss | None, group: ProcessGroup | None,
    ) -> None:  # fmt: skip
        from utils import model

        self.schedule, self.rank, self.parts, self.group = schedule, rank, parts, group
        self.tokens = tokens.tensor_split(schedule.micro_batches)
        self.targets = targets.tensor_split(schedule.micro_batches)
        counts = [int((t != -100).sum()) for t in self.targets]
        self.shares = [count / max(1, sum(counts)) for count in counts]
        self.loss_of, self.loss = loss or model.loss, 0.0
        self.kept: dict[tuple[int, int], _Kept] = {}  # by stage and micro-batch
        self.here: dict[Action, Tensor] = {}  # what an action of this rank made for another stage of this rank
        self.coming: dict[Action, tuple[Any, Tensor]] = {}  # receives that are posted
        self.going: list[tuple[Any, Tensor]] = []  # sends, and the tensors they read
        self.consumers = {need: to for need, _, to in schedule.messages()}
        self.split = {a.stage for a in schedule.ranks[rank] if a.kind == INPUT}

    def run(self) -> Run:
        row, records = self.schedule.ranks[self.rank], []
        for position, action in enumerate(row):
            for ahead in row[position : position + 2]:
                self.post(ahead)
            arrived = self.arrived(action)
            start, busy = time.perf_counter(), time.thread_time()
            made = self.do(action, arrived)
            records.append(Record(action, start, time.perf_counter(), time.thread_time() - busy))
            if made is not None:
                self.pass_on(action, made)
        self.meet_tied()
        for work, _ in self.going:
            work.wait()
        last = self.schedule.placement[-1] == self.rank
        return Run(self.schedule, self.loss if last else None, records)

    # -- messages -----------------------------------------------------------------------------------------------------

    def source(self, action: Action) -> Action | None:
        """Name the action on another stage whose result this one works on."""
        return next((need for need in self.schedule.needs(action) if need.stage != action.stage), None)

    def tag(self, need: Action) -> int:
        """Number a message, so that those of several stages and micro-batches cannot be taken for each other."""
        place = need.stage * self.schedule.micro_batches + need.micro_batch
        return 2 * place + (need.kind != FORWARD)

    def post(self, action: Action) -> None:
        """Begin to receive what an action needs from another rank."""
        import torch
        import torch.distributed as dist

        need = self.source(action)
        if need is None or need in self.coming or self.schedule.placement[need.stage] == self.rank:
            return
        sequences, positions = self.tokens[action.micro_batch].shape
        width = self.parts[action.stage].config.width
        buffer = torch.empty(sequences, positions, width)  # [sequences, positions, width], both ways
        source = self.schedule.placement[need.stage]
        self.coming[need] = dist.irecv(buffer, group=self.group, group_src=source, tag=self.tag(need)), buffer

    def arrived(self, action: Action) -> Tensor | None:
        """Wait for what an action needs of another stage and give it; None if it needs nothing."""
        need = self.source(action)
        if need is None:
            return None
        if self.schedule.placement[need.stage] == self.rank:
            return self.here.pop(need)
        work, buffer = self.coming.pop(need)
        work.wait()
        return buffer

    def pass_on(self, action: Action, made: Tensor) -> None:
        """Send what an action made to the rank that needs it, or keep it for another stage of this rank."""
        import torch.distributed as dist

        if (to := self.consumers.get(action)) is None:
            self.here[action] = made
        else:
            made = made.contiguous()
            self.going.append((dist.isend(made, group=self.group, group_dst=to, tag=self.tag(action)), made))

    # -- work ---------------------------------------------------------------------------------------------------------

    def do(self, action: Action, arrived: Tensor | None) -> Tensor | None:
        """Do one action; give what the stage before or after it needs, if there is one."""
        stage, kind, micro_batch = action
        key = stage, micro_batch
        if kind == FORWARD:
            x = self.tokens[micro_batch] if arrived is None else arrived.requires_grad_()
            kept = self.kept[key] = self.forward(stage, micro_batch, x)
            return None if stage == self.schedule.stages - 1 else kept.y.detach()
        kept = self.kept[key] if kind == INPUT else self.kept.pop(key)
        if kind == WEIGHT:
            _weights_backward(kept)
            return None
        if kind == BACKWARD:
            if kept.y.requires_grad:
                kept.y.backward(arrived)
            gradient = kept.x.grad
        else:
            gradient = _inputs_backward(kept, arrived, list(self.parts[stage].parameters()))
        return gradient if stage else None

    def forward(self, stage: int, micro_batch: int, x: Tensor) -> _Kept:
        part = self.parts[stage]
        if stage in self.split:
            calls, y = _watched(part, x)
        else:
            calls, y = [], part(x)
        if stage == self.schedule.stages - 1:
            y = self.loss_of(y, self.targets[micro_batch]) * self.shares[micro_batch]
            self.loss += y.item()
        return _Kept(x, y, calls)

    def meet_tied(self) -> None:
        """Add up the two gradients of a weight that the first stage reads with and the last one writes with."""
        import torch
        import torch.distributed as dist

        first, last = self.schedule.placement[0], self.schedule.placement[-1]
        ends = [s for s in {0, self.schedule.stages - 1} if s in self.parts and self.parts[s].config.tied]
        if self.schedule.stages == 1 or not ends:
            return
        weights = [self.parts[s].token.weight if s == 0 else self.parts[s].output.weight for s in sorted(ends)]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if not gradients:  # it is frozen
            return
        mine = gradients[0]
        if first == last:
            mine += gradients[1]
            gradients[1].copy_(mine)
            return
        theirs, other = torch.empty_like(mine), last if self.rank == first else first
        tag = 2 * self.schedule.stages * self.schedule.micro_batches
        coming: Any = dist.irecv(theirs, group=self.group, group_src=other, tag=tag)
        leaving = mine.clone()
        self.going.append((dist.isend(leaving, group=self.group, group_dst=other, tag=tag), leaving))
        coming.wait()
        mine += theirs


# ---------------------------------------------------------------------------------------------------------------------
# A backward in two: first what the stage before waits for, later what only the optimizer needs.


def _watched(part: torch.nn.Module, x: Tensor) -> tuple[list[tuple[Tensor, list[Tensor]]], Tensor]:
    """Run a part and note, for every module with parameters of its own, what it gave and which these are.

    Left out are parameters that several modules share, or whose module is called twice or not at all: they are reached
    by more than one way, so their gradient is taken with that of the inputs.
    """
    calls: list[tuple[Tensor, list[Tensor]]] = []
    owners = Counter(id(p) for m in part.modules() for p in m.parameters(recurse=False))
    hooks = []

    def note(module: torch.nn.Module, _: Any, output: Tensor) -> None:
        own: list[Tensor] = [p for p in module.parameters(recurse=False) if p.requires_grad and owners[id(p)] == 1]
        if own:
            calls.append((output, own))

    for module in part.modules():
        if next(module.parameters(recurse=False), None) is not None:
            hooks.append(module.register_forward_hook(note))
    try:
        y = part(x)
    finally:
        for hook in hooks:
            hook.remove()
    times = Counter(id(p) for _, own in calls for p in own)
    return [(output, own) for output, own in calls if times[id(own[0])] == 1], y


def _inputs_backward(kept: _Kept, gradient: Tensor | None, parameters: Iterable[Tensor]) -> Tensor | None:
    """Take the gradient back through the stage to its input, and keep those of its modules' outputs for later.

    autograd computes what is asked for and no more: no gradient of a weight that `_watched` has noted is among it.
    """
    import torch

    later = {id(p) for _, own in kept.calls for p in own}
    now = [p for p in parameters if p.requires_grad and id(p) not in later]
    outputs = [output for output, _ in kept.calls]
    inputs = [kept.x] if kept.x.requires_grad else []
    wanted = [*inputs, *outputs, *now]
    if not wanted or not kept.y.requires_grad:
        return None
    found = torch.autograd.grad(kept.y, wanted, gradient, retain_graph=bool(outputs), allow_unused=True)
    kept.gradients = list(found[len(inputs) : len(inputs) + len(outputs)])
    for parameter, g in zip(now, found[len(inputs) + len(outputs) :], strict=True):
        _add(parameter, g)
    return found[0] if inputs else None


def _weights_backward(kept: _Kept) -> None:
    """Take the gradients of the weights, each module's from its own output alone."""
    import torch

    for (output, own), gradient in zip(kept.calls, kept.gradients, strict=False):
        if gradient is not None:
            for parameter, g in zip(own, torch.autograd.grad(output, own, gradient, allow_unused=True), strict=True):
                _add(parameter, g)


def _add(parameter: Tensor, gradient: Tensor | None) -> None:
    """Add to a parameter's gradient, as `backward` does."""
    if gradient is not None:
        parameter.grad = gradient.detach().clone() if parameter.grad is None else parameter.grad + gradient
