"""The scorecard's own arithmetic, and that the planner stays torch-free; its rows, where the tables are at hand."""

import subprocess
import sys

import pytest

from utils import plan
from utils.plan import bench, published


def test_kendall():
    assert bench.kendall([(1, 1), (2, 2), (3, 3)]) == 1
    assert bench.kendall([(1, 3), (2, 2), (3, 1)]) == -1
    assert bench.kendall([(1, 1), (2, 3), (3, 2)]) == pytest.approx(1 / 3)


def test_nine_in_ten():
    assert bench.ninth(range(1, 11)) == 9
    assert bench.ninth([5]) == 5


def test_a_line_says_whether_its_mark_is_reached():
    assert bench.Line("a", "b", 1, "mean", 4.0, 5.0).verdict == "reached"
    assert bench.Line("a", "b", 1, "mean", 6.0, 5.0).verdict == "NOT REACHED"
    assert bench.Line("a", "b", 1, "tau", 0.9, 0.8, at_least=True).verdict == "reached"
    assert bench.Line("a", "b", 1, "mean", 6.0).verdict == ""


def test_without_the_tables_it_says_what_to_do(tmp_path):
    command = [sys.executable, "-m", "utils.plan.bench", "--data", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "PLAN_DATA" in done.stderr


def test_the_planner_needs_neither_torch_nor_numpy():
    code = "import sys; from utils import plan; sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_that_are_tested_on_are_not_fitted_on():
    data = published.folder()
    if data is None:
        pytest.skip("the published tables are not here")
    cases = published.cases(data)
    assert {c.section for c in cases if c.fitted} == {"Playbook", "MPT", "Megatron 2020", "SC'21 T2 pipelines"}
    assert {c.group[1] for c in cases if c.section == "Playbook" and c.fitted} == {1, 4, 16, 64}
    healthy = [c for c in cases if c.section == "Playbook" and c.healthy]
    assert healthy
    assert all(c.layout.global_batch == 256 for c in healthy)


def test_sc21_prints_recomputed_operations_too():
    # 175B on 1,024 A100, batch 1,536: 138 TFLOP/s are 32 s a step (Megatron-LM's README).
    assert published.sc21_seconds(plan.GPT_175B, 1536, 1024, 138) == pytest.approx(32, rel=0.03)


def test_the_twins_that_the_lesson_speaks_of():
    """Lesson 09, "What measurements teach": its counts, from the Playbook's table."""
    data = published.folder()
    if data is None:
        pytest.skip("the published tables are not here")
    ran = [row for row in published.rows(data, "ultrascale_playbook_benchmarks_1b_8b") if row["tok_s_gpu"]]
    cases = published.playbook(data)
    assert (len(ran), sum(case.healthy for case in cases)) == (1027, 550)
    twins: dict[tuple[str, ...], dict[str, float]] = {}
    for row in (row for row in ran if row["model"] == "8B"):
        layout = tuple(row[key] for key in ("gpus", "mbs", "grad_acc", "dp", "pp", "tp", "seq_len"))
        twins.setdefault(layout, {})[row["zero"]] = float(row["tok_s_gpu"])
    pairs = [speeds["1"] / speeds["0"] for layout, speeds in twins.items() if len(speeds) == 2 and layout[4] != "1"]
    assert (len(pairs), sum(r > 2 for r in pairs), sum(r < 0.5 for r in pairs)) == (39, 24, 4)
    assert 40 < max(pairs) < 42
