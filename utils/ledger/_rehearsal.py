"""What one process would send on ranks that are only pretended: calls and elements, from PyTorch's dispatcher."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

NAMES = {"_allgather_base_": "all_gather_single", "_reduce_scatter_base_": "reduce_scatter_single",
         "allreduce_": "all_reduce", "broadcast_": "broadcast"}
NAMES |= {"all_gather_into_tensor": "all_gather_single", "reduce_scatter_tensor": "reduce_scatter_single"}


@dataclass
class Rehearsed:
    """Elements of the larger side of each call (what a gather fills, what a reduction takes in), by operation."""

    elements: dict[str, list[int]] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Count the calls of all operations."""
        return sum(map(len, self.elements.values()))


class Rehearsal(TorchDispatchMode):
    """Count the collectives of a block in this process, whose process group may be a fake one:

        with ledger.Rehearsal() as seen:
            train_step()
        seen.elements["all_gather_single"]        # a number for each call
    """

    def __enter__(self) -> Rehearsed:  # type: ignore[override]
        super().__enter__()
        self.seen = Rehearsed()
        return self.seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        functional = func.namespace == "_c10d_functional" and name != "wait_tensor" and name[0] != "_"
        if func.namespace == "c10d" or functional:
            sizes = [tensor.numel() for tensor in _tensors((args[:2], result))]
            self.seen.elements.setdefault(NAMES.get(name, name), []).append(max(sizes, default=0))
        return result


def _tensors(value: Any) -> list[Any]:
    if hasattr(value, "numel"):
        return [value]
    return [t for item in value for t in _tensors(item)] if isinstance(value, (list, tuple)) else []
