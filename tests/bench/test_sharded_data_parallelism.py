"""The bench of sharded training runs what the lesson builds."""

from utils.bench import sharded_data_parallelism as bench_sharded


def test_the_lesson_s_cells_are_there_and_each_defines_its_class():
    sources = bench_sharded.sources()
    assert len(sources) == len(bench_sharded.CELLS)
    for kind in bench_sharded.KINDS:
        assert sum(f"class {kind}(" in source for source in sources) == 1


def test_rows_compare_steps_of_one_run():
    times = bench_sharded.measured(turns=2)
    assert set(times) == set(bench_sharded.KINDS)
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())
