"""ZeRO-3 as the lesson builds it beside PyTorch's `fully_shard`: time of a step, on the same ranks in one run.

The classes are those of the lesson: its cells are read from the notebook and run on four ranks. The steps of both take
turns, so that a neighbour's work falls on both.
"""

from __future__ import annotations

import contextlib
import io
import statistics
from collections.abc import Iterator

from utils.bench import Row
from utils.publish import ROOT

LESSON = next((ROOT / "notebooks").glob("*_sharded_data_parallelism.ipynb"))
CELLS = ("replica", "copies", "unit", "zero-1-class", "zero-2-class", "freed", "zero-3-class", "prefetch-class",
         "fsdp-class")
KINDS = {"Zero3": "by hand", "Prefetch": "by hand, ahead", "Fsdp": "fully_shard"}
TIMED = """
import time
trainers, batch = {kind: globals()[kind](model.Config(), 0, "adamw") for kind in KINDS}, model.batch(0, 8)
times = {kind: [] for kind in KINDS}
for turn in range(TURNS):
    for kind, trainer in trainers.items():
        dist.barrier()
        begun = time.perf_counter()
        trainer.step(*batch)
        if turn >= 3:                     # the first ones warm up
            times[kind].append(time.perf_counter() - begun)
"""


def sources() -> list[str]:
    """Return what the lesson's cells that define its trainers hold, in their order."""
    import nbformat

    by_id = {cell.id: cell.source for cell in nbformat.read(LESSON, as_version=4).cells}
    return [by_id[name].removeprefix("%%ranks\n") for name in CELLS]


def measured(turns: int = 30) -> dict[str, list[float]]:
    """Return the seconds of every step on rank 0, by class."""
    from utils import ranks

    with contextlib.redirect_stdout(io.StringIO()):
        ranks.start(4, fresh=True)
        try:
            for source in sources():
                ranks.run(source)
            ranks.run(TIMED.replace("KINDS", repr(list(KINDS))).replace("TURNS", str(turns + 3)))
            return dict(ranks.gather("times")[0])
        finally:
            ranks.stop()


def rows() -> Iterator[Row]:
    """Measure a step of each, and how long it takes in steps of `fully_shard`."""
    times = {kind: statistics.median(seconds) for kind, seconds in measured().items()}
    yield Row("a step of ZeRO-3, 4 ranks", {KINDS[kind]: f"{1000 * time:.0f} ms" for kind, time in times.items()})
    yield Row("the same, in steps of fully_shard", {KINDS[kind]: f"{time / times['Fsdp']:.2f}"
                                                    for kind, time in times.items()})
