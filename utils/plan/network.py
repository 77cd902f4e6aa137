"""How long a message takes on a network of two levels: links inside a node, adapters between nodes.

A ring all-reduce moves 2 (n-1)/n of its bytes through every rank; all-gather and reduce-scatter move (n-1)/n of the
whole (the factors of nccl-tests, doc/PERFORMANCE.md). Bandwidth is the narrowest place on the ring; each hop costs its
latency.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from utils.plan.cluster import Cluster
from utils.plan.coefficients import Coefficients
from utils.plan.layout import Layout

WIRE = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}


@dataclass(frozen=True)
class Group:
    """Hold a process group's place: how many ranks, and how many of them share a node."""

    size: int
    per_node: int

    @property
    def nodes(self) -> int:
        """Count the nodes it reaches over."""
        return -(-self.size // self.per_node)


@lru_cache(4096)
def groups(cluster: Cluster, layout: Layout) -> dict[str, Group]:
    """Place the groups: tensor ranks next to each other, then context, then data, pipeline stages farthest apart.

    A group of n ranks that stand `stride` apart has at most gpus_per_node / stride of them in a node.
    """
    node, found, stride = cluster.gpus_per_node, {}, 1
    for name, size in (("tensor", layout.tensor), ("context", layout.context), ("data", layout.data)):
        found[name] = Group(size, max(1, min(size, node // stride)))
        stride *= size
    both = layout.data * layout.context
    found["replica"] = Group(both, max(1, min(both, node // layout.tensor)))
    found["expert"] = Group(layout.expert, max(1, min(layout.expert, node // layout.tensor)))
    found["pipeline"] = Group(layout.pipeline, max(1, min(layout.pipeline, node // stride)))
    return found


def bandwidth(kind: str, cluster: Cluster, group: Group, fit: Coefficients) -> float:
    """Give bytes/s around a group's ring: the links inside a node, or the adapters of its ranks in a node together."""
    part = 1.0 if kind == "all_reduce" else fit.gather_share
    inside = cluster.gpu.link * fit.link_share * part
    if group.nodes == 1:
        return inside
    outside = group.per_node * cluster.net.per_gpu * fit.wire_share * part / group.nodes**cluster.net.congestion
    return min(inside, outside)


def latency(cluster: Cluster, group: Group, fit: Coefficients) -> float:
    """Give the time that a collective of no bytes takes: a start inside a node; between nodes, a hop for every rank.

    NCCL has trees for all-reduce; on the machines measured, their time grew with the number of ranks all the same.
    """
    if group.size == 1:
        return 0.0
    return fit.start + ((group.size - 1) * cluster.net.latency if group.nodes > 1 else 0.0)


def collective(kind: str, size: float, cluster: Cluster, group: Group, fit: Coefficients, pieces: float = 1) -> float:
    """Give the seconds of a collective on `size` bytes (of the whole array, as nccl-tests counts), in some pieces."""
    if group.size == 1:
        return 0.0
    moved = WIRE[kind] * (group.size - 1) / group.size * size
    return max(1, pieces) * latency(cluster, group, fit) + moved / bandwidth(kind, cluster, group, fit)


def transfer(size: float, cluster: Cluster, group: Group, fit: Coefficients) -> float:
    """Give the seconds of a message of `size` bytes from one pipeline stage to the next."""
    if group.size == 1:
        return 0.0
    if group.nodes == 1:
        return fit.start + size / (cluster.gpu.link * fit.link_share)
    return cluster.net.latency + fit.start + size / (cluster.net.per_gpu * fit.wire_share)
