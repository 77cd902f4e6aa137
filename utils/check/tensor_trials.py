"""Try a function of the exercises on tensor parallelism on the ranks: what it returns, its gradients, what it sends.

A case says how many ranks take part (they are the whole world to the learner's function) and which sizes. `arguments`
gives what one rank is handed, `truth` what one worker gets of the whole. Numbers come from the case's own seed, so the
kernel and every rank know the same whole.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.check.verdict import NotYet

if TYPE_CHECKING:
    from torch import Tensor

CLOSE = 2e-4  # relative distance below which two tensors are the same


@dataclass(frozen=True)
class Case:
    """One trial on the first `n` ranks. `size` is cut over the ranks: hidden features, symbols, positions, or heads.

    shared: key-value heads (attention). large: logits of the size that overflows (loss).
    """

    task: str
    title: str
    n: int
    size: int
    shared: int = 0
    large: bool = False

    def spans(self) -> list[slice]:
        """Return by rank the part of `size` that it holds."""
        import torch

        edges = [0]
        for part in torch.arange(self.size).tensor_split(self.n):
            edges.append(edges[-1] + len(part))
        return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]

    def whole(self) -> dict[str, Tensor]:
        """Return the tensors of the whole, by name."""
        import torch

        numbers = torch.Generator().manual_seed(7 + self.size)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=numbers)

        if self.task == "perceptron":
            return {"x": normal(3, 5, 8), "up": normal(self.size, 8), "up_bias": normal(self.size),
                    "down": normal(8, self.size), "down_bias": normal(8), "upstream": normal(3, 5, 8)}
        if self.task == "loss":
            targets = torch.randint(0, self.size, (3, 6), generator=numbers)
            targets[targets >= self.spans()[-1].start] = 0  # no target of the last rank
            targets[1, 2], targets[2, 4:] = -100, -100
            return {"logits": normal(3, 6, self.size) * (400 if self.large else 3), "targets": targets}
        if self.task == "norm":
            return {"x": normal(2, self.size, 8) * 2, "weight": normal(8), "bias": normal(8),
                    "upstream": normal(self.n, 2, self.size, 8)}
        width = 8 * self.size
        kv = 8 * self.shared
        return {"x": normal(2, 6, width), "query": normal(width, width) / width**0.5 * 2,
                "key": normal(kv, width) / width**0.5 * 2, "value": normal(kv, width) / width**0.5,
                "output": normal(width, width) / width**0.5}

    def arguments(self, rank: int) -> dict[str, Any]:
        """Return what the learner's function gets on this rank, in its order; leaves ask for a gradient."""
        whole, mine = self.whole(), self.spans()[rank]
        upstream = whole.pop("upstream", None)
        del upstream
        given: dict[str, Any] = dict(whole)
        if self.task == "perceptron":
            given |= {"up": whole["up"][mine], "up_bias": whole["up_bias"][mine], "down": whole["down"][:, mine]}
        elif self.task == "loss":
            given = {"logits": whole["logits"][..., mine], "targets": whole["targets"], "first": mine.start}
        elif self.task == "norm":
            given |= {"x": whole["x"][:, mine], "positions": self.size}
        else:
            return given | {"heads": self.size, "kv_heads": self.shared}
        return {key: value.clone().requires_grad_() if hasattr(value, "is_floating_point") and
                value.is_floating_point() else value for key, value in given.items()}  # fmt: skip

    def upstream(self, rank: int) -> Any:
        """Return what the result is multiplied by before the backward pass: each rank uses the norm in its own way."""
        given = self.whole().get("upstream")
        return 1.0 if given is None else given[rank] if self.task == "norm" else given


@dataclass
class Seen:
    """What one rank brings back from a trial."""

    result: Any = None
    gradients: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, int]] = field(default_factory=list)  # operation, bytes handed over; forward pass
    calls_back: list[tuple[str, int]] = field(default_factory=list)
    kept: int = 0  # bytes kept for the backward pass
    flops: int = 0
    problem: str = ""

    def sent(self, back: bool | None = None) -> int:
        """Return the bytes handed over: forward, backward, or (None) both."""
        chosen = self.calls + self.calls_back if back is None else self.calls_back if back else self.calls
        return sum(size for _, size in chosen)


def run_case(name: str, case: Case) -> Seen | None:
    """Run the learner's function called `name` once on this rank; None on ranks that take no part."""
    import torch
    import torch.distributed as dist
    from torch.utils.flop_counter import FlopCounterMode

    from utils import ledger
    from utils.check.gradients import world_of
    from utils.ranks import engine

    namespace = engine.namespace()
    with world_of(case.n, namespace) as member:
        if not member:
            return None
        rank, seen = dist.get_rank(), Seen()
        given = case.arguments(rank)
        leaves = {key: t for key, t in given.items() if isinstance(t, torch.Tensor) and t.requires_grad}
        log = seen.calls
        stop = engine.on_call(lambda call: log.append((call.op, call.payload)))
        try:
            if leaves:
                with ledger.Meter(list(leaves.values())) as meter:
                    result = namespace[name](*given.values())
                seen.kept = meter.amounts["activations"]
            else:
                with FlopCounterMode(display=False) as counter:
                    result = namespace[name](*given.values())
                seen.flops = counter.get_total_flops()
            log = seen.calls_back
            seen.problem = _problem(result, bool(leaves))
            upstream = case.upstream(rank)
            # A result of another shape is judged by its shape; it cannot go back.
            if leaves and not seen.problem and result.shape == getattr(upstream, "shape", result.shape):
                (result * upstream).sum().backward()
        finally:
            stop()
    seen.result = result.detach().clone() if isinstance(result, torch.Tensor) else repr(result)[:60]
    seen.gradients = {key: None if t.grad is None else t.grad.clone() for key, t in leaves.items()}
    return seen


def _problem(result: Any, backward: bool) -> str:
    import torch

    if not isinstance(result, torch.Tensor):
        return "type"
    return "no way back" if backward and not result.requires_grad else ""


def trial(name: str, case: Case, stuck: str, uneven: str = "") -> list[Seen]:
    """Run one case. Raise NotYet with the hint `stuck` if the ranks wait for ever, `uneven` if shapes do not agree."""
    from utils import ranks

    try:
        return [one for one in ranks.call(run_case, name, case) if one is not None]
    except ranks.RanksError as error:
        unwritten = any(state.name == "NotImplementedError" for state in error.states.values())
        lines = str(error).splitlines()[:8]
        if not unwritten and error.cause in ("skipped", "order", "unmatched"):
            raise NotYet("deadlock", stuck, tried(case), *lines) from None
        if not unwritten and uneven and case.size % case.n and case.size > case.n:
            raise NotYet("messages" if error.cause == "mismatch" else "error", uneven, tried(case), *lines) from None
        if not unwritten and error.cause == "mismatch":
            raise NotYet("messages", stuck, tried(case), *lines) from None
        raise


def tried(case: Case) -> str:
    """Say what was tried."""
    return f"Tried: {case.title}."


def truth(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what one worker gets: the result, and gradients of the whole by name."""
    import torch
    import torch.nn.functional as F

    whole = case.whole()
    upstream = whole.pop("upstream", None)
    leaves = {key: t.requires_grad_() for key, t in whole.items() if t.is_floating_point()}
    if case.task == "perceptron":
        y = F.linear(F.gelu(F.linear(whole["x"], whole["up"], whole["up_bias"])), whole["down"], whole["down_bias"])
    elif case.task == "loss":
        y = F.cross_entropy(whole["logits"].flatten(0, 1), whole["targets"].flatten(), ignore_index=-100)
    elif case.task == "norm":
        y = F.layer_norm(whole["x"], (8,), whole["weight"], whole["bias"])
    else:
        with torch.no_grad():
            return attention(case), {}
    weight: Any = 1.0 if upstream is None else upstream.sum(0) if case.task == "norm" else upstream
    (y * weight).sum().backward()
    return y.detach(), {key: t.grad for key, t in leaves.items() if t.grad is not None}


def attention(case: Case, group: str = "neighbours", causal: bool = True, scale: float | None = None,
              without: Sequence[int] = ()) -> Tensor:  # fmt: skip
    """Return attention of the whole; the other arguments make known mistakes."""
    import torch
    import torch.nn.functional as F

    whole, heads, kv = case.whole(), case.size, case.shared
    of = [h // (heads // kv) if group == "neighbours" else h % kv for h in range(heads)]
    q, k, v = (F.linear(whole["x"], whole[key]).unflatten(-1, (-1, 8)).transpose(1, 2)
               for key in ("query", "key", "value"))  # fmt: skip
    mixed = F.scaled_dot_product_attention(q, k[:, of], v[:, of], is_causal=causal, scale=scale)
    for head in without:
        mixed[:, head] = 0
    return F.linear(torch.cat(list(mixed.unbind(1)), -1), whole["output"])


def pieces(case: Case, name: str, whole: Tensor) -> list[Tensor]:
    """Cut the gradient of an argument as the argument itself was cut: by rank."""
    cut = {("perceptron", "up"): 0, ("perceptron", "up_bias"): 0, ("perceptron", "down"): 1, ("loss", "logits"): 2,
           ("norm", "x"): 1}.get((case.task, name))  # fmt: skip
    if cut is None:
        return [whole] * case.n
    return [whole.narrow(cut, span.start, span.stop - span.start) for span in case.spans()]


def off(found: Any, expected: Tensor) -> float:
    """Return the relative distance; infinite for another shape, nothing, or what is not a number."""
    if found is None or isinstance(found, str) or found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    distance = float((found.double() - expected.double()).norm()) / max(float(expected.double().norm()), 1e-9)
    return distance if distance == distance else float("inf")


def same(found: Sequence[Any], expected: Sequence[Tensor]) -> bool:
    """Tell whether every rank holds what it should."""
    return all(off(one, right) <= CLOSE for one, right in zip(found, expected, strict=True))


def gradients_off(case: Case, seen: Sequence[Seen], right: Mapping[str, Tensor]) -> str | None:
    """Name the first argument whose gradient is wrong on some rank."""
    for name, gradient in right.items():
        if not same([one.gradients.get(name) for one in seen], pieces(case, name, gradient)):
            return name
    return None
