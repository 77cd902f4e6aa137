"""How long a step takes: computing, recomputing, communication that stays exposed, the bubble, the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from utils import schedule
from utils.plan import activations, compute, memory, network
from utils.plan.cluster import Cluster, Software
from utils.plan.coefficients import Coefficients
from utils.plan.layout import Layout, layers_by_stage
from utils.plan.model import Model

TERMS = ("compute", "recompute", "tensor", "context", "expert", "data", "pipeline", "bubble", "host", "optimizer")


@dataclass(frozen=True)
class Layer:
    """Hold the seconds of one layer for one micro-batch, forward and backward apart, by what they are spent on."""

    forward: dict[str, float]
    backward: dict[str, float]

    @property
    def seconds(self) -> float:
        """Give all seconds."""
        return sum(self.forward.values()) + sum(self.backward.values())


def tensor_seconds(model: Model, layout: Layout, cluster: Cluster, fit: Coefficients) -> float:
    """Give the seconds of a layer's tensor-parallel traffic in one direction: two all-reduces of b s h values, or, with
    sequence parallelism, two all-gathers and two reduce-scatters, which move as much (arXiv:2205.05198, section 4.2.2).
    """
    group = network.groups(cluster, layout)["tensor"]
    size = activations.tokens(model, layout) * model.hidden * activations.HALF
    if layout.sequence_parallel:
        gather = network.collective("all_gather", size, cluster, group, fit)
        return 2 * (gather + network.collective("reduce_scatter", size, cluster, group, fit))
    return 2 * network.collective("all_reduce", size, cluster, group, fit)


def context_seconds(model: Model, layout: Layout, cluster: Cluster, fit: Coefficients) -> float:
    """Give the seconds in which a layer's keys and values are gathered over context ranks (arXiv:2407.21783, 3.3.2)."""
    group = network.groups(cluster, layout)["context"]
    rows = layout.micro_batch * model.sequence
    size = rows * 2 * model.kv_hidden / activations.kv_ways(model, layout) * activations.HALF
    return network.collective("all_gather", size, cluster, group, fit)


def expert_seconds(model: Model, layout: Layout, cluster: Cluster, fit: Coefficients) -> float:
    """Give the seconds in which tokens go to their experts and come back: two all-to-alls of b s h k values."""
    group = network.groups(cluster, layout)["expert"]
    size = activations.tokens(model, layout) * model.hidden * activations.HALF * model.experts_per_token
    return 2 * network.collective("all_to_all", size / layout.sequence_ways, cluster, group, fit)


def shard_seconds(
    model: Model, layout: Layout, cluster: Cluster, software: Software, fit: Coefficients
) -> tuple[float, float]:
    """Give the seconds in which ZeRO-3 gathers one layer's parameters, and scatters one layer's gradients."""
    if layout.zero < 3:
        return 0.0, 0.0
    group = network.groups(cluster, layout)["replica"]
    held = memory.dense_layer(model, layout) + memory.expert_layer(model, layout)
    gather = network.collective("all_gather", held * activations.HALF, cluster, group, fit)
    return gather, network.collective("reduce_scatter", held * software.reduce_bytes, cluster, group, fit)


def host_seconds(layout: Layout, cluster: Cluster, software: Software, fit: Coefficients) -> float:
    """Give the seconds the host takes to launch one layer's forward and backward: a floor under everything else.

    Eager programs with tensor and pipeline ranks over several nodes are slower still, the more tensor ranks the slower:
    seen in the Ultra-Scale Playbook's rows, whatever the model, the stages and the micro-batch; its cause is not known.
    """
    if software.host == "lean":
        return 0.0
    both = layout.tensor > 1 and layout.pipeline > 1 and cluster.nodes > 1
    return fit.host_eager + (fit.host_tensor * layout.tensor if both else 0.0)


def exposed(traffic: float, busy: float, fit: Coefficients) -> float:
    """Give the part of traffic's seconds that adds to the step, when the GPU computes for `busy` seconds meanwhile.

    What outlasts the computing, and a share of what does not: messages take processors and memory from it.
    """
    hidden = min(traffic, busy)
    return traffic - fit.overlap * hidden


def backward_tensor_seconds(
    tensor: float, products: float, layout: Layout, software: Software, fit: Coefficients
) -> float:
    """Give what a backward's tensor traffic adds to the step.

    All of it, or less where it runs beside the products of the weights' gradients. With sequence parallelism only half
    can: what comes in has to be gathered first (arXiv:2205.05198, section 4.2.2).
    """
    if not software.overlaps_tensor:
        return tensor
    beside = tensor / 2 if layout.sequence_parallel else tensor
    return tensor - beside + exposed(beside, products, fit)


def accumulate_seconds(model: Model, layout: Layout, cluster: Cluster, software: Software, fit: Coefficients) -> float:
    """Give the seconds in which a layer's gradients are added to the sums of the micro-batches before; not with
    ZeRO-3.
    """
    if layout.zero == 3:
        return 0.0
    held = memory.dense_layer(model, layout) + memory.expert_layer(model, layout)
    return held * software.accumulate / (cluster.gpu.memory_bandwidth * fit.memory_share)


def layer(model: Model, layout: Layout, cluster: Cluster, software: Software, fit: Coefficients) -> Layer:
    """Give the seconds of one layer for one micro-batch: what the GPU does, or what the host takes to launch it."""
    work = compute.layer_seconds(model, layout, cluster.gpu, software, fit)
    products = compute.matmul_seconds(model, layout, cluster.gpu, fit)
    tensor = tensor_seconds(model, layout, cluster, fit)
    context, expert = context_seconds(model, layout, cluster, fit), expert_seconds(model, layout, cluster, fit)
    gather, scatter = shard_seconds(model, layout, cluster, software, fit)
    again = layout.recompute == "full"
    forward = {"compute": work["forward"], "tensor": tensor, "context": context, "expert": expert}
    backward = {
        "compute": work["backward"] + accumulate_seconds(model, layout, cluster, software, fit),
        "recompute": work["recompute"],
        "tensor": backward_tensor_seconds(tensor, products, layout, software, fit) + (tensor if again else 0.0),
        "context": context * (2 if again else 1),
        "expert": expert * (2 if again else 1),
    }
    host = host_seconds(layout, cluster, software, fit)
    for part, traffic, share in ((forward, gather, 1 / 3), (backward, gather + scatter, 2 / 3)):
        busy = sum(part.values())
        part["data"] = exposed(traffic, busy, fit)
        part["host"] = max(0.0, host * share - busy - part["data"])
    return Layer(forward, backward)


def stage_costs(
    model: Model, layout: Layout, cluster: Cluster, software: Software, fit: Coefficients, one: Layer
) -> list[tuple[float, float]]:
    """Give each stage's seconds for one micro-batch, forward and backward; the last has the head, and its loss."""
    forward, backward = sum(one.forward.values()), sum(one.backward.values())
    costs = [(n * forward, n * backward) for n in layers_by_stage(model, layout, software.split)]
    head = compute.head_seconds(model, layout, cluster.gpu, software, fit)
    costs[-1] = (costs[-1][0] + head[0], costs[-1][1] + head[1])
    return costs


def hop_seconds(model: Model, layout: Layout, cluster: Cluster, fit: Coefficients) -> float:
    """Give the seconds of one micro-batch's way from a stage to the next: b s h values, split over tensor ranks."""
    size = activations.tokens(model, layout) * model.hidden * activations.HALF / layout.tensor
    return network.transfer(size, cluster, network.groups(cluster, layout)["pipeline"], fit)


def rank_seconds(costs: list[tuple[float, float]], layout: Layout) -> list[float]:
    """Give the seconds that each pipeline rank computes for one micro-batch."""
    by_rank = [0.0] * layout.pipeline
    for stage, (forward, backward) in enumerate(costs):
        by_rank[memory.rank_of_stage(layout, stage)] += forward + backward
    return by_rank


def busiest(costs: list[tuple[float, float]], layout: Layout) -> float:
    """Give the seconds that the busiest pipeline rank computes for one micro-batch."""
    return max(rank_seconds(costs, layout))


def pipeline_bound(costs: list[tuple[float, float]], layout: Layout, hop: float) -> float:
    """Give a lower bound of the pipeline's seconds, for any schedule.

    A rank can start once the stages before its first one have done a forward; it computes for every micro-batch; and
    after its last backward the stages before it have to do theirs. Where stages are alike this is (p - 1 + m) t, which
    1F1B reaches (arXiv:2104.04473, section 2.2.1); with v stages a rank the wait is v times shorter.
    """
    by_rank = rank_seconds(costs, layout)
    least, before = 0.0, 0.0
    for rank, (forward, backward) in enumerate(costs[: layout.pipeline]):
        least = max(least, before + layout.accumulate * by_rank[rank])
        split = layout.schedule in ("zb-h1", "zb-v", "dualpipe-v")  # these may end on weights' gradients, side by side
        before += forward + hop + (0.0 if split else backward + hop)
    return least


def pipeline_guess(costs: list[tuple[float, float]], layout: Layout, hop: float) -> float:
    """Give the pipeline's seconds in closed form: one micro-batch goes through and back, then the busiest rank sets the
    pace: exact for 1F1B where stages are alike, close where they are not. Interleaving divides the wait.
    """
    through = sum(f + b for f, b in costs) / layout.virtual + 2 * (layout.pipeline - 1) * hop
    return max(pipeline_bound(costs, layout, hop), through + (layout.accumulate - 1) * busiest(costs, layout))


@lru_cache(64)
def _built(name: str, stages: int, micro_batches: int, per_rank: int | None) -> schedule.Schedule:
    return schedule.build(name, stages, micro_batches, per_rank)


def simulated(costs: list[tuple[float, float]], layout: Layout, hop: float) -> float:
    """Simulate the pipeline: a few rounds, then as many more micro-batches as there are, at the pace of the last
    round.

    The pace is what the busiest rank computes for a micro-batch, or more where messages are slow: that is read off the
    last stage, which never waits for the pipeline to drain.
    """
    p, m, v = layout.pipeline, layout.accumulate, layout.virtual
    if p == 1:
        return m * busiest(costs, layout)
    return _simulated(tuple(costs), layout.schedule, p, m, v, hop)


@lru_cache(256)
def _simulated(costs: tuple[tuple[float, float], ...], name: str, p: int, m: int, v: int, hop: float) -> float:
    few = min(m, {"1f1b": 3 * p, "gpipe": m}.get(name, 5 * p))
    plan = _built(name, p * v, few, v if name == "interleaved-1f1b" else None)
    backward = [b / 2 for _, b in costs]
    run = schedule.simulate(plan, [f for f, _ in costs], backward, backward, transfer=hop)
    if few == m:
        return run.total
    by_rank = [0.0] * p
    for stage, (forward, whole) in enumerate(costs):
        by_rank[plan.placement[stage]] += forward + whole
    ends = [run.times[plan.backward_of(p * v - 1, number)][1] for number in (few - 1 - p, few - 1)]
    return run.total + (m - few) * max((ends[1] - ends[0]) / p, max(by_rank))


def reduce_seconds(
    parameters: float, layout: Layout, cluster: Cluster, software: Software, fit: Coefficients
) -> tuple[float, float]:
    """Give the seconds in which gradients are summed over data ranks, and in which ZeRO gathers new parameters.

    ZeRO-0: one all-reduce; ZeRO-1 and 2: a reduce-scatter, and an all-gather after the optimizer, as many bytes
    (arXiv:1910.02054, section 7). ZeRO-3 has done both, layer by layer.
    """
    group = network.groups(cluster, layout)["replica"]
    if layout.zero == 3 or group.size == 1:
        return 0.0, 0.0
    size = parameters * software.reduce_bytes
    if layout.zero == 0:
        return network.collective("all_reduce", size, cluster, group, fit, size / software.bucket), 0.0
    scattered = network.collective("reduce_scatter", size, cluster, group, fit, size / software.bucket)
    new = parameters * activations.HALF
    return scattered, network.collective("all_gather", new, cluster, group, fit, new / software.bucket)


@dataclass(frozen=True)
class Time:
    """Hold the seconds of a step by term; they add up to `total`."""

    terms: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Give the seconds of a step."""
        return sum(self.terms.values())

    def __getitem__(self, term: str) -> float:
        """Give the seconds of one term."""
        return self.terms[term]


def step(
    model: Model, layout: Layout, cluster: Cluster, software: Software, fit: Coefficients, simulate: bool | None = True
) -> Time:
    """Give the seconds of a step by term. simulate: the pipeline is simulated; False: closed form; None: a lower
    bound.
    """
    one = layer(model, layout, cluster, software, fit)
    costs = stage_costs(model, layout, cluster, software, fit, one)
    hop = hop_seconds(model, layout, cluster, fit)
    ways = {True: simulated, False: pipeline_guess, None: pipeline_bound}
    whole = ways[simulate](costs, layout, hop)
    busy = layout.accumulate * busiest(costs, layout)

    # What the busiest rank does in `busy`, in the proportion of its parts.
    layers = memory.layers_by_rank(model, layout, software)
    own = max(layers) * layout.accumulate
    terms = dict.fromkeys(TERMS, 0.0)
    for part in (one.forward, one.backward):
        for term, seconds in part.items():
            terms[term] += own * seconds
    terms["compute"] += busy - sum(terms.values())  # the head, where the busiest rank has it
    without = simulated(costs, layout, 0.0) if simulate and layout.pipeline > 1 else whole
    terms["bubble"] = without - busy if simulate else whole - busy
    terms["pipeline"] = whole - without

    held = [
        n * memory.dense_layer(model, layout) + memory.table_parameters(model, layout, r) for r, n in enumerate(layers)
    ]
    experts = max(layers) * memory.expert_layer(model, layout)  # over fewer ranks, but no fewer bytes
    reduce, gather = reduce_seconds(max(held) + experts, layout, cluster, software, fit)
    if layout.zero < 3:
        last = max(b for _, b in costs) * layout.virtual  # only the last micro-batch's backward can hide it
        terms["data"] += exposed(reduce, last if software.overlaps else 0.0, fit) + gather
    sharers = memory.shares(layout)[2]
    own_states = max(held) / sharers + experts / max(1, sharers // layout.expert)
    terms["optimizer"] = compute.optimizer_seconds(own_states, cluster.gpu, software, fit)
    return Time(terms)
