"""The parts a view is made of. A view is plain data (a dict of JSON types); `widget.js` draws it, tests read it.

view = {label, blocks, say, focus, show, turn}: `blocks` are drawn in order and kept in place by their `id`, so that an
unchanged control keeps its focus and its text; `say` goes to the live region, which is there from the start; `focus`
names the block to move focus to, `show` the one to scroll to; `turn` counts actions, so that the same words can be said
twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from utils.quiz.text import calm, escape, inline, to_html

Block = dict[str, Any]
CONFIDENCE = (("1", "A guess"), ("2", "Fairly sure"), ("3", "Certain"))


def html(identifier: str, body: str, look: str = "") -> Block:
    """Return trusted HTML (made by `text`) as a block; `look` is a name for the style sheet."""
    return {"id": identifier, "kind": "html", "html": calm(body), "look": look}


def prose(identifier: str, markdown: str, look: str = "") -> Block:
    """Return the bank's Markdown as a block."""
    return html(identifier, to_html(markdown, live=True), look)


def plain(identifier: str, text: str, look: str = "") -> Block:
    """Return text of any origin as a block: it is escaped."""
    return html(identifier, f"<p>{escape(text)}</p>", look)


def heading(identifier: str, text: str) -> Block:
    """Return a heading that focus can be moved to."""
    return {"id": identifier, "kind": "heading", "html": escape(text)}


def choices(
    identifier: str, legend: str, options: Iterable[tuple[str, str]], many: bool = False, look: str = "", **more: Any
) -> Block:
    """Return a fieldset of radios, or of checkboxes; options are (id, HTML)."""
    rows = [{"id": key, "html": body} for key, body in options]
    return {"id": identifier, "kind": "choices", "legend": legend, "options": rows, "many": many, "look": look, **more}


def confidence() -> Block:
    """Return the question how sure the learner is; it may be left alone."""
    return choices("confidence", "How sure are you? (optional)", CONFIDENCE, look="row")


def number(identifier: str, label: str, unit: str = "") -> Block:
    """Return a line to type a number in."""
    return {"id": identifier, "kind": "line", "label": label, "unit": unit}


def area(identifier: str, label: str, rows: int = 5) -> Block:
    """Return a box to write in."""
    return {"id": identifier, "kind": "area", "label": label, "rows": rows}


def fold(identifier: str, summary: str, body: str, open_: bool = False) -> Block:
    """Return a `<details>`; summary is text, body trusted HTML."""
    return {"id": identifier, "kind": "fold", "summary": summary, "html": calm(body), "open": open_}


def button(do: str, label: str, primary: bool = False) -> Block:
    """Return one button of a row."""
    return {"do": do, "label": label, "primary": primary}


def buttons(identifier: str, *row: Block) -> Block:
    """Return a row of buttons."""
    return {"id": identifier, "kind": "buttons", "buttons": list(row)}


def results(identifier: str, options: Iterable[dict[str, Any]], chosen: Collection[str]) -> Block:
    """Return all options with what was chosen, what is right, and why, for each."""
    rows = []
    for option in options:
        right, picked = bool(option.get("correct")), option["id"] in chosen
        if right:
            badge = "Your answer: right" if picked else "Right"
        else:
            badge = "Your answer: not right" if picked else "Not right"
        rows.append(
            {
                "html": inline(option["text"], live=True),
                "why": to_html(option["why"], live=True),
                "badge": badge,
                "mark": "right" if right else "wrong" if picked else "",
            }
        )
    return {"id": identifier, "kind": "results", "rows": rows}


def prefixed(prefix: str, blocks: Iterable[Block]) -> list[Block]:
    """Return blocks with ids of their own, so that two items in one player share no control."""
    return [{**block, "id": f"{prefix}/{block['id']}"} for block in blocks]


def banner(text: str, tone: str) -> Block:
    """Return the verdict as a line of text; `tone` is right, wrong or info."""
    return html("banner", f"<p>{escape(text)}</p>", f"banner {tone}")
