"""Markdown, mathematics and values on the page: rendered, and never able to run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quiz.harmless import HOSTILE, faults
from utils.quiz.text import inline, mathml, show_value, spoken, to_html


def test_code_mathematics_lists_and_tables_are_rendered() -> None:
    assert to_html("`a < b`") == "<p><code>a &lt; b</code></p>"
    assert to_html("```python\nx < 1\n```") == "<pre><code>x &lt; 1</code></pre>"
    assert to_html("$2(N-1)/N$") == "<p>$2(N-1)/N$</p>"
    assert to_html("$a < b$") == "<p>$a &lt; b$</p>"
    assert "<math" in to_html("$2(N-1)/N$", live=True)
    assert 'display="block"' in to_html("$$\\frac{1}{2}$$", live=True)
    assert "<mfrac>" in to_html("$\\frac{1}{2}$", live=True)
    assert "<li>" in to_html("- one\n- two")
    assert "<td>" in to_html("| a | b |\n|---|---|\n| 1 | 2 |")
    assert inline("a **b**") == "a <strong>b</strong>"
    assert '<a href="https://example.org/x"' in to_html("[x](https://example.org/x)")
    assert spoken("`all_reduce` of $g$.") == "all_reduce of g"


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("live", [False, True])
def test_hostile_text_is_only_text(text: str, live: bool) -> None:
    assert faults(to_html(text, live)) == []
    assert faults(inline(text, live)) == []


PIECES = st.sampled_from(
    [*HOSTILE, "$", "$$", "`", "```", "\n", "\n\n", "|", "[", "](", ")", "<", ">", "\\", "&", "word", "*"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join), st.booleans())
def test_no_mixture_of_hostile_pieces_runs(text: str, live: bool) -> None:
    assert faults(to_html(text, live)) == []


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_no_formula_runs(source: str) -> None:
    assert faults(mathml(source)) == []


def test_the_judge_would_find_what_runs() -> None:
    for text in HOSTILE[:3]:
        assert faults(text)
    assert faults("<p>$\\href{javascript:alert(1)}{x}$</p>")
    assert faults('<a href="javascript:alert(1)">x</a>')


class Tensor:
    """Behaves as a tensor does, without torch."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def numel(self) -> int:
        return len(self.values)

    def tolist(self) -> list[float]:
        return self.values

    def __repr__(self) -> str:
        return f"tensor at {hex(id(self))}"


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("text", "text"),
        (["a", 1.0, None, True], "['a', 1, None, True]"),
        (0.1 + 0.2, "0.3"),
        ((1,), "(1,)"),
        ({"b": 1, "a": [1.23456789]}, "{'b': 1, 'a': [1.23457]}"),
        ({"z", "a", "m"}, "{'a', 'm', 'z'}"),
        (set(), "{}"),
        (Tensor([1.0, 0.30000001]), "[1, 0.3]"),
        (Tensor([0.0] * 500), "tensor"),
        (object, "<class 'object'>"),
        (object(), "<object object>"),
        (Rude(), "a Rude that cannot be shown (RuntimeError)"),
        (float("nan"), "nan"),
    ],
)
def test_values_are_shown_the_same_on_every_run(value: object, shown: str) -> None:
    assert show_value(value) == shown


def test_long_and_deep_values_are_cut() -> None:
    assert show_value("x" * 5000).endswith("... (3000 more characters)")
    deep: list = []
    deep.append(deep)
    assert "..." in show_value(deep)


def test_a_real_tensor_is_shown_by_its_numbers() -> None:
    torch = pytest.importorskip("torch")
    assert show_value(torch.tensor([[1.0, 2.0], [3.0, 4.5]])) == "[[1, 2], [3, 4.5]]"
    assert show_value(torch.tensor(3)) == "3"
