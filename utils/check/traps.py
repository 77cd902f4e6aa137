"""Fixtures that are traps on purpose: each lets one classic mistake show that an ordinary training would forgive."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils import model

if TYPE_CHECKING:
    import torch

TRAPS = {
    "seeds": "each rank starts from a seed of its own; rank 0's is the one that counts",
    "tied": "the output weights are the token embedding",
    "frozen": "one parameter, `position.weight`, is not trained",
    "uneven": "batches, context and vocabulary do not divide by the number of ranks",
    "clip": "the gradient of the whole model is clipped (config.clip)",
    "tokens": "sequences hold unequal numbers of targets; the others are -100 and do not count",
}
SMALL = model.Config(layers=6, width=32, heads=4, context=32)
CLIP = 0.25  # below the gradient's norm at every step of a check; same_training looks


@dataclass(frozen=True)
class Fixture:
    """What is trained: a configuration, the seed of each rank, and the batch of each step."""

    config: model.Config
    seeds: list[int]
    sizes: list[int]  # sequences, by step
    tokens: bool
    seed: int

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the batch of a step: tokens and targets, [sequences, context]."""
        tokens, targets = model.batch(step, self.sizes[step], self.config.context, seed=self.seed)
        if self.tokens:
            for row in range(len(targets)):  # later sequences are shorter, so that every way to share them is unequal
                kept = max(1, self.config.context * (len(targets) - row) // len(targets))
                targets[row, kept:] = -100
        return tokens, targets


def named(traps: str | Iterable[str]) -> list[str]:
    """Give the names of the chosen traps in their order. Raises ValueError for a name that is none."""
    chosen = list(TRAPS) if traps == "all" else [traps] if isinstance(traps, str) else list(traps)
    unknown = [trap for trap in chosen if trap not in TRAPS]
    if unknown:
        raise ValueError(f'there is no trap {unknown[0]!r}; there are {", ".join(TRAPS)}, or "all"')
    return [trap for trap in TRAPS if trap in chosen]


def fixture(
    traps: Iterable[str], world_size: int, steps: int, config: model.Config | None = None, sequences: int | None = None
) -> Fixture:
    """Make the fixture of these traps for so many ranks; without any it is as forgiving as can be."""
    traps, seed = set(traps), 11
    config = SMALL if config is None else config
    changes: dict[str, object] = {"tied": "tied" in traps, "clip": CLIP if "clip" in traps else None}
    changes["frozen"] = ("position.weight",) if "frozen" in traps else ()
    size = sequences or 3 * world_size
    sizes = [size] * steps
    if "uneven" in traps:
        changes |= {"context": config.context - 1, "vocab": config.vocab + 1}
        odd = [n for n in range(size - 1, size + 2 * world_size) if n % world_size] or [size, size + 1]
        sizes = [odd[step % len(odd)] for step in range(steps)]
    config = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
    seeds = [seed + (100 * rank if "seeds" in traps else 0) for rank in range(world_size)]
    return Fixture(config, seeds, sizes, "tokens" in traps, seed)
