"""The layout: how many ways the work is split in each direction, and what every direction demands."""

from __future__ import annotations

from dataclasses import dataclass, replace

from utils.plan.cluster import Cluster
from utils.plan.model import Model
from utils.plan.refuse import PlanError, divides, divisors, nearest, one_of, whole

SCHEDULES = ("1f1b", "interleaved-1f1b", "gpipe", "zb-h1", "zb-v", "dualpipe-v")
RECOMPUTE = ("none", "selective", "alternate", "full")


@dataclass(frozen=True)
class Layout:
    """Hold a layout. data x context x tensor x pipeline GPUs; expert ranks are carved out of data x context.

    zero: 0 keeps everything on every data rank; 1 shares out the optimizer's states, 2 the gradients too, 3 the
    parameters too. micro_batch: sequences a model copy takes at once; accumulate: how many of these a step takes, one
    after the other. schedule: one of utils.schedule's; virtual: stages a rank holds (interleaving). recompute: keep all
    activations, recompute those of the attention's core (selective), keep every second matrix product only (alternate,
    torchtitan's "selective"), or nothing but each layer's input (full).
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    zero: int = 1
    micro_batch: int = 1
    accumulate: int = 1
    schedule: str = "1f1b"
    recompute: str = "selective"
    sequence_parallel: bool = True
    virtual: int = 1
    split: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no model and no cluster could run."""
        for name in ("data", "tensor", "pipeline", "context", "expert", "micro_batch", "accumulate", "virtual"):
            whole(name, getattr(self, name))
        if self.zero not in (0, 1, 2, 3):
            raise PlanError(f"zero is a stage, 0 to 3, not {self.zero!r}; nearest: {0 if self.zero < 0 else 3}")
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("recompute", self.recompute, RECOMPUTE)
        if self.virtual > 1 and self.schedule not in ("interleaved-1f1b", "zb-v", "dualpipe-v"):
            rule = f"{self.schedule} has one stage a rank, not virtual={self.virtual}"
            raise PlanError(f"{rule}; nearest: virtual=1, or schedule='interleaved-1f1b'")
        if self.schedule in ("zb-v", "dualpipe-v") and self.virtual != 2:
            object.__setattr__(self, "virtual", 2)
        if self.schedule == "interleaved-1f1b" and self.virtual == 1:
            object.__setattr__(self, "virtual", 2)

    @property
    def gpus(self) -> int:
        """Count the GPUs."""
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def global_batch(self) -> int:
        """Count the sequences of a step."""
        return self.data * self.micro_batch * self.accumulate

    @property
    def stages(self) -> int:
        """Count the stages, those that share a rank included."""
        return self.pipeline * self.virtual

    @property
    def sequence_ways(self) -> int:
        """Say over how many ranks the parts of a layer between its matrices are split: tensor, or not at all."""
        return self.tensor if self.sequence_parallel else 1

    def __str__(self) -> str:
        """Write it short: what is 1 is left out."""
        ways = (("data", "dp"), ("tensor", "tp"), ("pipeline", "pp"), ("context", "cp"), ("expert", "ep"))
        sizes = [f"{short}{getattr(self, name)}" for name, short in ways if getattr(self, name) > 1] or ["1 GPU"]
        schedule = [f"{self.schedule}{f' x{self.virtual}' if self.virtual > 1 else ''}"] if self.pipeline > 1 else []
        return " ".join(
            [*sizes, f"zero{self.zero}", f"mb{self.micro_batch}x{self.accumulate}", *schedule, self.recompute]
        )


def check(model: Model, cluster: Cluster, layout: Layout) -> None:
    """Refuse a layout that this model or this cluster cannot have: the rule, the numbers, the nearest values."""
    if layout.gpus != cluster.gpus:
        parts = f"{layout.data} data x {layout.context} context x {layout.tensor} tensor x {layout.pipeline} pipeline"
        rest = layout.tensor * layout.pipeline * layout.context
        near = (
            f"data={cluster.gpus // rest}"
            if cluster.gpus % rest == 0
            else f"gpus={max(1, cluster.gpus // rest) * rest}"
        )
        raise PlanError(
            f"The layout has to use every GPU: {parts} = {layout.gpus}, not {cluster.gpus}; nearest: {near}"
        )
    check_model(model, layout)


def check_model(model: Model, layout: Layout) -> None:
    """Refuse a layout that this model cannot have."""
    if layout.tensor > model.heads:
        possible = ", ".join(map(str, nearest(layout.tensor, divisors(model.heads))))
        text = f"Tensor ranks cannot be more than heads: {layout.tensor} > {model.heads}; nearest: {possible}"
        raise PlanError(text)
    divides(layout.tensor, model.heads, "Heads have to split over tensor ranks")
    divides(layout.tensor, model.width, "The MLP's width has to split over tensor ranks")
    if model.kv % layout.tensor and layout.tensor % model.kv:
        options = [d for d in divisors(model.heads) if model.kv % d == 0 or d % model.kv == 0]
        near = ", ".join(map(str, nearest(layout.tensor, options)))
        text = f"{model.kv} key-value heads can be neither split over nor copied to {layout.tensor} tensor ranks evenly"
        raise PlanError(f"{text}; nearest: {near}")
    if layout.stages > model.layers + 2:
        fit = max(1, (model.layers + 2) // layout.virtual)
        text = f"Every stage but the first and the last needs a layer: {layout.stages} stages, {model.layers} layers"
        raise PlanError(f"{text}; nearest: pipeline={fit}")
    divides(
        layout.context * layout.sequence_ways, model.sequence, "The sequence has to split over context and tensor ranks"
    )
    if layout.expert > 1:
        divides(layout.expert, model.experts, "Experts have to split over expert ranks")
        rule = "Expert ranks are carved out of data x context ranks, and have to divide them"
        divides(layout.expert, layout.data * layout.context, rule)
    if layout.virtual > 1 and layout.schedule == "interleaved-1f1b":
        divides(layout.pipeline, layout.accumulate, "Interleaving takes micro-batches in rounds of `pipeline`")


def with_batch(layout: Layout, global_batch: int) -> Layout:
    """Set `accumulate` so that a step takes `global_batch` sequences; refuse a batch that cannot be split."""
    once = layout.data * layout.micro_batch
    if global_batch % once:
        below, above = global_batch // once * once, (global_batch // once + 1) * once
        near = ", ".join(str(batch) for batch in (below, above) if batch)
        rule = f"The batch has to split into {layout.data} data ranks x {layout.micro_batch} sequences"
        raise PlanError(
            f"{rule}: {global_batch} / {once} = {global_batch / once:.2f} is not whole; nearest batch: {near}"
        )
    return replace(layout, accumulate=global_batch // once)


def even_split(layers: int, stages: int) -> list[int]:
    """Deal layers evenly; where they do not divide, the first and last stages get fewer (Llama 3, BLOOM)."""
    counts = [layers // stages] * stages
    middle_first = sorted(range(stages), key=lambda s: abs(s - (stages - 1) / 2))
    for stage in middle_first[: layers % stages]:
        counts[stage] += 1
    return counts


def balanced_split(model: Model, stages: int) -> list[int]:
    """Deal layers by cost, the output head counted: a stage is full once it has its share (as nanotron does)."""
    layer = model.layer_matmul_flops
    total = model.layers * layer + model.head_flops
    counts, stage, done = [0] * stages, 0, 0.0
    for _ in range(model.layers):
        done += layer
        if stage < stages - 1 and done > total * (stage + 1) / stages:
            stage += 1
        counts[stage] += 1
    return counts


def layers_by_stage(model: Model, layout: Layout, split: str = "even") -> list[int]:
    """Give the number of layers of every stage, in order of the model."""
    chosen = layout.split or split
    one_of("split", chosen, ("even", "balanced"))
    return even_split(model.layers, layout.stages) if chosen == "even" else balanced_split(model, layout.stages)
