"""How long a GPU computes: matrix products by their shape, attention, element-wise work by the bytes it moves.

A product of m x k and k x n does 2 m n k operations and moves at least 2 (m k + k n + m n) bytes. Time is the sum of
both, each at its share of the data sheet: so efficiency falls smoothly as a matrix gets thin, and can never pass the
share.
"""

from __future__ import annotations

from utils.plan import activations
from utils.plan.cluster import GPU, Software
from utils.plan.coefficients import Coefficients
from utils.plan.layout import Layout
from utils.plan.model import Model

LOSS_FORWARD, LOSS_BACKWARD = 14, 10  # bytes moved for a logit: to 32 bits, maximum, exponent, sum; and the gradient


def product(m: float, n: float, k: float, gpu: GPU, fit: Coefficients) -> float:
    """Give the seconds of one matrix product."""
    work = 2 * m * n * k / (gpu.peak * fit.matmul(gpu.peak))
    moved = 2 * (m * k + k * n + m * n) / (gpu.memory_bandwidth * fit.memory_share)
    return work + moved


def layer_products(model: Model, layout: Layout) -> list[tuple[float, float, float]]:
    """List the shapes (m, n, k) of a layer's matrix products on one rank: tensor ranks split columns or rows."""
    rows, t, h, f = activations.tokens(model, layout), layout.tensor, model.hidden, model.width
    kv = model.kv_hidden / activations.kv_ways(model, layout)
    shapes = [(rows, h / t + 2 * kv, h), (rows, h, h / t)]
    each = [(f * (2 if model.gated else 1) / t, h), (h, f / t)]
    if model.experts == 1:
        return shapes + [(rows, n, k) for n, k in each]
    here = model.experts // layout.expert
    visits = rows * model.experts_per_token / here
    return [*shapes, (rows, model.experts, h), *[(visits, n, k) for _ in range(here) for n, k in each]]


def matmul_seconds(model: Model, layout: Layout, gpu: GPU, fit: Coefficients) -> float:
    """Give the seconds of a layer's matrix products, forward."""
    return sum(product(*shape, gpu, fit) for shape in layer_products(model, layout))


def attention_seconds(model: Model, layout: Layout, gpu: GPU, software: Software, fit: Coefficients) -> float:
    """Give the seconds of a layer's attention core, half of it with flash attention, which skips the future."""
    rows, t = activations.tokens(model, layout), layout.tensor
    work = rows * model.layer_attention_flops(causal=software.flash > 0) / t
    if software.flash:
        return work / (gpu.peak * fit.flash(gpu.peak, software.flash))
    d, s, each = model.hidden / model.heads, model.sequence, rows / model.sequence * model.heads / t
    return each * (product(s, s, d, gpu, fit) + product(s, d, s, gpu, fit))


def core_bytes(model: Model, layout: Layout, software: Software) -> float:
    """Count bytes that the softmax (and its dropout) over the scores moves, forward: none with flash attention."""
    if software.flash:
        return 0.0
    each = 4 + (5 if model.dropout else 0)
    return activations.tokens(model, layout) * each * model.heads * model.sequence / layout.tensor


def elementwise_bytes(model: Model, layout: Layout) -> float:
    """Count bytes that element-wise work moves in a layer, forward, each operation reading and writing 16 bits.

    Two norms 8 h, two residual sums 12 h (and masks 2 h); queries, keys and values turned or rotated; the activation.
    """
    t, h = layout.tensor, model.hidden
    outside = (20 + (2 if model.dropout else 0)) * h / layout.sequence_ways
    turned = 4 * (h / t + 2 * model.kv_hidden / activations.kv_ways(model, layout))
    activation = (6 if model.gated else 4) * model.width / t * model.experts_per_token
    return activations.tokens(model, layout) * (outside + turned + activation)


def moved_seconds(moved: float, gpu: GPU, software: Software, fit: Coefficients) -> float:
    """Give the seconds to move bytes through the GPU's memory, as often as the software passes over them."""
    return moved * (1 if software.fused else fit.eager) / (gpu.memory_bandwidth * fit.memory_share)


def layer_seconds(model: Model, layout: Layout, gpu: GPU, software: Software, fit: Coefficients) -> dict[str, float]:
    """Give the seconds of one layer for one micro-batch: forward, backward, recomputed. The backward is twice the
    forward; flash attention's 2.5 times (it computes the scores again: Dao, arXiv:2307.08691, section 3.1).
    """
    products = matmul_seconds(model, layout, gpu, fit)
    attention = attention_seconds(model, layout, gpu, software, fit)
    core = attention + core_bytes(model, layout, software) / (gpu.memory_bandwidth * fit.memory_share)
    moved = moved_seconds(elementwise_bytes(model, layout), gpu, software, fit)
    forward = products + core + moved
    shares = recomputed_share(model, layout.recompute, software)
    again = {
        "none": 0.0,
        "selective": 0.0 if software.flash else core,
        "alternate": shares * products + moved,
        "full": shares * products + core + moved,
    }[layout.recompute]
    return {
        "forward": forward,
        "backward": 2 * products + (2.5 if software.flash else 2) * core + 2 * moved,
        "recompute": again,
    }


def recomputed_share(model: Model, recompute: str, software: Software) -> float:
    """Give the share of a layer's products that is done again.

    With full recomputation all; but PyTorch's checkpoint stops early, before the last product, as nothing needs it
    (torch.utils.checkpoint, early_stop). torchtitan's way keeps every second product: of seven, it does again the keys,
    the attention's output and the second of the MLP.
    """
    if recompute == "full":
        last = model.hidden * model.width * model.experts_per_token if software.stops_early else 0
    elif recompute == "alternate":
        again = model.hidden * (model.kv_hidden + model.hidden + (model.width if model.gated else 0))
        return 2 * again / model.layer_matmul_flops
    else:
        return 0.0
    return 1 - 2 * last / model.layer_matmul_flops


def head_seconds(model: Model, layout: Layout, gpu: GPU, software: Software, fit: Coefficients) -> tuple[float, float]:
    """Give the seconds of logits and loss for one micro-batch, forward and backward."""
    rows = activations.tokens(model, layout)
    logits = product(rows, model.vocab / layout.tensor, model.hidden, gpu, fit)
    each = rows * model.vocab / layout.tensor
    forward = logits + moved_seconds(LOSS_FORWARD * each, gpu, software, fit)
    return forward, 2 * logits + moved_seconds(LOSS_BACKWARD * each, gpu, software, fit)


def optimizer_seconds(parameters: float, gpu: GPU, software: Software, fit: Coefficients) -> float:
    """Give the seconds of Adam's step: gradient read, states read and written, the new parameters written."""
    each = software.gradient + 2 * software.optimizer + software.parameter
    return parameters * each / (gpu.memory_bandwidth * fit.memory_share)
