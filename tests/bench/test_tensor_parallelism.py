"""The bench of tensor parallelism takes its code from the lesson: what it names is there and defines what it times."""

import re

import nbformat

from utils import bench
from utils.bench import tensor_parallelism as bench_tensor


def test_the_cells_it_names_define_what_it_times():
    cells = {cell.id: cell.source for cell in nbformat.read(bench_tensor.LESSON, as_version=4).cells}
    taken = [cells[name] for name in bench_tensor.CELLS]
    assert all(source.startswith("%%ranks\n") for source in taken)
    defined = set(re.findall(r"^(?:class|def) (\w+)", "\n".join(taken), re.MULTILINE))
    assert {"Trainer", "Sequences", "Parallelized", "plan"} <= defined


def test_it_is_a_room_of_the_bench():
    assert "tensor_parallelism" in bench.ROOMS
