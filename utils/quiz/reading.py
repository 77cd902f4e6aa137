"""Parse one file of the bank and say what is wrong with it: every message names file, item and field."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parent / "schema.json"


class BankError(ValueError):
    """Something is wrong with the bank or with a name given to it; the message is written for the person reading it."""

    def _render_traceback_(self) -> list[str]:
        """Show the message alone: a traceback through this package would not help (IPython calls this)."""
        return [f"{type(self).__name__}: {self}"]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the closest of the known names, or some of them, or nothing."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known are: {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}." if known else ""


def read(path: Path) -> Any:
    """Parse a YAML file; raise BankError with file, line and column where it is no YAML or names a key twice."""
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc, valid-type]
        """A loader that refuses a key written twice; plain YAML keeps the last one silently."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    where = key.start_mark
                    raise BankError(f"{path.name}, line {where.line + 1}: the key {key.value!r} is written twice.")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)
    except UnicodeDecodeError as error:
        raise BankError(f"{path.name} is not UTF-8 text: byte {error.start} cannot be read.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        advice = "Text with a colon, a quote or a backslash belongs in single quotes or in a block (|)."
        raise BankError(f"{path.name}{where}: {problem}. {advice}") from None


def _validator() -> Any:
    """Return the JSON Schema validator.

    jsonschema imports rfc3987_syntax where it is installed (jupyter does), and that builds a grammar for 9 seconds at
    import; no format is checked here, so it is told that the package is absent.
    """
    import sys

    block = "jsonschema" not in sys.modules and "rfc3987_syntax" not in sys.modules
    if block:
        sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    try:
        from jsonschema import Draft202012Validator
    finally:
        if block:
            del sys.modules["rfc3987_syntax"]
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def schema_faults(data: Any) -> list[str]:
    """Return what the schema finds wrong, one line each: item id (or place), field, what is expected."""
    errors = sorted(_validator().iter_errors(data), key=lambda error: [str(part) for part in error.absolute_path])
    crowded = {_item_index(e) for e in errors if e.validator != "unevaluatedProperties"} - {None}
    lines = []
    for error in errors:
        index = _item_index(error)
        # beside a real error jsonschema also calls every field of the item unevaluated: noise
        if error.validator == "unevaluatedProperties" and index in crowded:
            continue
        field = ".".join(str(part) for part in list(error.absolute_path)[0 if index is None else 2 :])
        lines.append(f"{_item_name(data, index)}{f', field {field}' if field else ''}: {_explain(error)}")
    return list(dict.fromkeys(lines))


def _item_index(error: Any) -> int | None:
    path = list(error.absolute_path)
    return path[1] if len(path) > 1 and path[0] == "items" else None


def _item_name(data: Any, index: int | None) -> str:
    if index is None:
        return "the file"
    raw = data["items"][index]
    name = raw.get("id") if isinstance(raw, dict) else None
    return f"item {name!r}" if name else f"item number {index + 1} (no id)"


def _explain(error: Any) -> str:
    value = error.instance
    if error.validator in ("contains", "maxContains", "minContains"):
        marked = sum(isinstance(o, dict) and o.get("correct") is True for o in value)
        return f"{marked} options are marked `correct: true`"
    if error.validator == "type" and isinstance(value, bool):
        return f"{value} is no text: YAML reads yes, no, on and off as true and false; put it in quotes"
    if error.validator == "enum":
        return f"{value!r} is not one of {', '.join(map(repr, error.validator_value))}"
    if error.validator == "pattern":
        return f"{value!r} does not have the form {error.validator_value}"
    if error.validator in ("unevaluatedProperties", "additionalProperties"):
        text = re.sub(r"^\w+ properties are not allowed", "no such field here", error.message)
        spaced = re.search(r"'[^']* [^']*' (was|were)", text)
        return text + ("; between { and } a comma ends the text: put it in quotes" if spaced else _typo(error))
    return error.message if len(error.message) < 160 else f"{error.message[:60]} ... {error.message[-90:]}"


def _typo(error: Any) -> str:
    fields = set(_fields(json.loads(SCHEMA.read_text(encoding="utf-8"))))
    unknown = re.findall(r"'(\w+)'", error.message)
    return "".join(
        nearest(name, sorted(fields)) for name in unknown[:1] if difflib.get_close_matches(name, fields, 1, 0.7)
    )


def _fields(schema: Any) -> Iterator[str]:
    """Yield the name of every field that the schema knows anywhere."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from _fields(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _fields(part)


def id_faults(data: Mapping[str, Any], name: str) -> list[str]:
    """Return what is wrong with names: file against bank, ids twice or with a foreign beginning, unknown topics."""
    faults = []
    if data["bank"] != name:
        faults.append(f"the file, field bank: {data['bank']!r} does not equal the name of the file, {name!r}")
    topics = [topic["id"] for topic in data["topics"]]
    seen: set[str] = set()
    for raw in data["items"]:
        who = f"item {raw['id']!r}"
        if raw["id"] in seen:
            faults.append(f"{who}, field id: used twice in this file")
        seen.add(raw["id"])
        if not raw["id"].startswith(data["bank"] + "."):
            faults.append(f"{who}, field id: must start with {data['bank'] + '.'!r}")
        if "topic" not in raw and len(topics) > 1:
            faults.append(f"{who}, field topic: is missing, and this file has several topics: {', '.join(topics)}")
        elif raw.get("topic", topics[0]) not in topics:
            faults.append(
                f"{who}, field topic: {raw['topic']!r} is not defined in this file.{nearest(raw['topic'], topics)}"
            )
        ids = [option["id"] for option in raw.get("options", [])] + [c["id"] for c in raw.get("concepts", [])]
        faults += [
            f"{who}: the option or concept id {i!r} is used twice" for i in sorted({i for i in ids if ids.count(i) > 1})
        ]
    return faults
