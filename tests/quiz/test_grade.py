"""Grading: choices, numbers, units, expected wrong numbers, and input that is no answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.quiz import bank, grade
from utils.quiz.grade import ResponseError


@pytest.mark.parametrize(
    ("typed", "value", "unit"),
    [
        ("1200", 1200, ""),
        (" 1.2 GB ", 1.2, "GB"),
        ("1,200", 1200, ""),
        ("1 200 000", 1200000, ""),
        ("1_200", 1200, ""),
        ("0,75", 0.75, ""),
        ("2*3/4*800", 1200, ""),
        ("2·(4−1)/4×800 MB", 1200, "MB"),
        ("2/3", 2 / 3, ""),
        ("-5", -5, ""),
        ("1e3", 1000, ""),
        ("1.5e-3 GB", 0.0015, "GB"),
        ("66.7 %", 66.7, "%"),
        ("007", 7, ""),
        ("20 bytes/s", 20, "bytes/s"),
        (".5", 0.5, ""),
    ],
)
def test_numbers_are_read_as_people_write_them(typed: str, value: float, unit: str) -> None:
    assert grade.parse_number(typed) == (pytest.approx(value), unit)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "abc",
        "GB",
        "9**9**9**9",
        "(10**64)**64",
        "1e400",
        "1/0",
        "1+",
        "__import__('os')",
        "[1]",
        "1;2",
        "x" * 500,
        "nan",
    ],
)
def test_what_is_no_number_is_not_graded(typed: str) -> None:
    with pytest.raises(ResponseError):
        grade.parse_number(typed)


@given(st.text(max_size=200))
def test_no_typed_text_breaks_the_grader(typed: str) -> None:
    try:
        value, _ = grade.parse_number(typed)
    except ResponseError:
        return
    assert value == value  # never NaN


NUMBER = {
    "value": 1200,
    "rel_tol": 0.01,
    "unit": "MB",
    "accept_units": {"MB": 1, "GB": 1000},
    "catch": [{"value": 600, "why": "Half.", "misconception": "half-ring"}],
}


@pytest.mark.parametrize("typed", ["1200", "1200 MB", "1.2 GB", "1.2gb", "1211", "1189", "2*(4-1)/4*800"])
def test_right_numbers(typed: str) -> None:
    assert grade.number(NUMBER, typed) == grade.Grade(True, 1.0)


@pytest.mark.parametrize("typed", ["1213", "1187", "0", "-3"])
def test_wrong_numbers(typed: str) -> None:
    assert not grade.number(NUMBER, typed).ok


def test_an_expected_wrong_number_is_named_by_its_cause() -> None:
    assert grade.number(NUMBER, "0.6 GB") == grade.Grade(False, 0.0, "Half.", "half-ring")
    assert "1000 times" in grade.number(NUMBER, "1200000").note
    assert "sign" in grade.number(NUMBER, "-1200").note


def test_units() -> None:
    with pytest.raises(ResponseError, match=r"'kB' is not known here; give the number in MB, GB"):
        grade.number(NUMBER, "5 kB")
    assert grade.number({"value": 0.6667, "abs_tol": 0.01}, "66.7 %").ok
    with pytest.raises(ResponseError, match="a plain number"):
        grade.number({"value": 4}, "4 GB")
    with pytest.raises(ResponseError, match="a plain number"):
        grade.number({"value": 4}, "4 percent")
    assert grade.number({"value": 90}, "90 sequences").ok


def test_a_tolerance_of_zero_takes_the_exact_number() -> None:
    assert grade.number({"value": 0, "abs_tol": 0}, "0").ok
    assert not grade.number({"value": 0, "abs_tol": 0}, "0.001").ok
    assert grade.number({"value": 0.3, "abs_tol": 0}, "0.1+0.2").ok


def test_choices(sample: bank.Bank) -> None:
    single = bank.find("sample.single")
    assert grade.choice(single, ["average"]).ok
    assert grade.choice(single, ["data"]).misconception == "data-travel"
    for nothing in ([], ["unknown"]):
        with pytest.raises(ResponseError, match="Choose an option first"):
            grade.choice(single, nothing)
    multi = bank.find("sample.multi")
    assert grade.choice(multi, ["parameters", "adam"]) == grade.Grade(True, 1.0)
    assert grade.choice(multi, ["parameters"]) == grade.Grade(False, 0.5)
    assert grade.choice(multi, ["parameters", "adam", "batch", "activations"]).score == 0
    assert grade.choice(multi, ["parameters", "adam", "batch"]).score == 0.5
    assert grade.choice(multi, ["batch"]).score == 0
