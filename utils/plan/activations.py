"""What a layer keeps from its forward for its backward, in bytes; by the published formulas, with their assumptions.

For a GPT layer with dropout and without flash attention these are Korthikanti et al., arXiv:2205.05198, Table 2:
sbh (10 + 24/t + 5as/(ht)) without sequence parallelism, sbh/t (34 + 5as/h) with it.
"""

from __future__ import annotations

from functools import lru_cache

from utils import schedule
from utils.plan.cluster import Software
from utils.plan.layout import Layout
from utils.plan.model import Model

HALF, FULL, MASK = 2, 4, 1  # bytes of a value in 16 bits, in 32 bits, and of a dropout mask


def tokens(model: Model, layout: Layout) -> float:
    """Count the tokens of a micro-batch on one rank: b s / context ranks."""
    return layout.micro_batch * model.sequence / layout.context


def kv_ways(model: Model, layout: Layout) -> int:
    """Say over how many ranks keys and values are split: tensor ranks beyond the kv_heads hold copies."""
    return min(layout.tensor, model.kv)


def between(model: Model, layout: Layout, software: Software) -> float:
    """Count bytes for a token kept between the matrices: inputs of both norms and of what follows them, dropout masks.

    10 h, whole on every tensor rank unless there is sequence parallelism.
    """
    norms = 2 * HALF * model.hidden + (2 * MASK * model.hidden if model.dropout else 0)
    inputs = 2 * HALF * model.hidden
    whole = software.keeps_gathered and layout.pipeline == 1
    return norms / layout.sequence_ways + inputs / (1 if whole else layout.sequence_ways)


def attention(model: Model, layout: Layout) -> float:
    """Count bytes for a token kept around the attention's core: queries, keys, values, its output. 8 h / t."""
    kept = 2 * HALF * model.hidden / layout.tensor + 2 * HALF * model.kv_hidden / kv_ways(model, layout)
    return kept + FULL * model.heads / layout.tensor  # flash attention's sums; the softmax's take as little


def core(model: Model, layout: Layout, software: Software) -> float:
    """Count bytes for a token kept of the s x s scores: 5 a s / t with dropout; nothing with flash attention."""
    if software.flash:
        return 0.0
    kept = HALF + (MASK + HALF if model.dropout else 0)
    return kept * model.heads * model.sequence / layout.tensor


def mlp(model: Model, layout: Layout, software: Software) -> float:
    """Count bytes for a token kept inside the MLPs it visits: 16 h / t for a plain MLP of 4 h."""
    pieces = 2 if not model.gated else 3 if software.fused else 4
    return model.experts_per_token * pieces * HALF * model.width / layout.tensor


def products(model: Model, layout: Layout) -> float:
    """Count bytes for a token of every second matrix product, and the attention's output."""
    shared = 2 * model.hidden + (2 if model.gated else 1) * model.width * model.experts_per_token + model.hidden
    outputs = shared / layout.tensor + 2 * model.kv_hidden / kv_ways(model, layout)
    return HALF * (outputs / 2 + model.hidden / layout.tensor)


def layer_input(model: Model, layout: Layout) -> float:
    """Count bytes for a token of a layer's input: 2 h, all that full recomputation keeps."""
    return HALF * model.hidden / layout.sequence_ways


def layer_bytes(model: Model, layout: Layout, software: Software, recompute: str | None = None) -> float:
    """Count what one layer keeps of one micro-batch on one rank."""
    mode = recompute or layout.recompute
    if mode == "full":
        kept = layer_input(model, layout)
    elif mode == "alternate":
        kept = layer_input(model, layout) + products(model, layout)
    else:
        kept = between(model, layout, software) + attention(model, layout) + mlp(model, layout, software)
        kept += core(model, layout, software) if mode == "none" else 0.0
    return tokens(model, layout) * kept


def working_bytes(model: Model, layout: Layout, software: Software) -> float:
    """Count what the layer under recomputation needs on top, while its backward runs."""
    if layout.recompute == "none":
        return 0.0
    if layout.recompute == "selective":
        return tokens(model, layout) * core(model, layout, software)
    whole = layer_bytes(model, layout, software, "none")
    return whole - layer_bytes(model, layout, software)


def logits_bytes(model: Model, layout: Layout, software: Software) -> float:
    """Count what the last stage holds for the logits of a micro-batch: `logit_bytes` for each, split over tensor
    ranks.
    """
    return tokens(model, layout) * software.logit_bytes * model.vocab / layout.tensor


def in_flight(layout: Layout, rank: int) -> int:
    """Count what a pipeline rank holds at its peak: stages x micro-batches between forward and backward."""
    p, m, v = layout.pipeline, layout.accumulate, layout.virtual
    if p == 1:
        return v
    if layout.schedule == "1f1b" and v == 1:
        return min(m, p - rank)
    if layout.schedule == "gpipe":
        return m * v
    if layout.schedule == "interleaved-1f1b":
        ahead = 2 * (p - rank - 1) + (v - 1) * p + 1
        return min(m * v, ahead)
    return _simulated_in_flight(layout.schedule, p, min(m, 4 * p), v)[rank]


@lru_cache(256)
def _simulated_in_flight(name: str, p: int, m: int, v: int) -> tuple[int, ...]:
    """Read the peaks off the simulation; past the warm-up they do not depend on the number of micro-batches."""
    return tuple(schedule.simulate(schedule.build(name, p * v, m, v if v > 1 else None)).peak_activations)
