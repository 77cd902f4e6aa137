"""Binder: the versions are those of requirements.txt, and repo2docker reads the folder as mybinder.org would."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils.publish import ROOT


def pins(path):
    """Return the pinned versions in the requirements file at `path`."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {line for line in lines if re.match(r"\w", line)}


def test_the_versions_are_those_of_the_course():
    assert pins(ROOT / ".binder/requirements.txt") == pins(ROOT / "requirements.txt")
    assert all("==" in pin for pin in pins(ROOT / "requirements.txt"))


def test_the_requirements_refer_to_no_other_file():
    text = (ROOT / ".binder/requirements.txt").read_text()
    assert not re.search(r"^(-r|-c|-e|--requirement|--constraint)", text, re.MULTILINE)
    assert "download.pytorch.org/whl/cpu" in text


@pytest.fixture(scope="module")
def dockerfile():
    """Return what repo2docker would build; it contacts nobody."""
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", "."]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout + answer.stderr


def test_repo2docker_takes_the_python_that_is_asked_for(dockerfile):
    assert "Building conda environment for python=3.11" in dockerfile


def test_torch_is_installed_before_the_notebooks_are_copied(dockerfile):
    installs = re.search(r'RUN .*pip install --no-cache-dir -r "?\.binder/requirements\.txt', dockerfile)
    copies = re.search(r"^COPY .* src/ \$\{REPO_DIR\}/?", dockerfile, re.MULTILINE)
    assert installs
    assert copies
    assert installs.start() < copies.start()


def test_post_build_and_start_are_used(dockerfile):
    assert "RUN ./.binder/postBuild" in dockerfile
    assert '"${REPO_DIR}/.binder/start"' in dockerfile


@pytest.mark.parametrize("script", [".binder/postBuild", ".binder/start", ".ci/run"])
def test_scripts_can_be_run(script):
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0


def test_post_build_installs_the_course_clears_the_outputs_and_checks(tmp_path):
    """Run it in a copy, with pip noted instead of run."""
    copy = tmp_path / "course"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "my_course", ".*_cache", "__pycache__"))
    pip = tmp_path / "bin/pip"
    pip.parent.mkdir()
    pip.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    pip.chmod(0o755)
    path = os.pathsep.join([str(pip.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    answer = subprocess.run(
        ["./.binder/postBuild"], cwd=copy, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "asked").read_text() == "install --no-deps --no-cache-dir -e .\n"
    assert not re.search(r'"execution_count": \d', "".join(p.read_text() for p in copy.glob("*/[0-9]*.ipynb")))
    assert answer.stdout.startswith("2.13.0")


def test_start_hands_over_to_what_it_is_given():
    answer = subprocess.run([ROOT / ".binder/start", "echo", "a b"], capture_output=True, text=True)
    assert answer.stdout == "a b\n"
