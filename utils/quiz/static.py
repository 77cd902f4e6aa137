"""The form of an item without a kernel: `text/html` that reads and opens through `<details>`, and `text/plain`.

Both are functions of the bank alone (never of learner, clock or chance), so a committed notebook has the same bytes on
every run. Answers are in closed `<details>`; the plain text has none. Options stand in the order of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from utils.quiz.bank import Bank, Item
from utils.quiz.text import calm, escape, inline, show_value, to_html, to_plain

KINDS = {
    "flashcard": "Flashcard",
    "mcq": "Question, one answer",
    "multi": "Question, one or more answers",
    "numeric": "Question with a number",
    "open": "Open question",
    "problem": "Practice problem",
    "predict": "Predict",
    "code": "Exercise",
}


def details(summary: str, body: str) -> str:
    """Return a closed fold; `summary` and `body` are HTML."""
    return f"<details><summary>{summary}</summary>\n{body}\n</details>"


def item_html(item: Item, place: str = "", live: bool = False) -> str:
    """Return an item as HTML; `place` is text such as "Practice 1 of 5"; `live` typesets mathematics as MathML."""
    head = " · ".join(part for part in (place, KINDS[item.type], item.label) if part)
    parts = [f"<p><strong>{escape(head)}</strong></p>", to_html(item["prompt"], live)]
    parts += _BODIES[item.type](item, live)
    return calm("<div>\n" + "\n".join(parts) + "\n</div>")


def item_text(item: Item, place: str = "") -> str:
    """Return an item's question as plain text, with no answer in it."""
    head = " · ".join(part for part in (place, KINDS[item.type], item.label, item.id) if part)
    lines = [f"[{head}]", to_plain(item["prompt"])]
    lines += [f"  - {to_plain(option['text'])}" for option in item.get("options", [])]
    return "\n".join(lines)


def _options(item: Item, live: bool = False) -> list[str]:
    rows = []
    for option in item["options"]:
        verdict = "Right." if option.get("correct") else "Not right."
        fold = details(
            inline(option["text"], live), f"<p><strong>{verdict}</strong></p>\n{to_html(option['why'], live)}"
        )
        rows.append(f"<li>{fold}</li>")
    return ["<p>Choose, then open your answer:</p>", "<ul>\n" + "\n".join(rows) + "\n</ul>"]


def _choice(item: Item, live: bool = False) -> list[str]:
    parts = _options(item, live)
    if "explanation" in item.raw:
        parts.append(details("Explanation", to_html(item["explanation"], live)))
    return parts


def number_text(answer: dict[str, Any], value: float | None = None) -> str:
    """Return a right answer, or another value in its unit, as text: "1200 MB"."""
    found = answer["value"] if value is None else value
    shown = f"{found:.0f}" if found == round(found) and abs(found) < 1e15 else f"{found:.6g}"
    return f"{shown} {answer.get('unit', '')}".strip()


def _number(answer: dict[str, Any], live: bool = False) -> str:
    rows = [f"<p><strong>{escape(number_text(answer))}</strong></p>"]
    wrong = [
        f"<li>{escape(number_text(answer, c['value']))}: {inline(c['why'], live)}</li>" for c in answer.get("catch", [])
    ]
    if wrong:
        rows.append("<p>Wrong numbers and where they come from:</p>\n<ul>\n" + "\n".join(wrong) + "\n</ul>")
    return "\n".join(rows)


def _numeric(item: Item, live: bool = False) -> list[str]:
    return _hints(item, live) + [
        details("Answer", _number(item["answer"], live) + "\n" + to_html(item["explanation"], live))
    ]


def _hints(item: Item, live: bool = False) -> list[str]:
    hints = item.get("hints", [])
    return [details("Hint" if len(hints) == 1 else f"Hint {n}", to_html(hint, live)) for n, hint in enumerate(hints, 1)]


def concept_list(item: Item, live: bool = False) -> str:
    """Return the concepts of an open question as an HTML list."""
    rows = []
    for concept in item["concepts"]:
        detail = f": {inline(concept['detail'], live)}" if "detail" in concept else ""
        rows.append(f"<li>{inline(concept['label'], live)}{detail}</li>")
    return "<ul>\n" + "\n".join(rows) + "\n</ul>"


def _open(item: Item, live: bool = False) -> list[str]:
    body = "<p>Which of these are in your answer?</p>\n" + concept_list(item, live)
    return (
        ["<p>Write your answer first.</p>"]
        + _hints(item, live)
        + [details("Concepts to check", body), details("Model answer", to_html(item["model_answer"], live))]
    )


def steps_html(item: Item, live: bool = False) -> str:
    """Return the steps of a problem as an HTML list."""
    rows = []
    for step in item["steps"]:
        why = f"\n<p>{inline(step['why'], live)}</p>" if "why" in step else ""
        rows.append(f"<li>{inline(step['do'], live)}{why}</li>")
    return "<ol>\n" + "\n".join(rows) + "\n</ol>"


def mistakes_html(item: Item, live: bool = False) -> str:
    """Return the common mistakes of a problem, each with its cure."""
    pairs = [(inline(m["mistake"], live), inline(m["fix"], live)) for m in item["common_mistakes"]]
    rows = [f"<li><strong>{mistake}</strong> {fix}</li>" for mistake, fix in pairs]
    return "<ul>\n" + "\n".join(rows) + "\n</ul>"


def _problem(item: Item, live: bool = False) -> list[str]:
    parts = _options(item, live) if "options" in item.raw else []
    parts += _hints(item, live)
    answer = to_html(item["final_answer"], live) + (
        "\n" + _number(item["answer"], live) if "answer" in item.raw else ""
    )
    return parts + [
        details("Solution in steps", steps_html(item, live)),
        details("Final answer", answer),
        details("Quick check", to_html(item["quick_check"], live)),
        details("Common mistakes", mistakes_html(item, live)),
    ]


def _flashcard(item: Item, live: bool = False) -> list[str]:
    return [details("Answer", to_html(item["answer"], live))]


def _predict(item: Item, live: bool = False) -> list[str]:
    parts = [f"<pre><code>{escape(item['code'].rstrip())}</code></pre>"] if "code" in item.raw else []
    if "options" in item.raw:
        parts.append("<ul>\n" + "\n".join(f"<li>{inline(o['text'], live)}</li>" for o in item["options"]) + "\n</ul>")
    return parts + ["<p>Decide first. The next cell shows what happens.</p>"]


def _code(item: Item, live: bool = False) -> list[str]:
    where = f"exercises/..._{item['lesson']}.ipynb"
    parts = [f"<p>In <code>{escape(where)}</code>, checked by <code>check.{escape(item['check'])}</code>.</p>"]
    if "starter" in item.raw:
        parts.append(f"<pre><code>{escape(item['starter'].rstrip())}</code></pre>")
    return parts + _hints(item, live)


_BODIES = {
    "flashcard": _flashcard,
    "mcq": _choice,
    "multi": _choice,
    "numeric": _numeric,
    "open": _open,
    "problem": _problem,
    "predict": _predict,
    "code": _code,
}


def outcome_html(item: Item, live: bool = False) -> str:
    """Return what explains a prediction once the result is there: outcome, each option's why, explanation."""
    parts = [to_html(item["outcome"], live)] if "outcome" in item.raw else []
    if "options" in item.raw:
        rows = []
        for option in item["options"]:
            verdict = "Right" if option.get("correct") else "Not right"
            why = inline(option["why"], live)
            rows.append(f"<li>{inline(option['text'], live)}<br><strong>{verdict}.</strong> {why}</li>")
        parts.append("<ul>\n" + "\n".join(rows) + "\n</ul>")
    return "\n".join(parts + [to_html(item["explanation"], live)])


def reveal_html(item: Item, value: Any) -> str:
    """Return the real result of a predicted cell, folded: "predict first" on the fold."""
    body = f"<pre>{escape(show_value(value))}</pre>\n{outcome_html(item)}"
    return calm("<div>\n" + details("Predict first (the cell above asks), then open the result", body) + "\n</div>")


def reveal_text(item: Item) -> str:
    """Return the plain text of a reveal: it points to the prediction and gives nothing away."""
    return f"[Result of {item.id}] Predict first; the result is folded in the HTML form of this output."


def list_html(title: str, items: Sequence[Item], place: str) -> str:
    """Return several items under a title, numbered as "<place> 1 of n"."""
    body = [item_html(item, f"{place} {n} of {len(items)}") for n, item in enumerate(items, 1)]
    return calm("<div>\n" + "\n".join([f"<p><strong>{escape(title)}</strong></p>", *body]) + "\n</div>")


def list_text(title: str, items: Sequence[Item], place: str) -> str:
    """Return several items as plain text: what each asks, in its first line."""
    body = [f"{place} {n}: {to_plain(item['prompt']).splitlines()[0]}" for n, item in enumerate(items, 1)]
    return "\n".join([title, *body])


def blueprint(bank: Bank) -> str:
    """Say how a bank's test is drawn: "10 questions: 3 easy, 4 medium, 3 hard"."""
    parts = [f"{count} {difficulty}" for difficulty, count in bank.draw.items() if count]
    return f"{sum(bank.draw.values())} questions: {', '.join(parts)}"
