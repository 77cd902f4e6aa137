"""Where a rank stands in the learner's code: cells, lines, functions.

Only frames of cells are reported; those of PyTorch and of this package are left out.
"""

from __future__ import annotations

import ast
import builtins
import signal
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any

Frame = tuple[int, int, str]  # number of a cell, line in it, function

_files: dict[str, int] = {}  # file name that IPython gives a cell -> number of the cell
MARK = "__ranks_line__"


def know(file: str, cell: int) -> None:
    """Remember that code of this file name is cell number `cell`."""
    _files[file] = cell


def _entry(code: CodeType, line: int | None) -> Frame | None:
    cell = _files.get(code.co_filename)
    name = "" if code.co_name == "<module>" or code.co_name.startswith("<cell line") else code.co_name
    return None if cell is None else (cell, line or 0, name)


def stack(frame: FrameType | None) -> tuple[list[Frame], str]:
    """Return the learner's frames, outermost first, and the function of torch.distributed called from the innermost."""
    found: list[Frame] = []
    via = ""
    while frame:
        entry = _entry(frame.f_code, frame.f_lineno)
        if entry:
            found.append(entry)
        elif not found and frame.f_code.co_filename.endswith("distributed_c10d.py"):
            via = frame.f_code.co_name
        frame = frame.f_back
    return found[::-1], via


def of_traceback(trace: TracebackType | None) -> tuple[list[Frame], str]:
    """Return the learner's frames of an error, outermost first, and where it was raised if not in a cell."""
    found: list[Frame] = []
    place = ""
    while trace:
        entry = _entry(trace.tb_frame.f_code, trace.tb_lineno)
        if entry:
            found.append(entry)
        place = f"{trace.tb_frame.f_globals.get('__name__', '?')}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return found, place


class Marker(ast.NodeTransformer):
    """Put before each statement of a cell, outside functions and classes, a call that notes its line.

    It is how the line is known when a rank is killed: nothing can be asked of it any more.
    """

    def visit_Module(self, node: ast.Module) -> ast.Module:
        """Mark the statements of a cell."""
        node.body = self._marked(node.body)
        return node

    def _marked(self, body: list[ast.stmt]) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        for statement in body:
            future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
            if not future:
                out.append(_mark(statement))
            out.append(statement)
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            for field in ("body", "orelse", "finalbody"):
                inner = getattr(statement, field, None)
                if isinstance(inner, list) and inner and isinstance(inner[0], ast.stmt):
                    setattr(statement, field, self._marked(inner))
            for part in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
                part.body = self._marked(part.body)
        return out


def _mark(statement: ast.stmt) -> ast.stmt:
    call = ast.Call(ast.Name(MARK, ast.Load()), [ast.Constant(statement.lineno)], [])
    mark = ast.copy_location(ast.Expr(call), statement)
    mark.end_lineno, mark.end_col_offset = mark.lineno, mark.col_offset
    return ast.fix_missing_locations(mark)


def set_marker(mark: Callable[[int], None]) -> None:
    """Set what is called with the line number."""
    setattr(builtins, MARK, mark)


class Interruptible:
    """Let SIGINT raise KeyboardInterrupt in the learner's code, and only there."""

    def __init__(self) -> None:
        self.before: Any = None

    def __enter__(self) -> Interruptible:
        self.before = signal.signal(signal.SIGINT, signal.default_int_handler)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
