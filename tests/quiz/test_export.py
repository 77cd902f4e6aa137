"""Out of the notebook: an Anki deck that updates, GIFT that another parser reads, a page that needs no script."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.quiz.harmless import faults
from utils.quiz import bank, export
from utils.quiz.__main__ import main

NAME = "data-or-model-parallelism"


def notes(path: Path) -> list[tuple]:
    """Return (guid, fields, tags) of an Anki package."""
    folder = path.with_suffix("")
    with zipfile.ZipFile(path) as packed:
        packed.extract("collection.anki2", folder)
    with sqlite3.connect(folder / "collection.anki2") as base:
        found = base.execute("select guid, flds, tags from notes order by guid").fetchall()
        assert base.execute("select count(*) from cards").fetchone()[0] == len(found)
    return found


def test_an_anki_deck_imported_again_updates_its_notes(sample: bank.Bank, tmp_path: Path) -> None:
    assert export.anki([sample], tmp_path / "one.apkg") == 9
    first = notes(tmp_path / "one.apkg")
    changed = [
        bank.Item(**{**vars(item), "raw": {**item.raw, "prompt": f"{item['prompt']} (reworded)"}})
        for item in sample.items
    ]
    export.anki([bank.Bank(**{**vars(sample), "items": tuple(changed)})], tmp_path / "two.apkg")
    second = notes(tmp_path / "two.apkg")
    assert [guid for guid, *_ in first] == [guid for guid, *_ in second], "same notes, so an import updates them"
    assert [fields for _, fields, _ in first] != [fields for _, fields, _ in second]
    shown = " ".join(fields for _, fields, _ in first)
    assert "\\(\\Psi\\)" in shown
    assert "<script" not in shown


def test_without_genanki_the_message_says_what_to_install(
    sample: bank.Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "genanki", None)
    assert main(["export", "--anki", "--to", str(tmp_path / "x.apkg"), "sample"]) == 1
    assert "pip install genanki" in capsys.readouterr().out


PARSER = """
import json, sys
from pygiftparser import parser
found = []
for question in parser.parseFile(open(sys.argv[1], encoding="utf-8")):
    answers = getattr(question.answers, "answers", None) or []
    found.append({"name": question.title, "valid": question.valid, "kind": type(question.answers).__name__,
                  "fractions": [float(answer.fraction) for answer in answers],
                  "reasons": [bool(answer.feedback) for answer in answers], "general": question.generalFeedback or ""})
print(json.dumps(found))
"""
PARSER_NEEDS = (
    "pygiftparser==1.1",
    "Markdown==3.0.1",
    "MarkdownSuperscript==2.1.1",
    "yattag==1.16.1",
    "setuptools==75.8.0",
)


@pytest.fixture(scope="session")
def gift_parser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install an independent GIFT parser aside: the old packages it needs must not meet the course's own."""
    folder = tmp_path_factory.mktemp("gift")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, *PARSER_NEEDS], check=True)
    return folder


@pytest.mark.parametrize("name", ["sample", NAME])
def test_another_parser_reads_the_gift(
    name: str, gift_parser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "sample":
        monkeypatch.setattr(bank, "FOLDER", Path(__file__).parent / "bank")
    path = tmp_path / "bank.gift"
    assert main(["export", "--gift", "--to", str(path), name]) == 0
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSER, str(path)],
        env={**os.environ, "PYTHONPATH": str(gift_parser)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    questions = {question["name"]: question for question in json.loads(done.stdout)}
    wanted = {item.id: item for item in bank.load(name).select() if item.type not in ("predict", "code")}
    assert set(questions) == set(wanted)
    for identifier, item in wanted.items():
        read = questions[identifier]
        assert read["valid"], identifier
        if item.get("options") and item.type != "multi":
            assert read["fractions"] == [100.0 if option.get("correct") else 0.0 for option in item["options"]]
            assert all(read["reasons"])
        elif item.type == "multi":
            assert sum(fraction for fraction in read["fractions"] if fraction > 0) == pytest.approx(100, abs=0.01)
        elif isinstance(item.get("answer"), dict):
            assert read["fractions"] == [100.0] + [0.0] * len(item["answer"].get("catch", []))
        else:
            assert read["kind"] == "Essay"
            assert read["general"]


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids |= {value or "" for name, value in attrs if name == "id"}


def test_the_page_has_every_item_closed_and_no_script(sample: bank.Bank, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert main(["export", "--html", "--to", str(path), "sample"]) == 0
    page = path.read_text()
    links = Links()
    links.feed(page)
    assert not links.tags & {"script", "img", "iframe", "link", "input"}
    assert links.ids == {"sample"}
    assert "<math" in page
    assert "<details open" not in page
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page), "nothing is fetched"
    body = page[page.index("<section") : page.index("</main>")]
    assert [fault for fault in faults(body) if "section" not in fault and not re.match(r"<h\d>", fault)] == []
    for item in sample.select():
        if item.type not in ("predict", "code"):
            assert re.sub(r"[*`]", "", item["prompt"].splitlines()[0])[:20] in re.sub(r"<[^>]+>", "", body)


def test_a_file_that_cannot_be_written_is_said(sample: bank.Bank, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--html", "--to", "/nowhere/at/all.html", "sample"]) == 1
    assert "/nowhere/at/all.html" in capsys.readouterr().out
