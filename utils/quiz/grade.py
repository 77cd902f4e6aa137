"""Grade a response: pure functions of item and response, without widgets, clock or log."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from utils.quiz.bank import Item

_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Grade:
    """The outcome: right or not, a score from 0 to 1, and what to say about this very response (Markdown)."""

    ok: bool
    score: float
    note: str = ""
    misconception: str = ""


class ResponseError(ValueError):
    """The response is no answer yet (nothing chosen, no number); it is not graded and does not count."""


def choice(item: Item, chosen: Collection[str]) -> Grade:
    """Grade the chosen option ids of a single or multiple choice.

    A multiple choice is right when exactly the right options are chosen; its score is max(0, right - wrong) / all right
    ones, so that choosing everything earns little. Raises ResponseError where nothing known is chosen.
    """
    options = {option["id"]: option for option in item["options"]}
    picked = [options[identifier] for identifier in options if identifier in chosen]
    if not picked:
        raise ResponseError("Choose an option first.")
    if item.type != "multi":
        picked = picked[:1]
    right = {identifier for identifier, option in options.items() if option.get("correct")}
    hits = sum(option["id"] in right for option in picked)
    ok = hits == len(right) and len(picked) == hits
    score = max(0, 2 * hits - len(picked)) / len(right)
    wrong: dict[str, Any] = next((option for option in picked if not option.get("correct")), {})
    return Grade(ok, score, misconception=wrong.get("misconception", ""))


def arithmetic(expression: str) -> float:
    """Return the value of an expression of numbers, + - * / // % ** and brackets.

    Raises ValueError at anything else, and at results too large for a float.
    """

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return float(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return -value(node.operand) if isinstance(node.op, ast.USub) else value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            result = _ARITHMETIC[type(node.op)](value(node.left), value(node.right))
            if isinstance(result, float):  # a negative number to a broken power is complex
                return result
        raise ValueError("only numbers, + - * / // % ** and brackets are understood")

    try:
        result = value(ast.parse(expression.strip(), mode="eval"))
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"{expression.strip()[:40]!r} cannot be computed ({type(error).__name__})") from None
    if not math.isfinite(result):
        raise ValueError(f"{expression.strip()[:40]!r} is not a finite number")
    return result


_NUMBER = re.compile(
    r"^\s*(?P<number>[-+]?[\d(.][\d\s_.,()+*/eE-]*?)\s*(?P<unit>(?![eE][-+]?\d)[^\W\d_][\w/%²³]*|%|)\s*$"
)


def parse_number(text: str) -> tuple[float, str]:
    """Return (number, unit) of what a learner typed: "1.2 GB", "1,200", "0,75", "2*3/4*800", "2/3".

    Raises ResponseError where there is no number to be read.
    """
    if len(text) > 120:
        raise ResponseError("That is too long for a number.")
    match = _NUMBER.match(text.replace("×", "*").replace("·", "*").replace("−", "-").replace("\u00a0", " "))
    if not match:
        raise ResponseError("Type a number, for example 0.75, 2/3 or 1200.")
    number = match["number"].replace("_", "")
    number = re.sub(r"(?<=\d)[ ](?=\d{3}\b)", "", number)
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", number):
        number = number.replace(",", "")
    elif re.fullmatch(r"[-+]?\d+,\d+", number):
        number = number.replace(",", ".")
    number = re.sub(r"(?<![\d.])0+(?=\d)", "", number)  # 007 is 7, to Python a mistake
    try:
        return arithmetic(number), match["unit"]
    except ValueError as error:
        raise ResponseError(f"That cannot be read as a number: {error}.") from None


def tolerance(answer: Mapping[str, Any]) -> float:
    """Return how far a number may lie from the right one, in the answer's unit; 1 % where nothing is said."""
    if "abs_tol" in answer:
        return float(answer["abs_tol"])
    return answer.get("rel_tol", 0.01) * abs(answer["value"])


def in_unit(answer: Mapping[str, Any], text: str) -> float:
    """Return what was typed as a number in the answer's unit; raise ResponseError at an unknown unit."""
    number, unit = parse_number(text)
    own = answer.get("unit", "")
    known = {own: 1.0, **answer.get("accept_units", {})}
    if not unit or unit == own:
        return number
    if unit == "%" and "%" not in known and not own:
        return number / 100
    if not own and len(unit) > 3 and unit.isalpha() and unit.lower() != "percent":
        return number  # of what is counted, in words: "90 sequences"
    match = [name for name in known if name == unit] or [name for name in known if name.lower() == unit.lower()]
    if len(match) == 1:
        return number * known[match[0]]
    names = ", ".join(name for name in known if name) or "a plain number"
    raise ResponseError(f"The unit {unit!r} is not known here; give the number in {names}.")


def number(answer: Mapping[str, Any], text: str) -> Grade:
    """Grade a typed number against value, tolerance and units; an expected wrong number is named by its cause.

    Raises ResponseError where what was typed is no number.
    """
    given = in_unit(answer, text)
    slack = tolerance(answer) + 1e-12 * max(1.0, abs(answer["value"]))
    if abs(given - answer["value"]) <= slack:
        return Grade(True, 1.0)
    for caught in answer.get("catch", []):
        if abs(given - caught["value"]) <= caught.get("rel_tol", 0.01) * abs(caught["value"]) + 1e-12:
            return Grade(False, 0.0, caught["why"], caught.get("misconception", ""))
    if answer["value"] and given:
        factor = given / answer["value"]
        if factor < 0 and abs(factor + 1) < 0.02:
            return Grade(False, 0.0, "The size is right, the sign is not.")
        power = math.log10(abs(factor))
        if abs(power - round(power)) < 0.005 and round(power):
            return Grade(
                False, 0.0, f"Your number is {10 ** round(power):g} times the right one: look at units and zeros."
            )
    return Grade(False, 0.0)
