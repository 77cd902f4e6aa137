"""A pipeline schedule as data: build one, check it, simulate it, run it.

>>> from utils import schedule
>>> s = schedule.build("1f1b", stages=4, micro_batches=8)
>>> schedule.check(s)
>>> schedule.simulate(s, forward=1, backward_input=1, backward_weight=1).bubble

On ranks, `done = schedule.run(s, part, (tokens, targets))` does the same actions with real messages. Back in the
kernel `schedule.recorded(s, ranks.gather("done"))` says when each was done, and `schedule.replay(...)` how it would
have gone with a processor for every rank.

A schedule says, for every rank, which actions it does in which order; what is sent and received follows from that. An
action is written as PyTorch writes it: stage, kind, micro-batch. `2F5` is the forward of stage 2 on micro-batch 5.
Kinds: `F` forward, `I` backward for the inputs, `W` backward for the weights, `B` both of them at once.
"""

from utils.schedule.actions import Action, Schedule, ScheduleError
from utils.schedule.build import NAMES, build
from utils.schedule.check import check
from utils.schedule.run import Record, Run, run
from utils.schedule.simulate import Simulation, recorded, replay, simulate

__all__ = [
    "NAMES", "Action", "Record", "Run", "Schedule", "ScheduleError", "Simulation", "build", "check", "recorded",
    "replay", "run", "simulate",
]  # fmt: skip
