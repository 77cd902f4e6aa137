"""Memory and time of a layout, together, with the figures people compare."""

from __future__ import annotations

from dataclasses import dataclass, field

from utils.plan.cluster import MEGATRON, Cluster, Software
from utils.plan.coefficients import Coefficients, fitted
from utils.plan.compute import recomputed_share
from utils.plan.layout import Layout, check
from utils.plan.memory import Memory, memory
from utils.plan.model import Model
from utils.plan.time import Time, step


@dataclass(frozen=True)
class Estimate:
    """Hold what a layout costs."""

    model: Model
    cluster: Cluster
    layout: Layout
    software: Software
    fit: Coefficients = field(repr=False)
    memory: Memory = field(repr=False)
    time: Time = field(repr=False)

    @property
    def memory_bytes(self) -> float:
        """Give the bytes that the fullest GPU holds at its peak, as a framework counts what it allocated."""
        return self.memory.total

    @property
    def limit_bytes(self) -> float:
        """Give the bytes that a GPU has for them: its memory, less what no program can use."""
        return self.cluster.gpu.memory * (1 - self.fit.reserve)

    @property
    def fits(self) -> bool:
        """Say whether it fits."""
        return self.memory_bytes <= self.limit_bytes

    @property
    def step_seconds(self) -> float:
        """Give the seconds of a step."""
        return self.time.total

    @property
    def tokens_per_second_per_gpu(self) -> float:
        """Give the tokens that one GPU trains on in a second."""
        return self.layout.global_batch * self.model.sequence / self.step_seconds / self.cluster.gpus

    @property
    def mfu(self) -> float:
        """Give the model's operations over what the GPUs could do; nothing recomputed is counted."""
        return self.tokens_per_second_per_gpu * self.model.flops / self.cluster.gpu.peak

    @property
    def hfu(self) -> float:
        """Give the operations done, the recomputed ones too, over what the GPUs could do."""
        return self.mfu * (1 + self.recomputed_flops / self.model.flops)

    @property
    def recomputed_flops(self) -> float:
        """Count the operations recomputed for a token."""
        m, layout = self.model, self.layout
        layer = {
            "none": 0.0,
            "selective": 0.0 if self.software.flash else m.layer_attention_flops(),
            "alternate": 0.0,
            "full": m.layer_attention_flops(),
        }[layout.recompute]
        return m.layers * (layer + recomputed_share(m, layout.recompute, self.software) * m.layer_matmul_flops)

    def why(self):
        """Give the breakdown as a table: every term, where its formula comes from, and how wrong it was before."""
        from utils.plan.why import Table

        return Table(self)


def estimate(
    model: Model,
    cluster: Cluster,
    layout: Layout,
    software: Software = MEGATRON,
    fit: Coefficients | None = None,
    simulate: bool | None = True,
) -> Estimate:
    """Estimate memory and time. Raises PlanError for a layout that the model or the cluster cannot have.

    software: the program that trains, see plan.SOFTWARE. simulate: False for the closed form of the pipeline.
    """
    check(model, cluster, layout)
    fit = fit or fitted()
    held = memory(model, layout, software, fit)
    return Estimate(model, cluster, layout, software, fit, held, step(model, layout, cluster, software, fit, simulate))
