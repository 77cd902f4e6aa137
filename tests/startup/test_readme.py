"""The README says what is: its commands exist, its links lead somewhere, its map is that of the notebooks."""

import ast
import re
import tomllib

import pytest

from tests.notebooks.shape import load, minutes
from utils.publish import ROOT

README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def lessons():
    """Return the lessons' paths, in order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def title(path):
    return load(path).node.cells[0].source.splitlines()[0].removeprefix("# ").strip()


def course_map():
    """Return the map of the course as the notebooks give it."""
    lines = ["| lesson | minutes | exercises, minutes |", "|---|---|---|"]
    for path in lessons():
        exercise = ROOT / "exercises" / path.name
        link = f"[{minutes(load(exercise))}](exercises/{path.name})" if exercise.exists() else ""
        lines.append(f"| [{title(path)}](notebooks/{path.name}) | {minutes(load(path))} | {link} |")
    return "\n".join(lines)


def test_the_map_is_that_of_the_notebooks():
    (shown,) = re.findall(r"<!-- map -->\n(.*?)\n?<!-- end of map -->", README, re.DOTALL)
    assert shown.strip() == course_map(), f"Put this between the marks:\n{course_map()}"


def test_every_notebook_states_its_minutes():
    paths = [*lessons(), *(ROOT / "exercises").glob("*.ipynb")]
    assert [path.name for path in paths if minutes(load(path)) is None] == []


@pytest.mark.parametrize("limit", [15, 90])
def test_a_path_fits_its_minutes(limit):
    (path,) = re.findall(rf"\*\*{limit} minutes:\*\*(.*?)(?=\*\*|\n\n|\nThe lessons)", README, re.DOTALL)
    names = [ROOT / name for name in re.findall(r"\]\((notebooks/\S+?\.ipynb)\)", path)]
    if "Start here, then" in path:
        names.append(ROOT / "notebooks/00_start_here.ipynb")
    assert 0.6 * limit <= sum(minutes(load(name)) for name in names) <= limit


def test_commands_and_targets_are_the_same():
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)\b(?=[ `\n])", README)) - {"and", "or"} == set(phony.split())


def test_the_two_commands_are_on_the_first_screen():
    first_screen = "\n".join(README.splitlines()[:25])
    assert "make course" in first_screen
    assert "make test" in first_screen


def test_what_practice_needs_is_pinned_as_everywhere():
    pins = {line.split()[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras["practice"]) < pins


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ((?:utils|tests)[\w.]*)", README))))
def test_modules_it_runs_exist(module):
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_files_and_folders_it_names_exist():
    names = set(re.findall(r"`((?:notebooks|exercises|solutions|utils|tests|\.ci|\.github)/[\w./]*)`", README))
    assert names
    assert [name for name in names if not (ROOT / name).exists() and "name." not in name] == []


def test_the_python_it_asks_for_is_the_one_that_is_checked():
    (asked,) = re.findall(r"\*\*Python\*\* (\d+\.\d+) or newer", README)
    assert f"({asked.replace('.', ', ')})" in MAKEFILE
    assert f'requires-python = ">={asked}"' in (ROOT / "pyproject.toml").read_text()


def test_the_settings_for_other_machines_are_ipyparallel_s():
    """Every `c.Class.trait = value` is a setting that ipyparallel knows, and each launcher a name of its own."""
    from ipyparallel.cluster import launcher
    from ipyparallel.cluster.cluster import Cluster

    lines = re.findall(r"^c\.(\w+)\.(\w+) = (.*)$", README, re.MULTILINE)
    assert len(lines) >= 6
    for name, trait, value in lines:
        owner = Cluster if name == "Cluster" else getattr(launcher, name)
        assert trait in owner.class_traits(config=True)
        if trait == "engine_launcher_class":
            assert launcher.find_launcher_class(ast.literal_eval(value), "engine")
