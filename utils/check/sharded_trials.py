"""Trials of the exercises on sharded data parallelism on the first n ranks, and what one worker would get."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.check.gradients import world_of
from utils.check.sharded_mistakes import HINTS
from utils.check.verdict import NotYet

if TYPE_CHECKING:
    from torch import Tensor

RATE, MOMENTUM = 0.1, 0.9
NORMS = (  # ranks, numbers of shards by rank (0: none; a None stands among them), replicated tensors
    (4, (2, 2, 2, 2), 0), (4, (2, 2, 2, 2), 2), (3, (2, 2, 2), 1), (4, (3, 1, 2, 0), 1),
)  # fmt: skip


@dataclass
class Seen:
    """What one rank brings back from a trial."""

    returned: Any = None
    tensors: list[Tensor] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)  # operation, bytes handed over
    most: int = 0  # blocks whose parameters were there at once
    ahead: bool = False  # rows were gathered before the block in front of them had computed
    kept: int = 0  # blocks whose parameters are there at the end
    levels: list[int] = field(default_factory=list)  # elements of parameters as blocks begin and end, and at the end
    state: int = -1  # elements in the tensors of `state`

    def volume(self, n: int) -> int:
        """Return the bytes that go round, a whole row for each pass: n times what is handed to a gather."""
        passes = {"all_reduce": 2, "all_gather": n, "all_gather_single": n, "gather": n, "broadcast": 1}
        return sum(size * passes.get(op, 1) for op, size in self.calls)


def trial(function: Callable[..., Seen | None], deadlock: str, *args: Any) -> list[Seen]:
    """Call a trial on the ranks. Raise NotYet, with the usual cause here, if they wait for each other for ever."""
    from utils import ranks

    try:
        return [one for one in ranks.call(function, *args) if one is not None]
    except ranks.RanksError as error:
        unwritten = any(state.name == "NotImplementedError" for state in error.states.values())
        if unwritten or error.cause not in ("skipped", "order", "unmatched", "mismatch"):
            raise
        raise NotYet("deadlock", HINTS[deadlock], *str(error).splitlines()[:8]) from None


def draw(*shape: int, seed: int) -> Tensor:
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_steps(name: str, n: int, length: int, steps: int) -> Seen | None:
    """Run the learner's step on this rank some times; None on ranks that take no part."""
    import torch.distributed as dist
    from torch.utils._pytree import tree_leaves

    from utils.ranks import engine

    namespace, seen = engine.namespace(), Seen()
    with world_of(n, namespace) as member:
        if not member:
            return None
        row, state = draw(length, seed=1), dict[str, Any]()
        stop = engine.on_call(lambda call: seen.calls.append((call.op, call.payload)))
        try:
            for step in range(steps):
                gradient = draw(length, seed=10 * step + dist.get_rank() + 2)
                namespace[name](row, gradient, state, RATE, MOMENTUM)
                seen.tensors.append(row.clone())
        finally:
            stop()
    seen.state = sum(leaf.numel() for leaf in tree_leaves(state) if hasattr(leaf, "numel"))
    return seen


def descend(n: int, length: int, steps: int) -> list[Tensor]:
    """Take the steps of one worker; return the row after each."""
    import torch

    row, momentum, rows = draw(length, seed=1), torch.zeros(length), []
    for step in range(steps):
        each = torch.stack([draw(length, seed=10 * step + rank + 2) for rank in range(n)])
        momentum = MOMENTUM * momentum + each.mean(0)
        row = row - RATE * momentum
        rows.append(row)
    return rows


def blocks_and_rows(count: int, n: int) -> tuple[Any, list[Tensor]]:
    """Build some blocks of the model, and the flat row of each, padded for n ranks."""
    import torch

    from utils import model

    config = model.Config(layers=count, width=16 + 2 * (n == 3), heads=2, context=8)
    blocks = list(model.GPT(config, seed=5).blocks.values())
    rows = []
    for block in blocks:
        row = torch.cat([p.detach().flatten() for p in block.parameters()])
        row = row + 0.01 * draw(len(row), seed=3)  # biases are no zeros, so that a wrong place shows
        rows.append(torch.nn.functional.pad(row, (0, -len(row) % n)))
    return blocks, rows


def fill(block: Any, row: Tensor, shapes: dict[str, Any]) -> None:
    """Give a block the parameters of a row."""
    start = 0
    for name, parameter in block.named_parameters():
        parameter.data = row[start : start + shapes[name].numel()].view(shapes[name])
        start += shapes[name].numel()


def inputs(rank: int, sizes: Sequence[int], width: int) -> Tensor:
    """Draw the sequences of one rank, [sequences, positions, width]."""
    return draw(sizes[rank], 8, width, seed=20 + rank)


def run_blocks(name: str, n: int, count: int, sizes: Sequence[int]) -> Seen | None:
    """Run the learner's forward pass on this rank; None on ranks that take no part."""
    import torch
    import torch.distributed as dist

    from utils.ranks import engine

    namespace, seen = engine.namespace(), Seen()
    with world_of(n, namespace) as member:
        if not member:
            return None
        rank, (blocks, rows) = dist.get_rank(), blocks_and_rows(count, n)
        shapes = {key: parameter.shape for key, parameter in blocks[0].named_parameters()}
        shards = [row.chunk(n)[rank].clone() for row in rows]
        before = [shard.clone() for shard in shards]

        def there() -> int:
            return sum(any(p.numel() for p in block.parameters()) for block in blocks)

        def look(*_: Any) -> None:
            seen.most = max(seen.most, there())
            seen.levels.append(sum(p.numel() for block in blocks for p in block.parameters()))

        for block in blocks:
            for parameter in block.parameters():
                parameter.data = torch.empty(0)
            block.register_forward_pre_hook(look)
            block.register_forward_hook(look)
            block.register_forward_hook(lambda block, *_: computed.append(block))

        computed: list[Any] = []

        def called(call: Any) -> None:
            seen.calls.append((call.op, call.payload))
            gathered = sum(n * size for op, size in seen.calls if op.startswith("all_gather"))
            # A rank without sequences need not call its blocks, so they tell nothing there.
            seen.ahead |= bool(sizes[rank]) and gathered > (len(computed) + 1) * rows[0].nbytes
            look()

        x = inputs(rank, sizes, blocks[0].norm1.normalized_shape[0])
        stop = engine.on_call(called)
        try:
            with torch.no_grad():
                seen.returned = namespace[name](blocks, shards, shapes, x)
        finally:
            stop()
    look()
    seen.kept = there()
    seen.tensors = [torch.tensor([float(not a.equal(b)) for a, b in zip(shards, before, strict=True)])]
    return seen


def forward(count: int, n: int, x: Tensor, last_goes_back: bool = False) -> Tensor:
    """Give the true output, or the one where the last rank gathers the blocks in the reverse order."""
    import torch

    blocks, rows = blocks_and_rows(count, n)
    shapes = {key: parameter.shape for key, parameter in blocks[0].named_parameters()}
    with torch.no_grad():
        for i, block in enumerate(blocks):
            given = [i] * (n - 1) + [count - 1 - i if last_goes_back else i]  # by rank, whose shard it hands in
            fill(block, torch.cat([rows[owner].chunk(n)[rank] for rank, owner in enumerate(given)]), shapes)
            x = block(x)
    return x


def parts_of_norm(rank: int, counts: Sequence[int], copies: int) -> tuple[list[Any], list[Tensor]]:
    """Draw the shards that a rank holds (a parameter without gradient among them), and the replicated gradients."""
    shards: list[Any] = [draw(5 + rank, 3, seed=100 * rank + i) for i in range(counts[rank])]
    return [*shards, None], [draw(7, seed=900 + i) for i in range(copies)]


def run_norm(name: str, n: int, counts: Sequence[int], copies: int) -> Seen | None:
    """Run the learner's norm on this rank; None on ranks that take no part."""
    import torch.distributed as dist

    from utils.ranks import engine

    namespace, seen = engine.namespace(), Seen()
    with world_of(n, namespace) as member:
        if not member:
            return None
        stop = engine.on_call(lambda call: seen.calls.append((call.op, call.payload)))
        try:
            value = namespace[name](*parts_of_norm(dist.get_rank(), counts, copies))
        finally:
            stop()
    seen.returned = float(value)
    return seen
