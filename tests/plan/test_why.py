"""The breakdown: every term with its source, its function, and its error; the record it reads."""

import importlib

from utils import plan
from utils.plan import why
from utils.plan.coefficients import NAMES
from utils.plan.memory import KINDS
from utils.plan.time import TERMS

E = plan.estimate(plan.LLAMA_70B, plan.Cluster(64), plan.Layout(2, 8, 4, accumulate=16, recompute="full"))


def test_every_term_is_explained():
    assert set(why.MEMORY) == set(KINDS)
    assert set(why.TIME) == set(TERMS)
    for known, source, function, _ in (*why.MEMORY.values(), *why.TIME.values()):
        assert known in (why.EXACT, why.FORMULA, why.CALIBRATED)
        assert source
        module, name = function.split(".")
        assert callable(getattr(importlib.import_module(f"utils.plan.{module}"), name))


def test_the_rows_add_up():
    rows = E.why().rows
    for unit in ("GiB", "s"):
        assert abs(sum(r.share for r in rows if r.value.split()[1] == unit) - 1) < 1e-6


def test_text_and_html_say_the_same():
    table = E.why()
    for row in table.rows:
        assert row.source in str(table)
        assert f"<td>{row.term}</td>" in table._repr_html_()
    assert "fitted on" in str(table)


def test_the_record_is_whole():
    record = plan.record()
    assert set(record["values"]) == set(NAMES)
    assert sum(record["rows"].values()) > 200
    assert "Korthikanti T5" not in record["rows"]
    assert "SC'21 T1" not in record["rows"]
    tested = {section for _, _, _, section in (*why.MEMORY.values(), *why.TIME.values()) if section}
    assert tested <= set(record["held_out"])
