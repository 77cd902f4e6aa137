"""The README's commands, in a fresh clone: what they install, what they open, and that a second time costs nothing.

The clone makes a .venv of its own. So as not to download torch once more, that .venv sees the packages of the one the
tests run in; pip runs for real and finds them there.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request

import nbformat
import pytest

from utils.publish import ROOT

PYTHON = """#!/bin/sh
# A Python whose .venv also sees the packages that are installed already.
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} "$@" && for site in .venv/lib/python*/site-packages; do echo {packages} > "$site/shared.pth"; done
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a clone of the course as it stands in the working tree, without a .venv."""
    folder = tmp_path_factory.mktemp("clone") / "one model"  # people have spaces in their folders
    ignore = shutil.ignore_patterns(".venv", ".git", "my_course", ".*_cache", "__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT, folder, ignore=ignore)
    python = folder.parent / "python"
    python.write_text(PYTHON.format(python=sys.executable, packages=sysconfig.get_path("purelib")))
    python.chmod(0o755)
    return folder


def make(folder, *arguments, **environment):
    """Run make in `folder` and return what it answered."""
    drop = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH", "VIRTUAL_ENV", "TORCH"}
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    command = ["make", f"PYTHON={folder.parent / 'python'}", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def first(clone):
    """Set the course up for the first time and return what make said; JupyterLab only says its version."""
    answer = make(clone, "course", "LAB=--version")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_the_first_time_everything_is_installed_and_copied(clone, first):
    assert "Making .venv with Python 3" in first
    assert "pip install -r requirements.txt" in first
    pins = dict(re.findall(r"^(\S+)==(\S+)", (clone / "requirements.txt").read_text(), re.MULTILINE))
    assert f"\n{pins['jupyterlab']}\n" in first
    assert (clone / "my_course/notebooks/00_start_here.ipynb").exists()
    names = sorted(
        p.relative_to(clone)
        for folder in ("notebooks", "exercises", "solutions")
        for p in clone.glob(f"{folder}/*.ipynb")
    )
    assert names == sorted(p.relative_to(clone / "my_course") for p in (clone / "my_course").rglob("*.ipynb"))


def test_notebooks_find_utils_from_any_folder(clone, first, tmp_path):
    code = "import utils, pathlib; print(pathlib.Path(utils.__file__).parents[1])"
    answer = subprocess.run([clone / ".venv/bin/python", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert answer.stdout.strip() == str(clone)


def test_the_second_time_nothing_is_installed(clone, first):
    os.utime(clone / "requirements.txt")
    answer = make(clone, "course", "LAB=--version")
    assert answer.returncode == 0
    assert "pip" not in answer.stdout


def test_changed_requirements_are_installed(clone, first):
    path = clone / "requirements.txt"
    before = path.read_text()
    path.write_text(before + "# a change\n")
    assert "pip install -r requirements.txt" in make(clone, "--dry-run", "course").stdout
    path.write_text(before)
    assert "pip" not in make(clone, "--dry-run", "course").stdout


def status(url, deadline):
    """Return the status that `url` answers with; the address is printed a moment before anybody listens."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_jupyterlab_opens_at_the_start_notebook_of_the_copy(clone, first):
    process = subprocess.Popen(
        ["make", "course", "LAB=--no-browser --allow-root --ServerApp.ip=127.0.0.1 --IdentityProvider.token=t"],
        cwd=clone,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, deadline = "", time.monotonic() + 90
        while not (address := re.search(r"http://127\.0\.0\.1:(\d+)(/\S*)", said)) and time.monotonic() < deadline:
            said += process.stdout.readline()
        assert address, said
        assert address[2].startswith("/lab/tree/notebooks/00_start_here.ipynb")
        url = f"http://127.0.0.1:{address[1]}/api/contents/notebooks/00_start_here.ipynb?content=0&token=t"
        assert status(url, deadline) == 200
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def test_an_edited_notebook_survives_make_and_reset_keeps_it(clone, first):
    mine = clone / "my_course/notebooks/00_start_here.ipynb"
    notebook = nbformat.read(mine, as_version=4)
    notebook.cells[0].source = "# Mine"
    nbformat.write(notebook, mine)
    make(clone, "course", "LAB=--version")
    assert "# Mine" in mine.read_text()
    answer = make(clone, "reset", "NOTEBOOK=notebooks/00_start_here.ipynb")
    assert "is as new" in answer.stdout
    assert "# Mine" not in mine.read_text()
    assert "# Mine" in mine.with_name("00_start_here.old.ipynb").read_text()


def test_reset_without_a_name_says_how(clone, first):
    answer = make(clone, "reset")
    assert answer.returncode != 0
    assert "make reset NOTEBOOK=" in answer.stdout


def test_torch_for_the_cpu_comes_from_pytorch_s_index_and_nothing_else_does(clone):
    said = make(clone, "--dry-run", "course", "TORCH=cpu", "VENV=.other").stdout.splitlines()
    (special,) = (line for line in said if "download.pytorch.org/whl/cpu" in line)
    assert "--no-deps" in special
    assert said.index(special) < next(i for i, line in enumerate(said) if "install -r requirements.txt" in line)
    assert "torch" not in "".join(line for line in said if line != special and "pip" in line)


def test_an_old_python_is_refused_with_what_to_do(clone, tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    tools = tmp_path / "tools"  # a PATH on which no newer Python is found
    tools.mkdir()
    for tool in ("make", "sh", "cat", "cksum", "tr", "sed", "touch", "rm", "awk", "pwd"):
        (tools / tool).symlink_to(shutil.which(tool))
    answer = make(clone, "course", f"PYTHON={old}", "VENV=.other", PATH=str(tools))
    assert answer.returncode != 0
    assert "needs Python 3.11 or newer" in answer.stdout
    assert "Python 3.9.2" in answer.stdout
    assert "make course PYTHON=" in answer.stdout
    assert not (clone / ".other").exists()


def test_help_lists_every_command(clone):
    listed = re.findall(r"^make ([\w-]+)", make(clone, "help").stdout, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (clone / "Makefile").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())
    assert make(clone).stdout == make(clone, "help").stdout
