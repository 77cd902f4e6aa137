"""The reducer that the lesson inside DDP builds, beside DistributedDataParallel: time of a step on 4 ranks.

The code that is measured is the lesson's own: the cells of its notebook that define the two trainers. Both take steps
in turn in one run, since two runs cannot be compared.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator

from utils.bench import Row

LESSON = "05_inside_ddp"
NAMES = ("buckets_of", "Packing", "Reducer", "Worker", "Trainer", "WithDDP")
MOST = 1.25
RUNS = 3  # the median of a run is taken; the best of the runs counts, for a neighbour's work only ever disturbs


def cells() -> list[str]:
    """Return the lesson's cells, without their magic, that define `NAMES`, in their order."""
    import nbformat

    from utils.publish import ROOT

    sources = [cell.source for cell in nbformat.read(ROOT / "notebooks" / f"{LESSON}.ipynb", as_version=4).cells]
    wanted = re.compile(rf"^(?:def|class) (?:{'|'.join(NAMES)})\b", re.MULTILINE)
    return [source.removeprefix("%%ranks\n") for source in sources if source.startswith("%%ranks\n")
            and wanted.search(source)]  # fmt: skip


def ratios() -> list[float]:
    """Measure, on four fresh ranks, how long a hand-built step takes as a ratio to DDP's: one median a run."""
    from utils import ranks

    with contextlib.redirect_stdout(io.StringIO()):
        ranks.start(4, fresh=True)
        try:
            ranks.run("from utils import model\nfrom utils.figures.inside_ddp import side_by_side\n"
                      "net = model.GPT(model.Config(), seed=0)")  # fmt: skip
            for source in cells():
                ranks.run(source)
            ranks.run("for _ in range(3):\n    hand.step(*batch), ddp.step(*batch)")  # DDP settles its buckets
            return [ranks.gather("side_by_side(hand, ddp, batch, pairs=15)")[0] for _ in range(RUNS)]
        finally:
            ranks.stop()


def rows() -> Iterator[Row]:
    """Measure the ratio."""
    found = ratios()
    texts = {"hand-built / DDP": ", ".join(f"{ratio:.2f}" for ratio in found)}
    yield Row("a step with the lesson's reducer, 4 ranks", texts, f"{MOST} times DDP's", min(found) <= MOST)
