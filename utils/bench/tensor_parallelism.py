"""Tensor parallelism by hand beside DTensor's `parallelize_module`: time of a training step on 4 ranks, in one run.

The classes are those of the lesson, taken from its notebook, so that what is timed is what is taught. One figure of one
run is a ratio: both kinds take turns on the same ranks, and the best of several steps counts.
"""
from __future__ import annotations

from collections.abc import Iterator

import nbformat

from utils.bench import Row
from utils.publish import ROOT

LESSON = next((ROOT / "notebooks").glob("*_tensor_parallelism.ipynb"))
CELLS = ("conjugate-code", "keep", "cut", "block-same-code", "vocabulary", "gpt", "steps", "trainer-code",
         "sequence-team", "sequence-code", "mesh", "plan", "parallelized")  # fmt: skip
REPEAT = 7
TIMED = """
import time
tokens, targets = model.batch(0, 16)
numbers = torch.Generator().manual_seed(0)
by_hand, dtensor = Trainer(model.SMALL, 0, "adamw"), Parallelized(model.SMALL, 0, "adamw")
by_hand_cut = Sequences(model.SMALL, 0, "adamw")
Parallelized.plan = plan(Shard(1))
dtensor_cut = Parallelized(model.SMALL, 0, "adamw")
took = {name: [] for name in ("by_hand", "dtensor", "by_hand_cut", "dtensor_cut")}
for turn in range(REPEAT + 1):
    for name, times in took.items():
        dist.barrier()
        begun = time.perf_counter()
        globals()[name].step(tokens, targets)
        if turn:
            times.append(time.perf_counter() - begun)
"""


def rows() -> Iterator[Row]:
    """Measure a step of each kind on the same ranks, taking turns."""
    from utils import ranks

    cells = {cell.id: cell.source for cell in nbformat.read(LESSON, as_version=4).cells}
    ranks.start(4, fresh=True)
    try:
        for name in CELLS:
            source = cells[name].partition("\n")[2]
            ranks.run("numbers = torch.Generator().manual_seed(0)\n" + source + "\nNone")
        ranks.run(TIMED.replace("REPEAT", str(REPEAT)))
        by_rank = ranks.gather("{name: min(times) for name, times in took.items()}")
    finally:
        ranks.stop()
    best = {name: max(times[name] for times in by_rank) for name in by_rank[0]}
    for what, hand, theirs in (("the stream copied", "by_hand", "dtensor"),
                               ("sequence parallelism", "by_hand_cut", "dtensor_cut")):  # fmt: skip
        values = {"by hand": f"{1000 * best[hand]:.0f} ms", "DTensor": f"{1000 * best[theirs]:.0f} ms",
                  "DTensor / by hand": f"{best[theirs] / best[hand]:.1f}"}  # fmt: skip
        yield Row(f"a step of tensor parallelism on 4 ranks, {what}", values)
