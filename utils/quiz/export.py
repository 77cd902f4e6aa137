"""Carry the bank out of the notebook: an Anki deck, Moodle's GIFT, and one page that works without JavaScript.

Every record is named by the item's id: importing a newer deck updates cards instead of adding them again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from utils.quiz import grade, static
from utils.quiz.bank import Bank, BankError, Item
from utils.quiz.text import escape, to_tex_html

COURSE = "one-model-many-workers"
STYLE = """:root{color-scheme:light dark}
body{max-width:46rem;margin:2rem auto;padding:0 1rem;font:1rem/1.55 system-ui,sans-serif}
h2{margin-top:3rem}h3{margin-top:2rem}summary{cursor:pointer;padding:.2rem 0}a{color:LinkText}
section>div{border:1px solid GrayText;border-radius:10px;padding:.2rem 1.1rem .9rem;margin:1rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere}"""


def _live(bank: Bank) -> list[Item]:
    return [item for item in bank.select() if item.type not in ("predict", "code")]


# ---- one page


def html_page(banks: Iterable[Bank]) -> str:
    """Return all items as one HTML page without script; mathematics is MathML, answers are in closed folds."""
    chosen = list(banks)
    links = "".join(f'<li><a href="#{escape(bank.name)}">{escape(bank.title)}</a></li>' for bank in chosen)
    sections = []
    for bank in chosen:
        parts = [f'<section id="{escape(bank.name)}"><h2>{escape(bank.title)}</h2>']
        for topic in bank.topics:
            items = [item for item in _live(bank) if item.topic == topic.id]
            if items:
                parts.append(f"<h3>{escape(topic.title)}</h3>")
                parts += [static.item_html(item, live=True) for item in items]
        sections.append("\n".join(parts) + "</section>")
    title = "One Model, Many Workers: cards, questions and problems"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body><main><h1>{title}</h1>\n<ul>{links}</ul>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


# ---- Moodle GIFT


def _gift(text: str) -> str:
    """Escape text for GIFT: a bare ~ = # { } : would be read as its marks, and a blank line ends a question."""
    return re.sub(r"([\\~=#{}:])", r"\\\1", text).replace("\n", "\\n")


def _html(markdown: str) -> str:
    # braces as entities: not every reader of GIFT understands an escaped one inside an answer
    return _gift(to_tex_html(markdown).replace("{", "&lbrace;").replace("}", "&rbrace;"))


def _gift_options(item: Item) -> Iterator[str]:
    right = sum(bool(option.get("correct")) for option in item["options"])
    wrong = len(item["options"]) - right
    for option in item["options"]:
        good = bool(option.get("correct"))
        mark = "=" if good else "~"
        if item.type == "multi":
            mark = f"~%{round(100 / right, 5):g}%" if good else f"~%-{round(100 / wrong, 5):g}%"
        yield f"\t{mark}{_html(option['text'])}#{_html(option['why'])}"


def _gift_number(answer: dict[str, Any]) -> Iterator[str]:
    yield f"\t=%100%{answer['value']}:{grade.tolerance(answer):g}#"
    for caught in answer.get("catch", []):
        slack = caught.get("rel_tol", 0.01) * abs(caught["value"])
        yield f"\t=%0%{caught['value']}:{slack:g}#{_html(caught['why'])}"


def gift_question(item: Item) -> str:
    """Return one item as a GIFT question."""
    prompt = _html(item["prompt"])
    if item.type == "numeric" or isinstance(item.get("answer"), dict):
        unit = item["answer"].get("unit")
        prompt += _gift(f"<p>In {escape(unit)}.</p>") if unit else ""
    head = f"::{_gift(item.id)}::[html]{prompt}"
    general = "\n\n".join(item[field] for field in ("final_answer", "explanation") if item.get(field))
    feedback = f"\t####{_html(general)}" if general else ""
    if item.get("options"):
        lines = [*_gift_options(item), feedback]
    elif isinstance(item.get("answer"), dict):
        return "\n".join([head + "{#", *_gift_number(item["answer"]), *([feedback] if feedback else []), "}"])
    else:
        answer = item.get("answer") or item.get("model_answer") or item.get("final_answer")
        lines = [f"\t####{_html(str(answer))}"]
    return "\n".join([head + "{", *(line for line in lines if line), "}"])


def gift(banks: Iterable[Bank]) -> str:
    """Return the banks as a GIFT file, one category a bank."""
    parts = []
    for bank in banks:
        parts.append(f"$CATEGORY: {COURSE}/{bank.name}")
        parts += [gift_question(item) for item in _live(bank)]
    return "\n\n".join(parts) + "\n"


# ---- Anki


def _number(name: str) -> int:
    """Return a number that stays the same for a name; Anki tells decks and note types apart by it."""
    return int(sha256(f"{COURSE}/{name}".encode()).hexdigest()[:8], 16) % (1 << 30) + (1 << 30)


def _sides(item: Item) -> tuple[str, str]:
    front = to_tex_html(item["prompt"])
    if item.get("options"):
        front += "<ul>" + "".join(f"<li>{to_tex_html(option['text'])}</li>" for option in item["options"]) + "</ul>"
        rows = []
        for option in item["options"]:
            verdict = "Right" if option.get("correct") else "Not right"
            rows.append(f"<li>{to_tex_html(option['text'])}<b>{verdict}.</b> {to_tex_html(option['why'])}</li>")
        back = "<ul>" + "".join(rows) + "</ul>"
    elif isinstance(item.get("answer"), dict):
        back = f"<p><b>{escape(static.number_text(item['answer']))}</b></p>"
    elif item.type == "open":
        back = "<ul>" + "".join(f"<li>{to_tex_html(concept['label'])}</li>" for concept in item["concepts"]) + "</ul>"
        back += to_tex_html(item["model_answer"])
    else:
        back = to_tex_html(item.get("answer") or item["final_answer"])
    return front, back + (to_tex_html(item["explanation"]) if item.get("explanation") else "")


def anki(banks: Iterable[Bank], path: Path) -> int:
    """Write the banks as an Anki package and return how many notes are in it.

    Raises BankError where genanki, which only this needs, is not installed.
    """
    try:
        import genanki
    except ImportError:
        raise BankError("The Anki export needs genanki: pip install genanki==0.13.1") from None

    model = genanki.Model(
        _number("model 1"),
        "One Model, Many Workers",
        fields=[{"name": name} for name in ("Id", "Front", "Back", "Level")],
        templates=[{"name": "Card", "qfmt": "{{Front}}", "afmt": "{{FrontSide}}<hr id=answer>{{Back}}"}],
        css=".card{font-family:sans-serif;font-size:18px;text-align:left}",
    )
    decks, count = [], 0
    for bank in banks:
        deck = genanki.Deck(_number(bank.name), f"One Model, Many Workers::{bank.title}")
        for item in _live(bank):
            note = genanki.Note(
                model=model,
                fields=[item.id, *_sides(item), item.label],
                tags=[bank.name, item.topic, item.difficulty],
                guid=genanki.guid_for(COURSE, item.id),
            )
            deck.add_note(note)
            count += 1
        decks.append(deck)
    genanki.Package(decks).write_to_file(str(path))
    return count
