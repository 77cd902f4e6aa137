"""The benchmark's table, and its rooms; what it measures is not asserted anywhere."""

import importlib.machinery

import pytest

from utils import bench
from utils.bench import Row


@pytest.mark.parametrize("room", bench.ROOMS)
def test_every_room_has_rows(room):
    assert callable(importlib.import_module(f"utils.bench.{room}").rows)


def test_the_table_lines_up_and_says_what_is_over():
    slow = Row("a cell", {"ranks": "40 ms", "spawn": "8 s"}, "30 ms", False)
    rows = [Row("start", {"ranks": "2.0 s"}, "5 s", True), slow]
    head, rule, first, second = bench.table(rows).splitlines()
    assert head.split() == ["ranks", "spawn", "budget"]
    assert set(rule) == {"-", " "}
    assert first.endswith("kept")
    assert second.endswith("OVER")
    assert first.index("5 s") - head.index("budget") == second.index("30 ms") - head.index("budget")


def test_a_room_that_is_named_is_the_only_one_measured(monkeypatch, capsys):
    import sys
    import types

    room = types.ModuleType("of_a_test")
    room.rows = lambda: iter([Row("one", {"here": "1 s"})])
    room.__spec__ = importlib.machinery.ModuleSpec("utils.bench.of_a_test", None)
    monkeypatch.setitem(sys.modules, "utils.bench.of_a_test", room)
    monkeypatch.setattr(sys, "argv", ["bench", "of_a_test"])
    bench.main()
    assert capsys.readouterr().out.rstrip().splitlines()[-1].split() == ["one", "1", "s"]
