"""What is left of a cluster's time once it fails: how often to save, and what that costs.

With one failure every M seconds and saves of C seconds each, an interval T between saves loses C / T to saving, and
after a failure half an interval and the restart R. Young (CACM 17, 1974): the least loss is at T = sqrt(2 C M). Daly
(FGCS 22, 2006) adds the next terms, for saves that are not short against M.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from utils.plan.model import Model
from utils.plan.refuse import PlanError

# Llama 3 405B: 419 interruptions in 54 days on 16,384 GPUs (arXiv:2407.21783, section 3.3.4).
LLAMA3_HOURS_BETWEEN_FAILURES_OF_A_GPU = 16384 * 54 * 24 / 419


def checkpoint_bytes(model: Model, each: float = 14) -> float:
    """Count the bytes of a checkpoint: parameters in 16 bits and Adam's three states in 32, 14 bytes each (BLOOM: 2.3
    TB).
    """
    return model.parameters * each


def failure_seconds(gpus: int, hours_of_one: float = LLAMA3_HOURS_BETWEEN_FAILURES_OF_A_GPU) -> float:
    """Give the mean seconds between failures of a job: a GPU's, divided by how many there are."""
    return hours_of_one * 3600 / gpus


def young(save: float, between: float) -> float:
    """Give Young's interval between saves, in seconds: sqrt(2 C M)."""
    return sqrt(2 * save * between)


def daly(save: float, between: float) -> float:
    """Give Daly's interval between saves, in seconds; M where a save takes more than 2 M."""
    if save >= 2 * between:
        return between
    ratio = save / (2 * between)
    return sqrt(2 * save * between) * (1 + sqrt(ratio) / 3 + ratio / 9) - save


@dataclass(frozen=True)
class Goodput:
    """Hold how much of the time trains. save, between, restart, interval: seconds."""

    save: float
    between: float
    restart: float
    interval: float

    @property
    def saving(self) -> float:
        """Give the share of time spent saving."""
        return self.save / (self.interval + self.save)

    @property
    def losing(self) -> float:
        """Give the share of time lost to failures: the restart, and half an interval of work done again."""
        return min(1.0, (self.restart + (self.interval + self.save) / 2) / self.between)

    @property
    def share(self) -> float:
        """Give the share of time that trains."""
        return (1 - self.saving) * (1 - self.losing)


def goodput(
    model: Model,
    gpus: int,
    write: float,
    restart: float = 600,
    interval: float | None = None,
    hours_of_one: float = LLAMA3_HOURS_BETWEEN_FAILURES_OF_A_GPU,
) -> Goodput:
    """Give the share of time that trains. write: bytes/s to storage of the whole job; interval: Daly's if not given."""
    if write <= 0:
        raise PlanError(f"A checkpoint has to be written at some speed: write = {write:g} bytes/s; nearest: above 0")
    save, between = checkpoint_bytes(model) / write, failure_seconds(gpus, hours_of_one)
    return Goodput(save, between, restart, daly(save, between) if interval is None else interval)
