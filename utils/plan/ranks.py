"""Which ranks form which group."""

from __future__ import annotations

from dataclasses import dataclass

from utils.plan.layout import Layout
from utils.plan.refuse import divides, one_of

ORDER = (
    "tensor",
    "context",
    "data",
    "pipeline",
)  # from neighbours to farthest apart, as Megatron-LM and nanotron place them


@dataclass(frozen=True)
class Ranks:
    """Hold the groups of a layout: for each direction, the lists of ranks that form a group.

    expert: ranks that hold different experts of one model copy; expert_data: ranks that hold the same experts, whose
    gradients are summed. replica: data and context ranks together, over which all other gradients are summed.
    """

    layout: Layout
    groups: dict[str, list[list[int]]]

    def __getitem__(self, direction: str) -> list[list[int]]:
        """Give the groups of a direction."""
        one_of("direction", direction, self.groups)
        return self.groups[direction]

    def of(self, rank: int) -> dict[str, list[int]]:
        """Give the group that a rank is in, for each direction."""
        return {name: next(g for g in groups if rank in g) for name, groups in self.groups.items()}

    def place(self, rank: int) -> dict[str, int]:
        """Give a rank's place in each direction."""
        return {name: group.index(rank) for name, group in self.of(rank).items()}

    def __str__(self) -> str:
        """Write the table: a line for each direction, long lists cut."""
        lines = []
        for name, groups in self.groups.items():
            shown = "  ".join(_short(group) for group in groups[:4])
            lines.append(
                f"{name:12} {len(groups):>5} x {len(groups[0]):<4} {shown}{'  ...' if len(groups) > 4 else ''}"
            )
        return "\n".join(lines)


def _short(group: list[int]) -> str:
    return str(group) if len(group) <= 8 else f"[{group[0]}, {group[1]}, ..., {group[-1]}]"


def ranks(layout: Layout) -> Ranks:
    """List the groups of a layout: tensor ranks next to each other, then context, data, and pipeline farthest apart."""
    if layout.expert > 1:
        rule = "Expert ranks are carved out of data x context ranks, and have to divide them"
        divides(layout.expert, layout.data * layout.context, rule)
    sizes = {name: getattr(layout, name) for name in ORDER}
    strides, stride = {}, 1
    for name in ORDER:
        strides[name] = stride
        stride *= sizes[name]
    found = {name: _strided(strides[name], sizes[name], stride) for name in ORDER}
    copies = _strided(strides["context"], layout.context * layout.data, stride)
    found["replica"] = copies
    if layout.expert > 1:
        e = layout.expert
        found["expert"] = [copy[i : i + e] for copy in copies for i in range(0, len(copy), e)]
        found["expert_data"] = [copy[i::e] for copy in copies for i in range(e)]
    return Ranks(layout, found)


def _strided(stride: int, size: int, world: int) -> list[list[int]]:
    """List the groups of `size` ranks that stand `stride` apart."""
    firsts = (r for r in range(world) if r // stride % size == 0)
    return [[first + i * stride for i in range(size)] for first in firsts]
