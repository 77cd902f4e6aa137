"""The learner's own copy of the course: make it, bring it up to date, reset a notebook, open it.

    python -m utils.course start [ARGUMENT ...]    make or update my_course/, then open JupyterLab (with the arguments)
    python -m utils.course copy                    only make or update my_course/
    python -m utils.course reset NOTEBOOK          a fresh copy of one notebook; the old one is kept beside it
    python -m utils.course clear                   clear the outputs of the course itself, in place (Binder does this)

In the copy outputs are cleared, so that no answer shows before its question. An update never overwrites what the
learner changed: the new version is put beside it.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from nbformat import NotebookNode

from utils.publish import ROOT, PublishError, read, write

FOLDERS = ("notebooks", "exercises", "solutions")
COPY = ROOT / "my_course"
RECORD = ".copied.json"
START = "notebooks/00_start_here.ipynb"


def cleared(notebook: NotebookNode) -> NotebookNode:
    """Clear the outputs of `notebook`, in place, and return it."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def fingerprint(notebook: NotebookNode) -> str:
    """Return a hash of what is written in `notebook`: its cells and their order, not what running them showed."""
    written = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(written).encode()).hexdigest()


def update(course: Path = ROOT, copy: Path = COPY) -> list[str]:
    """Bring `copy` to the state of `course` and return a line for each thing the learner should know.

    A notebook that the learner changed stays as it is; if the course has a newer version, that is put beside it, once.
    One that was only run is replaced, and keeps its outputs where the cells are the same. The record of what was last
    copied is kept in the copy itself.
    """
    record = _read_record(copy)
    said: list[str] = []
    made = 0
    for name in _names(course):
        new = cleared(read(course / name))
        _follow_a_new_number(name, copy, record, said)
        mine, seen, wanted = copy / name, record.get(name), fingerprint(new)
        if not mine.exists():
            made += write(new, mine)
        elif seen != wanted:
            said += _renew(mine, new, seen)
        record[name] = wanted
        _write_record(copy, record)
    for name in [name for name in record if not (course / name).exists()]:
        del record[name]
        if (copy / name).exists():
            said.append(f"{name} is no longer part of the course; your copy stays.")
    _write_record(copy, record)
    some = "1 notebook is" if made == 1 else f"{made} notebooks are"
    return ([f"{some} new in {copy.name}/."] if made else []) + said


def _renew(mine: Path, new: NotebookNode, seen: str | None) -> list[str]:
    """Put the version `new` in the place of `mine`, or beside it if `mine` is not the version `seen`."""
    name = f"{mine.parent.name}/{mine.name}"
    try:
        old = read(mine)
    except PublishError:
        old = None
    if old is not None and fingerprint(old) == fingerprint(new):
        return []
    if old is None or fingerprint(old) != seen:
        beside = _free_name(mine, "new", seen)
        write(new, beside)
        return [f"{name} has your changes and stays as it is; the course's new version is beside it: {beside.name}"]
    outputs = {(cell.id, cell.source): cell for cell in old.cells if cell.cell_type == "code"}
    for cell in new.cells:
        if before := outputs.get((cell.id, cell.source)):
            cell.outputs, cell.execution_count = before.outputs, before.execution_count
    write(new, mine)
    return [f"{name} was brought up to date."]


def _free_name(path: Path, word: str, replaceable: str | None = None) -> Path:
    """Return a name beside `path` that is free, or taken by a version that is `replaceable`."""
    number = 1
    while True:
        candidate = path.with_name(f"{path.stem}.{word}{number if number > 1 else ''}.ipynb")
        if not candidate.exists():
            return candidate
        try:
            if replaceable and fingerprint(read(candidate)) == replaceable:
                return candidate
        except PublishError:
            pass  # not ours to judge: keep it and try the next name
        number += 1


def _follow_a_new_number(name: str, copy: Path, record: dict[str, str], said: list[str]) -> None:
    """Rename the learner's notebook if the course gave its lesson another number."""
    folder, lesson = _lesson(name)
    for old in [old for old in record if old != name and _lesson(old) == (folder, lesson)]:
        if (copy / old).exists() and not (copy / name).exists():
            (copy / old).rename(copy / name)
            record[name] = record.pop(old)
            said.append(f"{old} is now {name}.")


def _lesson(name: str) -> tuple[str, str]:
    """Return the folder and the lesson's name, without its number."""
    folder, _, file = name.partition("/")
    return folder, re.sub(r"^\d+_", "", file)


def _names(course: Path) -> list[str]:
    paths = [path for folder in FOLDERS for path in sorted((course / folder).glob("[0-9]*.ipynb"))]
    return [path.relative_to(course).as_posix() for path in paths]


def _read_record(copy: Path) -> dict[str, str]:
    """Return the fingerprint of what was last copied, by notebook. Without a readable record all count as changed."""
    try:
        return dict(json.loads((copy / RECORD).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _write_record(copy: Path, record: dict[str, str]) -> None:
    copy.mkdir(parents=True, exist_ok=True)
    temporary = copy / f"{RECORD}.tmp"
    temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    os.replace(temporary, copy / RECORD)


def reset(notebook: str, course: Path = ROOT, copy: Path = COPY) -> str:
    """Put a fresh copy of `notebook` in the learner's folder, keep the old one beside it, and say so.

    `notebook` is a path or any part of one that fits a single notebook. Raise PublishError if none or several fit.
    """
    asked = notebook.removeprefix("./").removeprefix(f"{copy.name}/")
    names = _names(course)
    fitting = [name for name in names if name == asked] or [name for name in names if asked and asked in name]
    if len(fitting) != 1:
        found = "fits none of" if not fitting else "fits several of"
        raise PublishError(f"NOTEBOOK={notebook} {found} the notebooks: {', '.join(fitting or names)}")
    name = fitting[0]
    mine, new = copy / name, cleared(read(course / name))
    kept = ""
    if mine.exists():
        old = _free_name(mine, "old")
        os.replace(mine, old)
        kept = f" The old one is kept as {copy.name}/{name.split('/')[0]}/{old.name}."
    write(new, mine)
    _write_record(copy, {**_read_record(copy), name: fingerprint(new)})
    return f"{copy.name}/{name} is as new.{kept} If it is open in JupyterLab, choose File > Reload Notebook from Disk."


def clear(course: Path = ROOT) -> None:
    """Clear the outputs of every notebook of `course`, in place."""
    for name in _names(course):
        write(cleared(read(course / name)), course / name)


def start(arguments: list[str], copy: Path = COPY) -> int:
    """Open JupyterLab in `copy` at the first notebook and return its exit status when it ends."""
    command = [sys.executable, "-m", "jupyterlab", f"--LabApp.default_url=/lab/tree/{START}", *arguments]
    os.chdir(copy)
    if os.name == "posix":
        os.execv(sys.executable, command)  # so that Ctrl-C and signals reach JupyterLab and nobody else
    return subprocess.call(command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m utils.course", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("start", help="make or update my_course/, then open JupyterLab")
    commands.add_parser("copy", help="make or update my_course/")
    commands.add_parser("reset", help="a fresh copy of one notebook").add_argument("notebook")
    commands.add_parser("clear", help="clear the outputs of the course itself, in place")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "start":
        parser.error(f"unknown argument: {rest[0]}")
    try:
        if options.command == "reset":
            print(reset(options.notebook))
        elif options.command == "clear":
            clear()
        else:
            print("\n".join([*update(), f"Your copy of the course is {COPY}"]), flush=True)
    except (PublishError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return start(rest) if options.command == "start" else 0


if __name__ == "__main__":
    sys.exit(main())
