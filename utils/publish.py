"""Bring notebooks into the form they are committed in: executed and cleaned, and exercises made of solutions.

    python -m utils.publish execute [PATH ...]     run in order, clean, write (default: notebooks and solutions)
    python -m utils.publish exercises [PATH ...]   make exercises/ of solutions/
    python -m utils.publish check                  say what is stale and what to run

The outputs are gathered the way nbval gathers them, so what is written here is what `make test` compares.
"""

import argparse
import contextlib
import os
import re
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KEPT_CELL_METADATA = {"tags", "nbgrader", "slideshow"}
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class PublishError(RuntimeError):
    """Say what is wrong with which notebook; nothing was written."""


# ---------------------------------------------------------------------------------------------------------------------
# Clean


def clean(notebook: NotebookNode) -> NotebookNode:
    """Drop from `notebook`, in place, all that differs from run to run or machine to machine; return it.

    Cell ids, tags and outputs stay. Widget views go (their text stays), and so do timing, folding and editor metadata.
    """
    notebook.nbformat, notebook.nbformat_minor = 4, max(5, notebook.nbformat_minor)
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA and v})
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
            if output.output_type == "error":
                output.traceback = [_without_machine_paths(line) for line in output.traceback]
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.output_type in ("stream", "error") or o.data]
    return notebook


def _without_machine_paths(text: str) -> str:
    """Shorten the paths in a traceback to what is the same everywhere (nbval does not compare tracebacks)."""
    text = re.sub(r"[^\s\"'(]*site-packages/", "", text)
    text = text.replace(f"{ROOT}{os.sep}", "").replace(str(Path.home()), "~")
    return re.sub(r"[^\s\"'(]*/ipykernel_\d+/", "", text)


def write(notebook: NotebookNode, path: Path) -> bool:
    """Write `notebook` to `path` and tell whether the file changed. The old file stays whole until the new one is."""
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if path.exists() and path.read_text("utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, "utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read(path: Path) -> NotebookNode:
    """Read the notebook at `path`. Raise PublishError, naming the file, if it is not one."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise PublishError(f"{path}: no such notebook") from None
    except Exception as error:
        raise PublishError(f"{path}: not a notebook that can be read: {_first_line(str(error))}") from error
    return notebook


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"


# ---------------------------------------------------------------------------------------------------------------------
# Execute


def execute(path: Path, timeout: float = 600) -> NotebookNode:
    """Run the notebook at `path` from top to bottom in its own folder and return it executed and cleaned.

    The learner's progress (COURSE_HOME) and IPython's settings are empty temporary folders.
    Raise PublishError if a cell fails that has no tag `raises-exception`, or one that has it does not fail.
    `timeout` is in seconds, for each cell.
    """
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with _empty_home() as environment:
        client = _client(notebook, path, timeout)
        try:
            client.execute(env=environment)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise PublishError(_explain(client.cell, notebook, path, error)) from None
    for number, cell in _code_cells(notebook):
        failed = any(output.output_type == "error" for output in cell.outputs)
        if "raises-exception" in cell.metadata.get("tags", []) and not failed:
            raise PublishError(
                f"{path}: code cell {number} ({cell.id}) has the tag raises-exception and raised nothing"
            )
    return clean(notebook)


def _client(notebook: NotebookNode, path: Path, timeout: float) -> Any:
    """Return an nbclient that gathers outputs as nbval does, shows which cell runs, and knows it as `cell`."""
    from nbclient import NotebookClient  # takes a while to load

    class Client(NotebookClient):
        cell: NotebookNode | None = None

        def clear_output(self, outs: list, msg: dict, cell_index: int) -> None:
            """Keep what was shown: nbval does not know this message."""

    def at_start(cell: NotebookNode, cell_index: int) -> None:
        client.cell = cell
        if sys.stderr.isatty():
            print(f"\r{path}: cell {cell_index + 1} of {len(notebook.cells)} ", end="", file=sys.stderr, flush=True)

    client = Client(
        notebook,
        kernel_name="python3",
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.resolve().parent)}},
        on_cell_start=at_start,
    )
    # Otherwise what goes into an Output widget would vanish with the widget; so it stands in the cell, as for nbval.
    client.comm_open_handlers = {}
    return client


@contextlib.contextmanager
def _empty_home() -> Iterator[dict[str, str]]:
    """Yield an environment in which the learner has no progress and IPython no settings of its own."""
    with tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as folder:
        yield {**os.environ, "COURSE_HOME": f"{folder}/course", "IPYTHONDIR": f"{folder}/ipython"}


def _code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Return the code cells with their number, counted from 1 as the execution count is."""
    return list(enumerate((c for c in notebook.cells if c.cell_type == "code" and c.source.strip()), start=1))


def _explain(cell: NotebookNode | None, notebook: NotebookNode, path: Path, error: Exception) -> str:
    """Name the cell that was running and show its source and its error."""
    number = next((number for number, other in _code_cells(notebook) if other is cell), None)
    if cell is None or number is None:
        return f"{path}: {error}"
    failures = [output for output in cell.outputs if output.output_type == "error"]
    shown = "\n".join(failures[0].traceback) if failures else str(error)
    source = textwrap.indent(cell.source, "    ")
    name = f"{path}: code cell {number} ({cell.id})"
    return f"{name} failed; the file was left as it was.\n{source}\n{ANSI.sub('', shown)}"


class _Memory:
    """Watch the memory of this process's descendants: `peak` is the highest sum of PSS in MB (RSS without PSS)."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        while not self._stop.wait(0.5):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += getattr(process.memory_full_info(), "pss", process.memory_info().rss)
            self.peak = max(self.peak, total / 1e6)


# ---------------------------------------------------------------------------------------------------------------------
# Exercises


def exercise_of(solution: NotebookNode, name: str = "solution") -> NotebookNode:
    """Return the exercise of `solution`: marked regions cut to stubs, solutions folded, outputs cleared, ids kept.

    A code cell tagged `solution` goes. A text cell tagged `solution` (the discussion) becomes a fold that holds the
    code cut since the last one, and then the discussion. Raise PublishError, naming the cell, on broken markers.
    """
    exercise = nbformat.from_dict({**solution, "cells": []})
    removed: list[str] = []
    for cell in nbformat.from_dict(solution.cells):
        is_solution = "solution" in cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            if is_solution:
                continue
            if BEGIN in cell.source or END in cell.source:
                where = f"{name}, cell {cell.id}"
                removed.append(_without_markers(cell.source))
                cell.source = _stub(cell.source, where)
            cell.outputs, cell.execution_count = [], None
        elif is_solution:
            cell.source = _folded(removed, cell.source)
            removed = []
        exercise.cells.append(cell)
    if removed:
        raise PublishError(f"{name}: a solution has no discussion after it: add a text cell with the tag `solution`")
    return clean(exercise)


def _stub(source: str, where: str) -> str:
    """Replace each marked region of `source` by a line that raises NotImplementedError with the function's name."""
    lines: list[str] = []
    inside = False
    for line in source.splitlines():
        marker = line.strip()
        if marker not in (BEGIN, END):
            if not inside:
                lines.append(line)
            continue
        if (marker == BEGIN) == inside:
            raise PublishError(f"{where}: `{marker}` without its partner")
        inside = not inside
        if inside:
            indent = line[: len(line) - len(line.lstrip())]
            function = _enclosing_function(lines, indent)
            if not function:
                raise PublishError(f"{where}: a solution must stand inside a function, or the stub would stop Run All")
            lines += [
                f"{indent}# Your code here, in place of the next line.",
                f'{indent}raise NotImplementedError("{function}")',
            ]
    if inside:
        raise PublishError(f"{where}: `{BEGIN}` without its partner")
    return "\n".join(lines)


def _enclosing_function(lines: list[str], indent: str) -> str:
    """Return the name of the innermost function whose body is at `indent` below `lines`, or nothing."""
    for line in reversed(lines):
        match = re.match(r"(\s*)(?:async )?def (\w+)", line)
        if match and len(match[1]) < len(indent):
            return match[2]
    return ""


def _without_markers(source: str) -> str:
    return "\n".join(line for line in source.splitlines() if line.strip() not in (BEGIN, END))


def _folded(code: Iterable[str], discussion: str) -> str:
    """Return the text of a closed fold with `code` and `discussion` in it."""
    blocks = "".join(f"```python\n{source}\n```\n\n" for source in code)
    return f"<details><summary>Solution and discussion</summary>\n\n{blocks}{discussion.strip()}\n\n</details>"


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def notebooks_in(*folders: str) -> list[Path]:
    """Return the notebooks of the course's `folders`, in order, relative to the working folder where possible."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).glob("[0-9]*.ipynb"))]
    here = Path.cwd()
    return [path.relative_to(here) if path.is_relative_to(here) else path for path in paths]


def measure(path: Path, timeout: float = 600) -> tuple[NotebookNode, float, float]:
    """Execute the notebook at `path`; return it cleaned, the seconds it took and the peak of its processes in MB."""
    start = time.monotonic()
    with _Memory() as memory:
        notebook = execute(path, timeout)
    return notebook, time.monotonic() - start, memory.peak


def run_execute(paths: list[Path], timeout: float) -> None:
    """Execute and clean each notebook of `paths`, and print its time and its peak memory."""
    for path in paths:
        notebook, seconds, megabytes = measure(path, timeout)
        changed = write(notebook, path)
        print("\r" if sys.stderr.isatty() else "", end="", file=sys.stderr, flush=True)
        print(f"{path}: {'written' if changed else 'unchanged'}, {seconds:.0f} s, peak {megabytes:.0f} MB", flush=True)


def run_exercises(paths: list[Path]) -> None:
    """Make the exercise of each solution in `paths`, under the same name in exercises/."""
    made = [(ROOT / "exercises" / path.name, exercise_of(read(path), str(path))) for path in paths]
    for target, exercise in made:
        print(f"exercises/{target.name}: {'written' if write(exercise, target) else 'unchanged'}")
    sources = {path.name for path in notebooks_in("solutions")}
    for orphan in (path for path in notebooks_in("exercises") if path.name not in sources):
        print(f"exercises/{orphan.name}: has no solution any more; remove it with git rm")


def stale() -> list[str]:
    """Return what is not as this module would write it, each with what to run. Outputs themselves nbval compares."""
    found = []
    for path in notebooks_in("notebooks", "solutions"):
        notebook = read(path)
        counts = [cell.execution_count for _, cell in _code_cells(notebook)]
        if counts != list(range(1, len(counts) + 1)):
            found.append(f"{path}: not executed in order; run python -m utils.publish execute {path}")
        elif nbformat.writes(clean(notebook)).rstrip("\n") + "\n" != path.read_text("utf-8"):
            found.append(f"{path}: not in its clean form; run python -m utils.publish execute {path}")
    for path in notebooks_in("solutions"):
        target = ROOT / "exercises" / path.name
        try:
            wanted = nbformat.writes(exercise_of(read(path), str(path))).rstrip("\n") + "\n"
        except PublishError as error:
            found.append(str(error))
            continue
        if not target.exists() or target.read_text("utf-8") != wanted:
            command = f"python -m utils.publish exercises {path}"
            found.append(f"exercises/{path.name}: not what its solution makes; run {command}")
    sources = {path.name for path in notebooks_in("solutions")}
    found += [f"{p}: has no solution; run git rm {p}" for p in notebooks_in("exercises") if p.name not in sources]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m utils.publish", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("execute", "run in order and clean"), ("exercises", "make exercises of solutions")):
        command = commands.add_parser(name, help=text)
        command.add_argument("paths", nargs="*", type=Path)
        if name == "execute":
            command.add_argument("--timeout", type=float, default=600, help="seconds for each cell (600)")
    commands.add_parser("check", help="say what is stale")
    options = parser.parse_args(arguments)
    try:
        if options.command == "execute":
            run_execute(options.paths or notebooks_in("notebooks", "solutions"), options.timeout)
        elif options.command == "exercises":
            run_exercises(options.paths or notebooks_in("solutions"))
        else:
            found = stale()
            print(
                "\n".join(found)
                or "Nothing is stale. Whether the outputs are what the cells give, `make test` compares."
            )
            return 1 if found else 0
    except PublishError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
