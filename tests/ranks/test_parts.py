"""The parts that need no ranks: names, folding, the table, the marker of lines, output kept short."""

import ast

import pytest

from utils.ranks import capture, explain, magic, table, trace


def test_names_and_folding():
    assert explain.names([2]) == "rank 2"
    assert explain.names([3, 0, 1]) == "ranks 0-1, 3"
    assert explain.folded({0: "a", 1: "b", 2: "a"}) == [([0, 2], "a"), ([1], "b")]


@pytest.mark.parametrize(
    ("line", "ranks"), [("", None), ("all", None), ("2", [2]), ("0,2", [0, 2]), ("0 2", [0, 2]), ("1-3", [1, 2, 3])]
)
def test_ranks_named_on_the_line_of_the_magic(line, ranks):
    assert magic.targets(line) == ranks


@pytest.mark.parametrize("line", ["x", "3-1", "-1", "1.5"])
def test_a_line_that_names_no_rank(line):
    with pytest.raises(explain.RanksError, match="Write %%ranks for all ranks"):
        magic.targets(line)


def test_table(tmp_path):
    path = tmp_path / "table"
    table.reserve(path, 2)
    zero, one, kernel = table.Table(path, 0), table.Table(path, 1), table.Table(path)
    place = table.digest(1, "0")
    assert zero.claim(place, 1, "all_reduce float32 [3]", [1]) is None
    assert one.claim(place, 1, "all_reduce float32 [3]", [0]) is None
    assert one.claim(place, 2, "broadcast", [0]) is None
    assert zero.claim(place, 2, "barrier", [1]) == (1, "broadcast")
    one.erase(place, 2)
    assert zero.claim(place, 2, "barrier", [1]) is None
    assert zero.claim(table.digest(2, "0"), 2, "x", [1]) is None  # another world
    for number in range(3, 3 * table.SLOTS):  # far ahead of the other: old records are overwritten, none is mistaken
        assert one.claim(place, number, "late", [0]) is None
    long = "x" * 1000
    assert zero.claim(place, 10_000, long, [1]) is None
    assert one.claim(place, 10_000, long, [0]) is None
    zero.mark(7, 3)
    assert kernel.line(0, 7) == 3
    assert kernel.line(0, 8) is None
    assert kernel.line(1, 7) is None


def test_a_table_that_does_not_fit_on_the_disk(tmp_path):
    with pytest.raises(OSError, match="."):
        table.reserve(tmp_path / "missing" / "table", 2)


def test_marker_notes_every_statement_outside_functions():
    source = """
from __future__ import annotations
x = 0
for i in range(2):
    if i:
        x += 1
    else:
        x += 2
def f():
    return 5
try:
    f()
except ValueError:
    pass
with open("/dev/null") as file:
    x += f()
x
"""
    tree = trace.Marker().visit(ast.parse(source))
    lines: list[int] = []
    scope = {trace.MARK: lines.append}
    exec(compile(tree, "cell", "exec"), scope)
    assert scope["x"] == 8
    assert lines == [3, 4, 5, 8, 5, 6, 9, 11, 12, 15, 16, 17]


def test_output_is_cut_in_the_middle():
    output = capture.Output(None)
    for i in range(100_000):
        output.write(f"line {i}\n")
    text = "".join(output.close())
    assert text.startswith("line 0\n")
    assert text.endswith("line 99999\n")
    assert "characters cut here, of 1,088,890 in 100,000 lines" in text
    assert len(text) < 13_000


def test_too_many_pictures_are_left_out():
    output = capture.Output(None)
    for _ in range(1000):
        output.show({"text/plain": "p", "image/png": "x"}, {})
    pieces = output.close()
    assert len(pieces) == capture.SHOWN + 1
    assert "1000 things shown" in pieces[-1]


def test_what_differs_from_run_to_run_is_taken_out_of_messages():
    gloo = "[/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:32653."
    assert capture.clean(gloo) == "Connection closed by peer."
    assert capture.clean("<object at 0x7f56e6606790>") == "<object>"
    memory = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    assert capture.clean(memory) == "DefaultCPUAllocator: can't allocate memory"
    assert capture.clean("see /home/me/.venv/lib/python3.11/site-packages/torch/x.py") == "see torch/x.py"
    assert capture.clean("in /tmp/ipykernel_4711/815.py") == "in the cell"


def test_error_without_traceback():
    error = explain.RanksError("one\ntwo", cause="raised", states={0: explain.State("raised", 3)})
    assert error._render_traceback_() == ["one", "two"]
    assert error.states[0].line == 3
