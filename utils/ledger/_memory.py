"""What a rank, or this process, holds in memory: parameters, gradients, optimizer state, activations.

Bytes are those of storages, each counted once however many tensors look into it: tied weights weigh once, a view
weighs its whole storage. The kinds are found by what a tensor is, not by asking who holds it:

    parameters       nn.Parameters, and other leaf tensors that ask for a gradient; of a DTensor its local shard
    gathered         what parameters take beyond that while a step runs, at its greatest: shards put together for use
    gradients        the `.grad` of those; while a step runs, their greatest sum
    optimizer state  tensors in the state of torch's optimizers
    activations      what autograd saves on the way forward for the way back, parameters and the tokens aside: its
                     greatest sum while a step runs (torch.autograd.graph.saved_tensors_hooks)
    other            all other tensors that can be reached: buffers, batches, the state of an optimizer of your own

Not seen: tensors that only C++ holds (DDP's buckets, as large as the gradients), temporaries of a single operation, the
interpreter itself.
"""
from __future__ import annotations

import contextlib
import gc
import types
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.ledger._book import amount, table
from utils.ledger._count import quiet

if TYPE_CHECKING:
    import torch

KINDS = ("parameters", "gathered", "gradients", "optimizer_state", "activations", "other")
Amounts = dict[str, int]


@dataclass(frozen=True)
class Memory:
    """What is held, in bytes by kind and rank: `held.parameters[rank]`. In a single process lists have one entry."""

    parameters: list[int]
    gathered: list[int]
    gradients: list[int]
    optimizer_state: list[int]
    activations: list[int]
    other: list[int] = field(default_factory=list)

    @property
    def total(self) -> list[int]:
        """Add up the kinds, by rank."""
        return [sum(values) for values in zip(*(getattr(self, kind) for kind in KINDS), strict=True)]

    @classmethod
    def of(cls, by_rank: list[Amounts]) -> Memory:
        """Put together what the ranks have counted."""
        return cls(**{kind: [amounts[kind] for amounts in by_rank] for kind in KINDS})

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        count = len(self.parameters)
        head = ("kind", *(["bytes"] if count == 1 else [f"rank {r}" for r in range(count)]))
        kinds = [kind for kind in (*KINDS, "total") if kind != "gathered" or any(self.gathered)]
        rows = [(kind.replace("_", " "), *(amount(v) for v in getattr(self, kind))) for kind in kinds]
        return table(head, rows)

    def __repr__(self) -> str:
        return self._repr_mimebundle_()["text/plain"]


# ------------------------------------------------------------------------------------------------- what can be reached


# What leads nowhere, or everywhere: modules, classes and frames hold the whole program.
SKIPPED = (types.ModuleType, type, types.FrameType, types.CodeType, str, bytes, int, float, type(None))


def _reached(roots: Iterable[Any]) -> Iterator[Any]:
    """Walk through all that the roots hold: attributes, containers, what closures keep; not modules or classes."""
    import torch

    queue, seen = list(roots), set()
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, SKIPPED):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, torch.Tensor):
            queue += [thing.grad] if thing.is_leaf and thing.grad is not None else []
        elif isinstance(thing, types.FunctionType):
            queue += [*(thing.__closure__ or ()), *(thing.__defaults__ or ())]  # not its globals: that is everything
        elif isinstance(thing, types.MethodType):
            queue.append(thing.__self__)
        else:
            queue += gc.get_referents(thing)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Give the tensor that this process holds: of a DTensor its shard."""
    return getattr(tensor, "_local_tensor", tensor)


def _storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Give the bytes of the storages of these tensors, by address: each once."""
    found: dict[int, int] = {}
    for tensor in tensors:
        storage = _local(tensor).untyped_storage() if not tensor.is_meta else None
        if storage is not None and storage.nbytes():
            found[storage.data_ptr()] = storage.nbytes()
    return found


def _by_kind(roots: Iterable[Any]) -> dict[str, dict[int, int]]:
    """Sort the storages that can be reached by kind; one that is several kinds counts as the first of them."""
    import torch

    things = list(_reached(roots))
    tensors = [t for t in things if isinstance(t, torch.Tensor)]
    owners = [t for t in tensors if isinstance(t, torch.nn.Parameter) or t.is_leaf and t.requires_grad]
    states = [o.state for o in things if isinstance(o, torch.optim.Optimizer)]
    kinds = {
        "parameters": _storages(owners),
        "gradients": _storages(t.grad for t in owners if t.grad is not None),
        "optimizer_state": _storages(t for t in _reached(states) if isinstance(t, torch.Tensor)
                                     and not any(t is o for o in owners)),
        "other": _storages(tensors),
    }
    taken: set[int] = set()
    for found in kinds.values():
        for address in taken & set(found):
            del found[address]
        taken |= set(found)
    return kinds


# ----------------------------------------------------------------------------------------------------- while it runs


class _Level:
    """The bytes of live storages, and their greatest sum."""

    def __init__(self) -> None:
        self.live: dict[int, int] = {}
        self.now = self.peak = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor until nothing holds it any more."""
        storage = _local(tensor).untyped_storage()
        address = storage.data_ptr()
        if address in self.live or not storage.nbytes():
            return
        self.live[address] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, address)

    def _drop(self, address: int) -> None:
        self.now -= self.live.pop(address, 0)


class Meter:
    """Measure, in this process, what is held while a block runs:

        with ledger.Meter(model, optimizer) as meter:
            train_step()
        meter.memory                       # a Memory with one entry a kind

    roots: objects that hold the parameters (a model, a trainer, a list of both).
    """

    def __init__(self, *roots: Any) -> None:
        self.roots = roots
        self.memory: Memory | None = None
        self.amounts: Amounts = {}

    def __enter__(self) -> Meter:
        import torch

        self._saved = _Level()
        self._most = {"parameters": 0, "gradients": 0}
        kinds = _by_kind(self.roots)
        # What was there before is no activation, and neither is a token: whole numbers have no gradient.
        known = {address for kind in ("parameters", "optimizer_state") for address in kinds[kind]}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
                self._look()  # a weight, or a view of one: held already, or gathered for this use
            elif tensor.is_floating_point() and _local(tensor).untyped_storage().data_ptr() not in known:
                self._saved.add(tensor)
            return tensor.detach()  # an output saved by its own operation must not hold itself

        owners = [t for t in _reached(self.roots) if isinstance(t, torch.Tensor) and t.is_leaf and t.requires_grad]
        self._owners = owners
        self._look()
        self._handles = [owner.register_post_accumulate_grad_hook(self._accumulated) for owner in owners]
        for owner in owners:  # look before other hooks take a gradient away: C++ calls them as they were inserted
            hooks: Any = owner._post_accumulate_grad_hooks
            *others, ours = hooks.items()
            hooks.clear()
            hooks.update([ours, *others])
        self._hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def _accumulated(self, owner: torch.Tensor) -> None:
        self._look()

    def _look(self) -> None:
        """Note what parameters and gradients take now, if it is more than ever before."""
        now = {"parameters": self._owners, "gradients": [o.grad for o in self._owners if o.grad is not None]}
        for kind, tensors in now.items():
            self._most[kind] = max(self._most[kind], sum(_storages(tensors).values()))

    def __exit__(self, *problem: Any) -> None:
        self._hooks.__exit__(*problem)
        for handle in self._handles:
            handle.remove()
        kinds = _by_kind(self.roots)
        self.amounts = {kind: sum(found.values()) for kind, found in kinds.items()}
        self.amounts["gathered"] = max(0, self._most["parameters"] - self.amounts["parameters"])
        self.amounts["gradients"] = max(self.amounts["gradients"], self._most["gradients"])
        self.amounts["activations"] = self._saved.peak
        self.memory = Memory.of([self.amounts])


def held(*roots: Any) -> Memory:
    """Count what these objects hold now in this process (no activations: nothing runs)."""
    with Meter(*roots) as meter:
        pass
    assert meter.memory is not None
    return meter.memory


# ---------------------------------------------------------------------------------------------------------- on ranks


class _Running:
    meter: Meter | None = None


def begin(of: str) -> None:
    """Begin to measure, on a rank, what the value of an expression holds."""
    from utils.ranks import engine

    _Running.meter = Meter(eval(of, engine.namespace()))
    _Running.meter.__enter__()


def end() -> Amounts:
    """End measuring on this rank."""
    meter, _Running.meter = _Running.meter, None
    if meter is None:
        return dict.fromkeys(KINDS, 0)
    meter.__exit__(None, None, None)
    return meter.amounts


def memory(of: str, during: str = "", on: int | Iterable[int] | None = None) -> Memory:
    """Count what each rank holds, by kind, while it runs the source `during` ("": as it is now).

    of: an expression on the ranks whose value holds what is counted: "trainer", or "model, optimizer".
    Raises RanksError, after the ranks have explained it, if either fails.
    """
    from utils import ranks

    ranks.call(begin, of, on=on)
    try:
        if during:
            ranks.run(quiet(during), on=on)
    except BaseException:
        with contextlib.suppress(ranks.RanksError):  # a rank that is gone has nothing to end
            ranks.call(end, on=on)
        raise
    return Memory.of(ranks.call(end, on=on))
