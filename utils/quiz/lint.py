"""Find what the schema cannot: wording that shuffling breaks, give-away options, sums that do not add up.

A fault is one line that names file, item and field and says what to do. `warnings` are counts to look at (balance and
length of options, size of the test's pool); they do not fail a build.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from utils.quiz import bank as banks
from utils.quiz import grade
from utils.quiz.bank import Bank, BankError, Item
from utils.quiz.text import inline, mathml, to_html

_LETTER = re.compile(
    r"\b(?:options?|answers?|choices?)\s+(?:\(?[A-F]\)?|[1-6])(?![\w-])"
    r"|\b(?:both|neither)\s+[A-F]\s+(?:and|nor)\s+[A-F]\b"
)
_PLACE = re.compile(
    r"\b(?:first|second|third|fourth|last)\s+(?:option|answer|choice)\b|\b(?:option|answer|choice)s?\s+(?:above|below)\b",
    re.I,
)
_ALL = re.compile(r"^\W*(?:all|none|both|neither)\s+of\s+(?:the|these|them)\b|^\W*(?:both|neither|all|none)\W*$", re.I)
_NOT = re.compile(r"\b(?:not|never|except)\b(?=[^?]*\?)", re.I)
_HTML = re.compile(r"</?(?:div|span|b|i|p|br|script|img|sub|sup|details|table)\b[^>]*>", re.I)


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every (field, text) of an item, nested ones too."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from texts(inner, f"{path}.{index}")


_PROSE = {"prompt", "explanation", "text", "why", "answer", "label", "detail", "model_answer", "do", "final_answer",
          "quick_check", "mistake", "fix", "outcome", "hints", "sources"}  # fmt: skip


def _prose(item: Item) -> Iterator[tuple[str, str]]:
    for field, text in texts(dict(item.raw)):
        if any(part in _PROSE for part in field.split(".")) and not field.endswith((".id", "derive", "unit")):
            yield field, text


def item_faults(item: Item, misconceptions: Iterable[str]) -> list[str]:
    """Return what is wrong with one item, as "field: what"."""
    known = set(misconceptions)
    faults = []
    for field, text in _prose(item):
        faults += [f"{field}: {problem}" for problem in _text_faults(text)]
    for field, text in texts(dict(item.raw)):
        if field.endswith("misconception") and text not in known:
            near = banks.nearest(text, sorted(known))
            faults.append(f"{field}: {text!r} is not defined, here or in {banks.MISCONCEPTIONS}.{near}")
    if "options" in item.raw:
        faults += _option_faults(item)
    if isinstance(item.get("answer"), dict):
        faults += _number_faults(item["answer"])
    if item.type == "predict" and "options" in item.raw and "answer" in item.raw:
        faults.append("answer: a predict item has options or a number, not both")
    return faults


def _text_faults(text: str) -> list[str]:
    faults = []
    bare = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    for pattern in (_LETTER, _PLACE):
        if match := pattern.search(bare):
            faults.append(f"{match.group(0)!r} names an option by letter or place, but options are shuffled")
    if match := _HTML.search(bare):
        faults.append(f"raw HTML {match.group(0)!r} would be shown as text; write Markdown")
    without = re.sub(r"\\\$", "", bare)
    if without.count("$") % 2:
        faults.append("an odd number of $: mathematics is not closed, or a price needs \\$")
    if text.count("```") % 2:
        faults.append("a fenced code block is not closed")
    for formula in re.findall(r"\$\$?(.+?)\$\$?", without, flags=re.S):
        if "<code>" in mathml(formula):
            faults.append(f"the formula ${formula}$ cannot be typeset")
    try:
        to_html(text)
    except Exception as error:
        faults.append(f"the Markdown cannot be rendered ({error})")
    return faults


def _option_faults(item: Item) -> list[str]:
    faults = []
    seen: dict[str, str] = {}
    for index, option in enumerate(item["options"]):
        where = f"options.{index} ({option['id']})"
        key = re.sub(r"[\W_]+", " ", option["text"].casefold()).strip()
        if key in seen:
            faults.append(f"{where}.text: the same as option {seen[key]!r}")
        seen[key] = option["id"]
        if _ALL.search(option["text"]) and option.get("pin") != "last":
            faults.append(f"{where}.text: 'all', 'none' or 'both' of others needs `pin: last`")
        if not option.get("correct") and "misconception" not in option and item.type != "multi":
            faults.append(f"{where}.misconception: a wrong option names the mistake in thinking behind it")
        if "\n" in option["text"].strip() and "```" in option["text"]:
            faults.append(f"{where}.text: a code block does not fit in an option; use `code` or put it in the prompt")
    if (match := _NOT.search(re.sub(r"`[^`]*`", "", item["prompt"]))) and f"**{match.group(0)}" not in item["prompt"]:
        last = item["prompt"].rstrip().rsplit(". ", 1)[-1]
        if re.match(r"\s*(?:which|what|who|when|where)\b.*\b(?:not|never|except)\b", last, re.I | re.S):
            faults.append(
                f"prompt: the question turns on {match.group(0)!r}; write it as **{match.group(0)}** or ask positively"
            )
    return faults


def _number_faults(answer: dict[str, Any]) -> list[str]:
    faults = []
    for where, entry in [("answer", answer)] + [
        (f"answer.catch.{i}", c) for i, c in enumerate(answer.get("catch", []))
    ]:
        if "derive" not in entry:
            continue
        try:
            value = grade.arithmetic(str(entry["derive"]))
        except ValueError as error:
            faults.append(f"{where}.derive: {entry['derive']!r} cannot be computed: {error}")
            continue
        if abs(value - entry["value"]) > 1e-9 + 0.005 * abs(value):
            faults.append(f"{where}.value: is {entry['value']:g}, but derive gives {value:g}")
    for i, caught in enumerate(answer.get("catch", [])):
        if abs(caught["value"] - answer["value"]) <= grade.tolerance(answer):
            faults.append(f"answer.catch.{i}.value: {caught['value']:g} lies within the tolerance of the right answer")
    if answer.get("unit") and "accept_units" in answer and answer["accept_units"].get(answer["unit"]) != 1:
        faults.append(f"answer.accept_units: must hold the answer's own unit, {answer['unit']!r}, with the factor 1")
    return faults


def misconceptions() -> dict[str, str]:
    """Return the misconceptions by slug; raise BankError where the file is broken."""
    data = banks.read(banks.FOLDER / banks.MISCONCEPTIONS)
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise BankError(f"{banks.MISCONCEPTIONS}: must be lines of the form slug: what is believed")
    return data


def lint(name: str) -> tuple[list[str], list[str]]:
    """Return (faults, warnings) of one bank, each line naming file, item and field."""
    bank = banks.load(name)
    shared = misconceptions()
    file = bank.path.name
    twice = [
        f"{file}, misconceptions.{slug}: also defined in {banks.MISCONCEPTIONS}; one of the two can go"
        for slug in bank.misconceptions
        if slug in shared
    ]
    known = {**shared, **bank.misconceptions}
    faults = [f"{file}, item {item.id!r}, {fault}" for item in bank.items for fault in item_faults(item, known)]
    return faults + _sibling_faults(bank), twice + _balance(bank)


def _sibling_faults(bank: Bank) -> list[str]:
    faults = []
    groups: dict[str, list[Item]] = {}
    for item in bank.items:
        if "equiv" in item.raw and item.status == "live":
            groups.setdefault(item.equiv, []).append(item)
    for slug, group in groups.items():
        for field in ("difficulty", "topic"):
            kinds = ", ".join(sorted({getattr(item, field) for item in group}))
            if "," in kinds:
                ids = ", ".join(item.id for item in group)
                faults.append(f"{bank.path.name}, item {group[0].id!r}, equiv {slug!r}: {field} is {kinds} among {ids}")
    return faults


def _balance(bank: Bank) -> list[str]:
    return [f"{bank.path.name}: {line}" for line in [*_pool_warnings(bank), *_option_warnings(bank)]]


def _pool_warnings(bank: Bank) -> Iterator[str]:
    pool = bank.select("mcq", "multi", "numeric", role="test")
    for difficulty, draw in bank.draw.items():
        slots = Counter(item.equiv for item in pool if item.difficulty == difficulty)
        want = draw + bank.follow_up.get(difficulty, 0)
        if len(slots) < draw:
            yield f"the test draws {draw} {difficulty} questions; the pool has {len(slots)} slots"
        elif len(slots) < want:
            yield f"test and five more want {want} {difficulty} slots; the pool has {len(slots)}, siblings fill in"
        for slug in sorted(slug for slug, count in slots.items() if count < 2):
            yield f"slot {slug!r} has no sibling for a second attempt"


def _option_warnings(bank: Bank) -> Iterator[str]:
    choices = bank.select("mcq")
    if len(choices) < 5:
        return
    longest = [i for i in choices if max(i["options"], key=lambda option: len(inline(option["text"]))).get("correct")]
    if len(longest) > 0.6 * len(choices):
        yield f"the right option is the longest in {len(longest)} of {len(choices)} questions; lengthen wrong ones"
    places = Counter(next(n for n, o in enumerate(i["options"]) if o.get("correct")) for i in choices)
    place, count = places.most_common(1)[0]
    if count > 0.5 * len(choices):
        yield f"the right option is number {place + 1} in the file in {count} of {len(choices)} questions"
