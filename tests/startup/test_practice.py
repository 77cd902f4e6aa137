"""Practice alone: the one line of the README installs what it needs, and the notebook runs there without PyTorch."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from nbclient import NotebookClient

from utils.publish import ROOT, read


@pytest.fixture(scope="module")
def practice_python(tmp_path_factory):
    """Return the Python of an environment made as the README says."""
    (line,) = re.findall(r'`pip (install -e ".*?")`', (ROOT / "README.md").read_text())
    environment = tmp_path_factory.mktemp("practice") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin/python"
    subprocess.run([python, "-m", "pip", *shlex.split(line)], cwd=ROOT, check=True, capture_output=True, timeout=600)
    return python


def test_neither_torch_nor_the_ranks_engine_is_there(practice_python):
    code = "import importlib.util as u; print([n for n in ('torch', 'ipyparallel', 'matplotlib') if u.find_spec(n)])"
    answer = subprocess.run([practice_python, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_the_practice_notebook_runs(practice_python):
    kernel = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels/practice/kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [str(practice_python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "Practice", "language": "python"}))
    (path,) = (ROOT / "notebooks").glob("*practice.ipynb")
    notebook = read(path)
    NotebookClient(notebook, kernel_name="practice", resources={"metadata": {"path": str(path.parent)}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
