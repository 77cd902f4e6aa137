"""The frame of all checks: it finds what is missing, explains what is raised, never raises itself."""
import json

import pytest

from utils import check, progress
from utils.check.verdict import NotAttempted, NotYet, Verdict, exercise


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    return tmp_path


@exercise(judges=("result", "bytes"))
def double(function):
    """Twice the number."""
    if function(3) == 9:
        raise NotYet("result", "You square `x`; <add> it to itself.", "double(3) gave 9, expected 6")
    if function(3) != 6:
        return NotYet("result", "Twice 3 is 6.")
    return None


def test_passed_and_recorded_once(home):
    def answer(x):
        return 2 * x

    verdict = double(answer)
    assert (verdict.status, verdict.passed, verdict.hint) == ("passed", True, "")
    assert "result and bytes are right" in str(verdict)
    double(answer)
    assert len(progress.attempts("double")) == 1


def test_not_yet_names_what_is_off():
    verdict = double(lambda x: x * x)
    assert (verdict.status, verdict.what) == ("not yet", "result")
    page = verdict._repr_mimebundle_()
    assert page["text/plain"].splitlines() == [
        "Not yet. `double`: the result is off.",
        "  Hint: You square `x`; <add> it to itself.",
        "  double(3) gave 9, expected 6",
    ]
    assert "You square <code>x</code>; &lt;add&gt; it" in page["text/html"]
    assert [e.resp["status"] for e in progress.attempts("double")] == ["not yet"]


@pytest.mark.parametrize(("handed", "words"), [
    (None, "check.double(double)"),
    ("double", "without quotes"),
    (3, "check.double(double)"),
])
def test_nothing_to_judge(handed, words):
    verdict = double(handed)
    assert verdict.status == "not attempted"
    assert words in str(verdict)
    assert progress.attempts("double") == []


def test_the_stub_is_not_attempted():
    def stub(x):
        raise NotImplementedError("double")

    assert double(stub).status == "not attempted"
    assert double().status == "not attempted"


def test_an_error_of_the_learner_is_explained():
    def answer(x):
        return [1, 2][x]

    verdict = double(answer)
    assert (verdict.status, verdict.what) == ("not yet", "error")
    assert "IndexError: list index out of range" in verdict.hint
    assert "return [1, 2][x]" in verdict.hint


def test_an_error_of_the_check_is_ours():
    @exercise()
    def broken(function):
        return {}["nothing"]

    verdict = broken(len)
    assert verdict.what == "error" or "check itself failed" in str(verdict)  # the test's own file is not in utils
    from utils.check import verdict as room

    answer = room._explained(KeyError("x"))
    assert answer.what == "the check"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RecursionError, MemoryError])
def test_a_check_never_raises(error):
    def answer(x):
        raise error

    assert double(answer).status == "not yet"


def test_an_interrupt_is_named():
    def answer(x):
        raise KeyboardInterrupt

    assert double(answer).what == "interrupted"


def test_what_cannot_be_recorded_is_said(home, monkeypatch):
    blocked = home / "a file"
    blocked.write_text("")
    monkeypatch.setenv("COURSE_HOME", str(blocked))
    verdict = double(lambda x: 2 * x)
    assert verdict.passed
    assert verdict.details
    assert "could not" in str(verdict) or "cannot" in str(verdict)


def test_lines_and_code_blocks():
    verdict = Verdict("a", "not yet", "`a`: off.", "two\n  lines & a form:\n```\nclass A:\n    x\n```")
    page = verdict._repr_mimebundle_()
    assert "two<br>&nbsp;&nbsp;lines &amp; a form:</p><pre><code>class A:\n    x</code></pre><p>" in page["text/html"]
    assert page["text/plain"].endswith("form:\nclass A:\n    x")


def test_verdicts_are_stable():
    one, two = (Verdict("a", "passed", "`a`: right.") for _ in range(2))
    assert one == two
    assert json.dumps(one._repr_mimebundle_()) == json.dumps(two._repr_mimebundle_())


def test_returned_and_raised_are_the_same():
    @exercise()
    def waits(function):
        return NotAttempted("Run the cell above first.")

    assert str(waits(len)) == "Not attempted. `waits`: Run the cell above first."


def test_unknown_checks_name_the_known():
    with pytest.raises(AttributeError, match="same_training"):
        _ = check.no_such_check
