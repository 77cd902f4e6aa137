"""Lint the cells that run on the ranks: ruff leaves cells with a magic it does not know alone.

    python -m tests.notebooks.lint [NOTEBOOK ...]

Each notebook is handed to ruff with its kernel cells emptied and the `%%ranks` line of the others turned into a
comment, so cell and line in ruff's answer are those of the notebook.
"""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from utils.publish import notebooks_in, read

MAGIC = re.compile(r"^%%(?:ranks|drawn)\b.*")  # %%drawn is %%ranks with a picture (lesson on collectives)
IN_EVERY_RANK = ("torch", "dist", "rank", "world_size", "device")


def ranks_only(notebook: NotebookNode) -> NotebookNode:
    """Return a copy of `notebook` in which only what runs on the ranks is left."""
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.source = MAGIC.sub("# on the ranks", cell.source) if MAGIC.match(cell.source) else ""
            cell.outputs = []
    return copy


def names_from_kernel(notebook: NotebookNode) -> set[str]:
    """Return the names that the kernel's cells give the ranks, with `ranks.scatter` or by an assignment they run."""
    sources = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    ran = " ".join(re.findall(r"ranks\.run\(\s*f?[\"'](.*?)[\"']\s*[,)]", sources))
    return {
        *re.findall(r"ranks\.scatter\(\s*[\"'](\w+)[\"']", sources),
        *re.findall(r"\b([A-Za-z_]\w*)\s*=(?!=)", ran),
    }


def lint(notebook: NotebookNode, name: str) -> str:
    """Return ruff's complaints about the ranks' cells of `notebook`, or nothing; `name` is its file's name."""
    builtins = sorted({*IN_EVERY_RANK, *names_from_kernel(notebook)})
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--stdin-filename", name]
    command += ["--output-format", "concise", "--config", f"builtins = {builtins!r}", "-"]
    answer = subprocess.run(command, input=nbformat.writes(ranks_only(notebook)), capture_output=True, text=True)
    return (answer.stdout + answer.stderr).strip()


def main() -> int:
    """Lint the notebooks named on the command line, or all; the exit status is 1 if there is a complaint."""
    paths = [Path(name) for name in sys.argv[1:]] or notebooks_in("notebooks", "solutions", "exercises")
    complaints = [found for path in paths if (found := lint(read(path), str(path)))]
    print("\n".join(complaints) or f"Cells on the ranks of {len(paths)} notebooks: nothing to complain about.")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
