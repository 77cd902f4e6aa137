"""Try every layout; keep those that fit; time them, and say of the others which limit killed them.

Three sieves, each cheaper than the next. Memory needs no time at all. A lower bound of time drops what cannot reach the
best even with free overlap and no bubble: the busiest rank's work, or one micro-batch's way through all stages. What is
left is simulated, most promising first, until the bound of the next is worse than the worst that is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from utils.plan import time as clock
from utils.plan.cluster import MEGATRON, Cluster, Software
from utils.plan.coefficients import Coefficients, fitted
from utils.plan.estimate import Estimate, estimate
from utils.plan.layout import Layout, check_model
from utils.plan.memory import memory
from utils.plan.model import Model
from utils.plan.refuse import PlanError, divisors, nearest

SPACE: dict[str, tuple] = {
    "zero": (0, 1, 2, 3),
    "recompute": ("none", "selective", "full"),
    "micro_batch": (1, 2, 4, 8),
    "virtual": (1, 2, 4, 8),
    "context": (1, 2, 4, 8, 16),
    "schedule": ("1f1b", "interleaved-1f1b"),
}


@dataclass(frozen=True, repr=False)
class Search:
    """Hold what a search found. best: estimates, fastest first. killed: how many layouts each limit killed.

    nearly: the layouts that came nearest to fitting, with their bytes; empty if any fit.
    """

    best: list[Estimate]
    killed: dict[str, int]
    tried: int
    simulated: int
    nearly: list[tuple[Layout, float]] = field(default_factory=list)

    def __getitem__(self, place: int) -> Estimate:
        """Give the estimate at a place, 0 for the fastest."""
        return self.best[place]

    def __len__(self) -> int:
        """Count what was kept."""
        return len(self.best)

    def __str__(self) -> str:
        """Write the ranking as a table, and below it what killed the rest."""
        lines = [f"{'layout':58} {'tok/s/GPU':>10} {'MFU':>6} {'GiB':>6}"]
        for e in self.best[:10]:
            row = f"{e.layout!s:58} {e.tokens_per_second_per_gpu:10,.0f} {e.mfu:6.1%} {e.memory_bytes / 2**30:6.1f}"
            lines.append(row)
        lines.append(f"{self.tried:,} layouts tried, {self.simulated:,} simulated. The others:")
        lines += [f"  {count:>9,} {reason}" for reason, count in sorted(self.killed.items(), key=lambda item: -item[1])]
        if self.nearly:
            lines.append(
                "Nothing fits. Nearest: " + "; ".join(f"{lay} needs {b / 2**30:.0f} GiB" for lay, b in self.nearly[:3])
            )
        return "\n".join(lines)

    __repr__ = __str__  # a cell that ends in a search shows the ranking


def candidates(
    model: Model, cluster: Cluster, global_batch: int, space: dict[str, tuple], flash: bool = True
) -> Iterator[Layout]:
    """List every layout that the model, the cluster and the batch allow, tensor ranks inside a node only."""
    for tensor in (t for t in divisors(model.heads) if t <= cluster.gpus_per_node and cluster.gpus_per_node % t == 0):
        for pipeline in (p for p in divisors(cluster.gpus // tensor) if p <= model.layers + 2):
            if cluster.gpus % tensor:
                continue
            for context in space["context"]:
                rest, odd = divmod(cluster.gpus, tensor * pipeline * context)
                if odd or not rest or global_batch % rest:
                    continue
                for micro in space["micro_batch"]:
                    if global_batch // rest % micro == 0:
                        yield from _variants(model, rest, tensor, pipeline, context, micro, global_batch, space, flash)


def _variants(
    model: Model,
    data: int,
    tensor: int,
    pipeline: int,
    context: int,
    micro: int,
    global_batch: int,
    space: dict[str, tuple],
    flash: bool,
) -> Iterator[Layout]:
    """List the variants of one mesh: schedules, ZeRO stages, recomputation, expert ranks."""
    accumulate = global_batch // data // micro
    experts = [e for e in divisors(model.experts) if data * context % e == 0] if model.experts > 1 else [1]
    stages = space["zero"] if data * context > 1 else (0,)
    recomputes = [
        r for r in space["recompute"] if r != "selective" or not flash
    ]  # flash attention recomputes by itself
    for schedule, virtual in _schedules(model, pipeline, accumulate, space):
        for zero in stages:
            if zero == 3 and pipeline > 1:
                continue  # would gather all parameters again for every micro-batch
            for recompute in recomputes:
                for expert in experts:
                    yield Layout(
                        data,
                        tensor,
                        pipeline,
                        context,
                        expert,
                        zero,
                        micro,
                        accumulate,
                        schedule,
                        recompute,
                        True,
                        virtual,
                    )


def _schedules(model: Model, pipeline: int, accumulate: int, space: dict[str, tuple]) -> list[tuple[str, int]]:
    """List the schedules a pipeline can have; without a pipeline there is one."""
    if pipeline == 1:
        return [("1f1b", 1)]
    found = [(name, 1) for name in space["schedule"] if name not in ("interleaved-1f1b", "zb-v", "dualpipe-v")]
    found += [(name, 2) for name in space["schedule"] if name in ("zb-v", "dualpipe-v") and accumulate >= 2 * pipeline]
    if "interleaved-1f1b" in space["schedule"] and accumulate % pipeline == 0:
        ways = (v for v in space["virtual"] if v > 1 and v * pipeline <= model.layers + 2)
        found += [("interleaved-1f1b", v) for v in ways]
    return found


def search(
    model: Model,
    cluster: Cluster,
    global_batch: int,
    keep: int = 10,
    software: Software = MEGATRON,
    fit: Coefficients | None = None,
    exhaustive: bool = False,
    **space: tuple,
) -> Search:
    """Find the fastest layouts for a batch of `global_batch` sequences; the `keep` best are exact, in order.

    space: what to try in place of the usual, such as zero=(1,) or context=(1,). exhaustive: simulate everything that
    fits, to prove that pruning lost nothing. Raises PlanError if no layout can split the batch over the GPUs.
    """
    fit, options = fit or fitted(), {**SPACE, **space}
    limit = cluster.gpu.memory * (1 - fit.reserve)
    killed: Counter[str] = Counter()
    waiting, tried, nearly = [], 0, []
    for layout in candidates(model, cluster, global_batch, options, bool(software.flash)):
        tried += 1
        held = memory(model, layout, software, fit, all_ranks=layout.schedule in ("zb-v", "dualpipe-v"))
        if held.total > limit:
            kind = max(held.kinds, key=lambda name: held.kinds[name])
            killed[f"memory: most of it {kind}"] += 1
            nearly.append((held.total, tried, layout))
        else:
            least = clock.step(model, layout, cluster, software, fit, simulate=None).total
            waiting.append((least, tried, layout))
    if not tried:
        _no_layout(cluster, global_batch)
    waiting.sort()
    best, simulated = _simulate_best(waiting, keep, model, cluster, software, fit, exhaustive, killed)
    near = [(layout, total) for total, _, layout in sorted(nearly)[:3]] if not best else []
    return Search(best, dict(killed), tried, simulated, near)


def _simulate_best(
    waiting: list,
    keep: int,
    model: Model,
    cluster: Cluster,
    software: Software,
    fit: Coefficients,
    exhaustive: bool,
    killed: Counter,
) -> tuple[list[Estimate], int]:
    """Simulate in the order of the bounds, until no bound can still reach the kept."""
    best: list[tuple[float, int, Estimate]] = []
    simulated = 0
    for least, number, layout in waiting:
        if len(best) == keep and least > best[-1][0] and not exhaustive:
            break
        try:
            check_model(model, layout)
        except PlanError as broken:
            killed[str(broken).split(":")[0]] += 1
            continue
        e = estimate(model, cluster, layout, software, fit)
        simulated += 1
        best = sorted([*best, (e.step_seconds, number, e)], key=lambda item: item[:2])[:keep]
    killed["time: a lower bound is above the best"] += len(waiting) - simulated
    killed["time: simulated, and slower than the best"] += simulated - len(best)
    return [e for _, _, e in best], simulated


def _no_layout(cluster: Cluster, global_batch: int) -> None:
    """Refuse a batch that no layout can split."""
    near = nearest(
        global_batch, range(cluster.gpus_per_node, 4 * max(global_batch, cluster.gpus), cluster.gpus_per_node)
    )
    rule = f"No layout splits {global_batch} sequences over {cluster.gpus} GPUs in nodes of {cluster.gpus_per_node}"
    raise PlanError(f"{rule}: {global_batch} / data ranks has to be whole; nearest batch: {', '.join(map(str, near))}")
