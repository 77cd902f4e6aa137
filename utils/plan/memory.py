"""What a GPU holds at the peak of a step, by kind and by pipeline rank."""

from __future__ import annotations

from dataclasses import dataclass, field

from utils.plan import activations
from utils.plan.cluster import Software
from utils.plan.coefficients import Coefficients
from utils.plan.layout import Layout, layers_by_stage
from utils.plan.model import Model

KINDS = ("parameters", "gradients", "optimizer", "activations", "logits", "transient")


@dataclass(frozen=True)
class Memory:
    """Hold bytes by kind, of the fullest pipeline rank; `ranks` has them for every pipeline rank."""

    ranks: list[dict[str, float]] = field(repr=False)

    @property
    def fullest(self) -> int:
        """Name the pipeline rank that holds most."""
        return max(range(len(self.ranks)), key=lambda rank: sum(self.ranks[rank].values()))

    @property
    def kinds(self) -> dict[str, float]:
        """Give bytes by kind, of the fullest pipeline rank."""
        return self.ranks[self.fullest]

    @property
    def total(self) -> float:
        """Give all bytes of the fullest pipeline rank."""
        return sum(self.kinds.values())

    def __getitem__(self, kind: str) -> float:
        """Give the bytes of one kind, of the fullest pipeline rank."""
        return self.kinds[kind]


def shares(layout: Layout) -> tuple[int, int, int]:
    """Say over how many ranks ZeRO shares out parameters, gradients, optimizer states (arXiv:1910.02054, Figure 1)."""
    ways = layout.data * layout.context
    return (ways if layout.zero >= 3 else 1, ways if layout.zero >= 2 else 1, ways if layout.zero >= 1 else 1)


def dense_layer(model: Model, layout: Layout) -> float:
    """Count a layer's parameters on one rank, experts left out: matrices split over tensor ranks, vectors whole."""
    matrices = 2 * model.hidden * model.hidden / layout.tensor
    matrices += 2 * model.hidden * model.kv_hidden / activations.kv_ways(model, layout)
    if model.experts == 1:
        matrices += model.mlp_matrices / layout.tensor
    return matrices + model.router_matrices + model.layer_vectors


def expert_layer(model: Model, layout: Layout) -> float:
    """Count a layer's expert parameters on one rank: each expert rank holds some of the experts."""
    return model.expert_parameters / layout.expert / layout.tensor


def table_parameters(model: Model, layout: Layout, rank: int) -> float:
    """Count the embedding on the first stage's rank and the head on the last's; a tied table is on both, if they
    differ.
    """
    first, last = rank == 0, rank == last_rank(layout)
    if model.tied and first and last:
        return model.embedding_parameters / layout.tensor + model.final_norm
    head = model.vocab * model.hidden / layout.tensor + model.final_norm
    return (model.embedding_parameters / layout.tensor if first else 0) + (head if last else 0)


def last_rank(layout: Layout) -> int:
    """Name the pipeline rank that holds the last stage: rank 0 where the stages run forth and back (V-shaped)."""
    return 0 if layout.schedule in ("zb-v", "dualpipe-v") and layout.pipeline > 1 else layout.pipeline - 1


def rank_of_stage(layout: Layout, stage: int) -> int:
    """Name the pipeline rank that holds a stage."""
    p = layout.pipeline
    if layout.schedule in ("zb-v", "dualpipe-v") and stage >= p:
        return 2 * p - 1 - stage
    return stage % p


def layers_by_rank(model: Model, layout: Layout, software: Software) -> list[int]:
    """Count the layers each pipeline rank holds."""
    counts = [0] * layout.pipeline
    for stage, layers in enumerate(layers_by_stage(model, layout, software.split)):
        counts[rank_of_stage(layout, stage)] += layers
    return counts


def state_bytes(dense: float, expert: float, layout: Layout, software: Software) -> dict[str, float]:
    """Count bytes of parameters, gradients and optimizer for a rank's parameters, by ZeRO stage.

    Experts are shared out over the data ranks that hold the same experts only.
    """
    bytes_each = (software.parameter, software.gradient, software.optimizer)
    held = {}
    for kind, each, ways in zip(KINDS[:3], bytes_each, shares(layout), strict=True):
        held[kind] = each * (dense / ways + expert / max(1, ways // layout.expert))
    return held


def transient_bytes(model: Model, layout: Layout, software: Software, held: float, table: float) -> float:
    """Count what lives for a moment: gathered parameters and their gradients with ZeRO-3, buckets of gradients else.

    ZeRO-3 holds the layer at work and the one fetched ahead of it, in 16 bits, and a gradient before it is scattered;
    with a large vocabulary, the gathered head is the largest of them. ZeRO-1 and 2 fill one bucket of gradients while
    the last is sent, unless all gradients are one bucket already. held: parameters of the rank, table: of embedding
    and head.
    """
    if layout.data * layout.context == 1 or layout.zero == 0:
        return software.context
    if layout.zero < 3:
        whole = held * software.reduce_bytes
        return software.context + (2 * software.bucket if software.bucket < whole else 0.0)
    layer = dense_layer(model, layout) + expert_layer(model, layout)
    gathered = max(2 * layer, layer + table)
    return software.context + gathered * activations.HALF + max(layer, table) * software.reduce_bytes


def memory(model: Model, layout: Layout, software: Software, fit: Coefficients, all_ranks: bool = True) -> Memory:
    """Count what every pipeline rank holds at its peak, by kind.

    all_ranks: False leaves out ranks that cannot be the fullest: of those with as many layers, the first holds most
    micro-batches in flight.
    """
    holes = fit.holes if software.fragments and layout.pipeline > 1 else 0.0
    counts = layers_by_rank(model, layout, software)
    kept = activations.layer_bytes(model, layout, software)
    found = []
    seen = set()
    for rank, layers in enumerate(counts):
        alike = (layers, rank == 0, rank == last_rank(layout))
        if alike in seen and not all_ranks:
            continue
        seen.add(alike)
        table = table_parameters(model, layout, rank)
        dense = layers * dense_layer(model, layout) + table
        held = state_bytes(dense, layers * expert_layer(model, layout), layout, software)
        flight = (
            activations.in_flight(layout, rank) / layout.virtual
        )  # micro-batches, in units of all the rank's layers
        held["activations"] = flight * (layers + holes) * kept
        if layers:
            held["activations"] += activations.working_bytes(model, layout, software)
        last = rank == last_rank(layout)
        held["logits"] = activations.logits_bytes(model, layout, software) if last else 0.0
        held["transient"] = transient_bytes(model, layout, software, dense, table)
        found.append(held)
    return Memory(found)
