"""CI does what the README says, and the public workflow does the same."""

import re

import yaml

from utils.publish import ROOT

RUN = (ROOT / ".ci/run").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())


def commands(job):
    """Return the commands of a job of the public workflow."""
    return "\n".join(step.get("run", "") for step in WORKFLOW["jobs"][job]["steps"])


def test_ci_runs_the_test_command_with_a_browser():
    lines = RUN.splitlines()
    assert "make test" in lines
    assert lines[-1] == "make test", "its closing line is the last that is read"
    assert re.search(r"apt-get install -y .*\$\{missing\[@\]\}", RUN)
    assert "missing+=(chromium)" in RUN


def test_the_public_workflow_runs_the_same_on_linux():
    assert ".ci/run" in commands("linux")
    assert WORKFLOW["jobs"]["linux"]["steps"][-1]["env"] == {"TORCH": "cpu"}


def test_lessons_run_without_comparison_on_the_other_systems():
    job = WORKFLOW["jobs"]["lessons"]
    assert {system.partition("-")[0] for system in job["strategy"]["matrix"]["os"]} == {"macos", "windows"}
    assert "--nbval-lax" in commands("lessons")
    assert "notebooks solutions exercises" in commands("lessons")
