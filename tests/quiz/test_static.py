"""The form without a kernel: answers closed, the same bytes on every run, harmless, and alive through nbconvert."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from tests.quiz.harmless import HOSTILE, faults
from utils.quiz import bank, static
from utils.quiz.reading import schema_faults

SAMPLE = Path(__file__).parent / "bank"
IDS = [raw["id"] for raw in yaml.safe_load((SAMPLE / "sample.yaml").read_text())["items"]]


def visible(html: str) -> str:
    """Return what stands on the page before anything is opened."""
    folded = re.compile(r"<details>(<summary>.*?</summary>)(?:(?!<details>).)*?</details>", re.S)
    while (closed := folded.sub(r"\1", html)) != html:
        html = closed
    return html


def answers(item: bank.Item) -> list[str]:
    """Return the texts of an item that must not be seen before it is opened."""
    hidden = [option["why"] for option in item.get("options", [])]
    hidden += [item.get(field) for field in ("model_answer", "final_answer", "quick_check", "explanation", "outcome")]
    hidden += [step["do"] for step in item.get("steps", [])] + [c["label"] for c in item.get("concepts", [])]
    hidden += [answer] if isinstance(answer := item.get("answer"), str) else []
    shown = [option["text"] for option in item.get("options", [])]
    return [re.sub(r"[`*]", "", text) for text in hidden if text and text not in shown]


@pytest.mark.parametrize("name", IDS)
def test_every_kind_opens_through_details_and_hides_its_answer(sample: bank.Bank, name: str) -> None:
    item = bank.find(name)
    html, text = static.item_html(item), static.item_text(item)
    assert faults(html) == []
    plain = re.sub(r"</?\w+[^>]*>", "", visible(html))
    for answer in answers(item):
        assert answer[:25] not in plain
        assert answer[:25] not in text
    if item.type not in ("predict", "code"):
        assert "<details>" in html
    assert "<details open" not in html
    assert "<input" not in html
    assert re.sub(r"[`*]", "", item["prompt"].splitlines()[0]) in plain


def test_each_option_says_right_or_not_and_why(sample: bank.Bank) -> None:
    html = static.item_html(bank.find("sample.single"))
    assert html.count("Not right.") == 2
    assert html.count("<strong>Right.</strong>") == 1
    assert "The data stay where they are." in html


def test_a_reveal_is_folded_and_says_predict_first(sample: bank.Bank) -> None:
    item = bank.find("sample.predict")
    html = static.reveal_html(item, [0.1 + 0.2, "<script>"])
    assert "predict first" in html.lower()
    assert "[0.3, " not in visible(html)
    assert "[0.3, &#x27;&lt;script&gt;&#x27;]" in html
    assert faults(html) == []
    assert "0.3" not in static.reveal_text(item)


def poisoned(value: object, poison: str) -> object:
    """Replace every text in an item, but for names and numbers, with something hostile."""
    keep = {
        "id",
        "type",
        "topic",
        "difficulty",
        "level",
        "roles",
        "misconception",
        "derive",
        "pin",
        "check",
        "lesson",
        "unit",
    }
    if isinstance(value, dict):
        return {k: v if k in keep else poisoned(v, poison) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v, poison) for v in value]
    return f"{poison} {value}" if isinstance(value, str) else value


@pytest.mark.parametrize("poison", HOSTILE)
def test_hostile_text_in_every_field(sample: bank.Bank, poison: str) -> None:
    data = yaml.safe_load((SAMPLE / "sample.yaml").read_text())
    for raw in data["items"]:
        for field in ("explanation", "outcome", "code", "starter", "hints"):
            if raw["type"] in {"outcome": ["predict"], "code": ["predict"], "starter": ["code"]}.get(
                field, [raw["type"]]
            ):
                raw.setdefault(field, ["hint"] if field == "hints" else "text")
    data["items"] = [poisoned(raw, poison) for raw in data["items"]]
    assert schema_faults(copy.deepcopy(data)) == []
    hostile = bank._build(data, SAMPLE / "sample.yaml")
    for item in hostile.items:
        assert faults(static.item_html(item, place=poison)) == []
        if item.type == "predict":
            assert faults(static.reveal_html(item, poison)) == []
    assert faults(static.list_html(poison, hostile.items, poison)) == []


DUMP = """
import sys
from pathlib import Path
from utils.quiz import bank, static, exam
bank.FOLDER = Path(sys.argv[1])
for found in bank.all_banks()[0]:
    for item in found.items:
        sys.stdout.write(static.item_html(item) + static.item_text(item))
    sys.stdout.write(static.list_html("t", exam.draw(found, "reader", 0).first, "Question"))
sys.stdout.write(static.reveal_html(bank.find("sample.predict"), {"b", "a", "c", 1.5}))
"""


def test_the_static_form_has_the_same_bytes_under_every_hash_seed() -> None:
    outputs = set()
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", DUMP, str(SAMPLE)], env=environment, capture_output=True, check=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert len(outputs.pop()) > 5000


SETUP = f"""from pathlib import Path
from utils import quiz
from utils.quiz import bank
bank.FOLDER = Path({str(SAMPLE)!r})"""
CALLS = [f"quiz.show({name!r})" for name in IDS] + [
    "quiz.reveal('sample.predict', [1.0, 2])",
    "quiz.deck('sample')",
    "quiz.questions('sample')",
    "quiz.open_questions('sample')",
    "quiz.practice('sample')",
    "quiz.review()",
    "quiz.due()",
    "quiz.progress()",
    "quiz.doors('sample')",
    "quiz.reset('sample')",
]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> list[nbformat.NotebookNode]:
    """Execute a notebook of every call twice, each in an empty home and under another hash seed."""
    found = []
    for seed in ("1", "2"):
        cells = [nbformat.v4.new_code_cell(source) for source in [SETUP, *CALLS]]
        notebook = nbformat.v4.new_notebook(cells=cells)
        environment = {**os.environ, "COURSE_HOME": str(tmp_path_factory.mktemp("home")), "PYTHONHASHSEED": seed}
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute(env=environment)
        found.append(notebook)
    return found


def committed(notebook: nbformat.NotebookNode) -> list[dict]:
    """Return the outputs as a committed notebook has them: without widget views."""
    data = [dict(output.data) for cell in notebook.cells[1:] for output in cell.outputs]
    for bundle in data:
        assert "application/vnd.jupyter.widget-view+json" in bundle
        del bundle["application/vnd.jupyter.widget-view+json"]
    return data


def test_every_call_gives_the_same_html_and_text_in_two_kernels(executed: list[nbformat.NotebookNode]) -> None:
    first, second = (committed(notebook) for notebook in executed)
    assert len(first) == len(CALLS)
    assert first == second
    assert all(set(bundle) == {"text/html", "text/plain"} for bundle in first)
    assert all(cell.outputs[0].output_type == "display_data" for cell in executed[0].cells[1:])


def test_every_kind_survives_nbconvert(executed: list[nbformat.NotebookNode]) -> None:
    notebook = copy.deepcopy(executed[0])
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.outputs:
            output.data.pop("application/vnd.jupyter.widget-view+json", None)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    for bundle in committed(executed[0]):
        first_line = bundle["text/html"].splitlines()[-1]
        assert first_line in page
    assert page.count("<details>") == sum(bundle["text/html"].count("<details>") for bundle in committed(executed[0]))
    assert "sample.single" in page


def test_no_prints_and_no_output_widgets() -> None:
    """They vanish into a log, or break nbval: text goes into the view."""
    for path in Path(static.__file__).parent.glob("*.py"):
        if path.name != "__main__.py":
            source = path.read_text()
            assert not re.search(r"^\s*print\(|widgets\.Output\b", source, flags=re.M), path.name
