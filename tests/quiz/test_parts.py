"""Every kind of item, live but without a browser: pressed as a learner presses, replayed from the log."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.quiz.conftest import SAMPLE, Clock
from tests.quiz.harmless import HOSTILE, faults
from tests.quiz.test_static import IDS, poisoned
from utils import progress
from utils.quiz import bank, history
from utils.quiz.screens import Reveal, Row, Screen, Single


def single(name: str) -> Single:
    return Single(bank.find(f"sample.{name}"))


def ids(screen: Screen) -> list[str]:
    return [block["id"] for block in screen.view()["blocks"]]


def block(screen: Screen, name: str) -> dict[str, Any]:
    return next(b for b in screen.view()["blocks"] if b["id"].split("/")[-1] == name)


def has(screen: Screen, name: str) -> bool:
    return any(identifier.split("/")[-1] == name for identifier in ids(screen))


def labels(screen: Screen) -> list[str]:
    return [b["label"] for row in screen.view()["blocks"] if row["kind"] == "buttons" for b in row["buttons"]]


def test_a_question_is_graded_on_check_and_every_option_explains_itself(sample: bank.Bank) -> None:
    screen = single("single")
    before = json.dumps(screen.view())
    assert "drift apart" not in before, "no reason reaches the browser before the check"
    screen.act("check", {})
    assert screen.view()["say"] == "Choose an option first."
    assert progress.events() == []
    screen.act("check", {"choice": ["data"], "confidence": ["3"]}, ms=1234)
    view = screen.view()
    assert view["say"].startswith("Not right. Right is: The gradients are averaged")
    assert "certain" in view["say"]
    rows = {row["badge"]: row for row in block(screen, "results")["rows"]}
    assert set(rows) == {"Your answer: not right", "Right", "Not right"}
    assert all(row["why"] for row in rows.values())
    assert labels(screen) == ["Answer again"]
    (event,) = progress.events()
    assert (event.ev, event.item, event.resp) == ("answered", "sample.single", {"chosen": ["data"]})
    assert (event.conf, event.ok, event.score, event.ms, event.rev) == (3, False, 0.0, 1234, 1)


def test_a_second_press_does_not_count_twice(sample: bank.Bank) -> None:
    screen = single("single")
    screen.act("check", {"choice": ["average"]})
    screen.act("check", {"choice": ["data"]})
    assert len(progress.events()) == 1
    assert screen.view()["turn"] == 2


def test_a_reopened_notebook_shows_what_was_answered(sample: bank.Bank, clock: Clock) -> None:
    single("single").act("check", {"choice": ["average"]})
    again = single("single")
    assert "Right. Answered on 2026-11-22." in block(again, "banner")["html"]
    assert again.view()["say"] == "", "a notebook that is opened does not speak"
    again.act("again", {})
    assert has(again, "choice")
    again.act("check", {"choice": ["none"]})
    assert "Not right. Answered on" in block(single("single"), "banner")["html"]
    assert len(progress.events()) == 2


def order(screen: Screen) -> list[str]:
    return [option["id"] for option in block(screen, "choice")["options"]]


def test_learner_and_attempt_fix_the_order_and_pinned_options_stay_last(
    sample: bank.Bank, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert order(single("multi")) == order(single("multi"))
    seen = set()
    for number in range(20):
        monkeypatch.setattr(progress, "learner", lambda number=number: f"learner {number}")
        seen.add(tuple(order(single("multi"))))
        assert order(single("single"))[-1] == "none"
    assert len(seen) > 5
    monkeypatch.setattr(progress, "learner", lambda: "one")
    screen = single("multi")
    orders = set()
    for _ in range(8):
        orders.add(tuple(order(screen)))
        screen.act("check", {"choice": ["batch"]})
        screen.act("again", {})
    assert len(orders) > 1, "another attempt shows another order"


def test_several_answers(sample: bank.Bank) -> None:
    screen = single("multi")
    assert block(screen, "choice")["many"]
    screen.act("check", {"choice": ["parameters"]})
    assert screen.view()["say"].startswith("Partly right.")
    assert progress.events()[0].score == 0.5
    screen.act("again", {})
    screen.act("check", {"choice": ["adam", "parameters"]})
    assert screen.view()["say"] == "Right."


def test_a_number_with_units_and_caught_mistakes(sample: bank.Bank) -> None:
    screen = single("number")
    for nothing in ("", "   ", "many", "5 kB"):
        screen.act("check", {"typed": nothing})
        assert has(screen, "message"), nothing
    assert progress.events() == []
    screen.act("check", {"typed": "600"})
    assert "reduce-scatter half" in block(screen, "results")["html"]
    assert "1200 MB" in screen.view()["say"]
    screen.act("again", {})
    screen.act("check", {"typed": "1.2 GB", "confidence": ["1"]})
    assert "guess" in screen.view()["say"]


def test_a_flashcard_is_rated_only_after_it_is_turned(sample: bank.Bank, clock: Clock) -> None:
    screen = single("card")
    screen.act("good", {})
    assert progress.events() == []
    assert not has(screen, "answer")
    screen.act("reveal", {})
    assert "whole" in block(screen, "answer")["html"]
    assert "<math" in block(screen, "answer")["html"]
    assert [label.split(":")[0] for label in labels(screen)] == ["Again", "Hard", "Good", "Easy"]
    screen.act("good", {})
    screen.act("easy", {})
    (event,) = progress.events()
    assert event.resp == {"rating": 3}
    assert "Good. It comes back in 1 day." in block(screen, "banner")["html"]
    clock.forward(days=1)
    assert "Last time, on 2026-11-22: Good." in block(single("card"), "last")["html"]


def test_an_open_question_opens_its_checklist_only_after_writing(sample: bank.Bank) -> None:
    screen = single("open")
    assert "model" not in json.dumps(screen.view())
    screen.act("count", {"concepts": ["seeds"]})
    screen.act("compare", {"typed": "Short."})
    assert "14 more characters" in screen.view()["say"]
    assert not has(screen, "concepts")
    assert block(screen, "typed")["value"] == "Short."
    screen.act("compare", {"typed": "Every rank starts from its own seed."})
    assert len(block(screen, "concepts")["options"]) == 4
    assert "model" not in ids(screen), "the model answer comes after the ticking"
    screen.act("edit", {})
    assert block(screen, "typed")["value"] == "Every rank starts from its own seed."
    screen.act("compare", {"typed": "Every rank starts from its own seed."})
    screen.act("count", {"concepts": ["seeds", "keep", "foreign"]})
    assert screen.view()["say"] == "You got 2 of 4 concepts."
    assert has(screen, "model")
    again = single("open")
    assert "You got 2 of 4 concepts. Answered on" in block(again, "banner")["html"]
    assert progress.events()[-1].score == 0.5


def test_what_was_written_but_not_yet_compared_is_not_lost(sample: bank.Bank) -> None:
    single("open").act("compare", {"typed": "Every rank starts from its own seed."})
    assert has(single("open"), "concepts")


def test_a_problem_opens_its_solution_after_an_answer_or_on_request(sample: bank.Bank) -> None:
    screen = single("shards")
    assert not has(screen, "steps")
    screen.act("check", {"choice": ["drop"]})
    assert screen.view()["say"] == "Not right. Right is: 8, 8, 7, 7. The solution is open."
    assert {"steps", "final", "quick", "mistakes"} <= set(ids(screen))
    screen.act("again", {})
    assert not has(screen, "steps")
    number = single("bytes")
    number.act("solve", {})
    assert has(number, "steps")
    assert progress.events()[-1].ev == "solved"
    free = single("explain")
    assert labels(free) == ["Show the solution"]
    free.act("solve", {"typed": "They all pass."})
    assert "They all pass." in block(free, "results")["html"]
    assert "They all pass." in block(single("explain"), "results")["html"]


def test_an_exercise_shows_its_recorded_attempts(sample: bank.Bank) -> None:
    assert "Not attempted" in block(single("exercise"), "banner")["html"]
    progress.attempt("ring_all_reduce", "not yet", hint="Rank 2 <b>is</b> off.", source="1")
    assert "Not yet, after 1 attempt. Rank 2 &lt;b&gt;is" in block(single("exercise"), "banner")["html"]
    progress.attempt("ring_all_reduce", "passed", source="2")
    assert "at attempt 2" in block(single("exercise"), "banner")["html"]


# ---- predict, then reveal


def test_a_prediction_is_locked_and_stands_beside_the_result(sample: bank.Bank) -> None:
    item = bank.find("sample.predict")
    told: list[str] = []
    reveal = Reveal(item, [0.5, 2])
    reveal.changed = lambda: told.append("changed")
    assert "redict first" in block(reveal, "fold")["summary"]
    assert not block(reveal, "fold")["open"]
    predict = Single(item, "lesson")
    predict.act("lock", {})
    assert told == []
    predict.act("lock", {"choice": ["sum"], "confidence": ["2"]})
    assert told == ["changed"], "a result already on the page opens by itself"
    assert has(predict, "locked")
    assert not has(predict, "choice")
    sides = block(reveal, "sides")["html"]
    assert "The sum of the four equals the one" in sides
    assert "[0.5, 2]" in sides
    assert "Not as you predicted." in block(reveal, "banner")["html"]
    assert {row["badge"] for row in block(reveal, "results")["rows"]} == {
        "Your answer: not right",
        "Right",
        "Not right",
    }
    predict.act("lock", {"choice": ["mean"]})
    assert len(progress.events()) == 1, "locked is locked"
    assert has(Single(item, "lesson"), "locked")


def test_a_number_is_held_against_what_the_run_gave(sample: bank.Bank) -> None:
    item = bank.find("sample.predict-number")
    single("predict-number").act("lock", {"typed": "2/3"})
    assert "As you predicted." in block(Reveal(item, 0.66), "banner")["html"]
    here = block(Reveal(item, 0.5), "banner")["html"]
    assert "Not as you predicted." in here
    assert "The course expected 0.667" in here
    assert "As you predicted." in block(Reveal(item, "about two thirds"), "banner")["html"]


def test_a_line_of_text_is_compared_by_the_reader(sample: bank.Bank) -> None:
    item = bank.find("sample.predict-text")
    single("predict-text").act("lock", {"typed": "rank 0, then <b>rank 1</b>"})
    screen = Reveal(item, "rank 0")
    assert not has(screen, "banner")
    assert "&lt;b&gt;rank 1" in block(screen, "sides")["html"]


# ---- several items in a row


def test_back_and_next_walk_through_the_items(sample: bank.Bank) -> None:
    row = Row("Sample", "Practice", sample.select("problem"))
    assert block(row, "head")["html"].startswith("Practice 1 of 3")
    assert labels(row)[-1:] == ["Next"]
    row.act("0/choice", {})
    row.act("check", {"0/choice": ["even"]})
    assert row.view()["say"].startswith("Right.")
    row.act("next", {})
    assert row.view()["focus"] == "head"
    row.act("next", {})
    assert labels(row)[-2:] == ["Back", "Finish"]
    row.act("next", {})
    assert "1 of 3 done." in block(row, "banner")["html"]
    row.act("back", {})
    assert "Practice 3 of 3" in block(row, "head")["html"]
    again = Row("Sample", "Practice", sample.select("problem"))
    assert "Practice 2 of 3" in block(again, "head")["html"], "it goes on where the learner stopped"


def test_items_of_one_row_share_no_control(sample: bank.Bank) -> None:
    row = Row("Sample", "Question", sample.select("mcq", "multi", "numeric"))
    first = set(ids(row))
    row.act("next", {})
    assert first & set(ids(row)) == {"head", "nav"}


# ---- trouble


def test_an_answer_that_cannot_be_saved_stays_on_screen(sample: bank.Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(line: bytes) -> None:
        raise progress.NotSavedError("could not be saved (No space left on device)")

    screen = single("single")
    with monkeypatch.context() as patch:
        patch.setattr(progress, "_append", refuse)
        screen.act("check", {"choice": ["average"]})
        assert "No space left" in screen.view()["say"]
        assert "No space left" in block(screen, "trouble")["html"]
        assert block(screen, "results")
    single("multi").act("check", {"choice": ["adam"]})
    assert [event.item for event in progress._read()[0]] == ["sample.single", "sample.multi"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
DO = st.sampled_from(
    ["check", "lock", "reveal", "good", "compare", "count", "edit", "solve", "again", "next", "back", "", "__init__"]
)
NAMES = st.sampled_from(["choice", "typed", "confidence", "concepts", "0/choice", "1/typed"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(DO, st.dictionaries(NAMES, JSON, max_size=4)), max_size=6), st.sampled_from(IDS))
def test_no_message_from_the_browser_breaks_an_item(sample: bank.Bank, presses: list, name: str) -> None:
    screen = Single(bank.find(name))
    row = Row("Sample", "Question", sample.select())
    for do, values in presses:
        for pressed in (screen, row):
            pressed.act(do, values)
            json.dumps(pressed.view())


PRESSES: list[tuple[str, dict[str, Any]]] = [
    ("reveal", {}),
    ("compare", {"typed": "long enough to be compared with the model"}),
    ("count", {"concepts": ["seeds"]}),
    ("check", {"choice": ["data", "drop", "batch"], "typed": "600"}),
    ("lock", {"choice": ["sum"], "typed": "0.5"}),
    ("good", {}),
    ("solve", {}),
    ("again", {}),
]


def html_of(view: Any) -> list[str]:
    """Return every piece of HTML in a view: what `widget.js` puts on the page as such."""
    if isinstance(view, dict):
        found = [view[key] for key in ("html", "why") if isinstance(view.get(key), str)]
        return found + [piece for value in view.values() for piece in html_of(value)]
    return [piece for value in view for piece in html_of(value)] if isinstance(view, list) else []


@pytest.mark.parametrize("poison", HOSTILE)
def test_hostile_banks_and_answers_never_run(sample: bank.Bank, poison: str) -> None:
    import yaml

    data = yaml.safe_load((SAMPLE / "sample.yaml").read_text())
    data["items"] = [poisoned(raw, poison) for raw in data["items"]]
    hostile = bank._build(data, SAMPLE / "sample.yaml")
    for item in hostile.items:
        screen = Single(item)
        for do, values in PRESSES:
            values = {
                k: f"{v} {poison}" if k == "typed" and item.type in ("open", "problem") else v
                for k, v in values.items()
            }
            screen.act(do, values)
            assert all(faults(piece) == [] for piece in html_of(screen.view()))
        if item.type == "predict":
            assert all(faults(piece) == [] for piece in html_of(Reveal(item, {"x": poison}).view()))


@pytest.mark.parametrize("poison", HOSTILE)
def test_a_hostile_log_never_runs(sample: bank.Bank, poison: str) -> None:
    bad: list[Any] = [poison, {"chosen": [poison, ["data"]]}, {"typed": poison}, {"rating": poison}, [poison], None, 7]
    for item in sample.items:
        for resp in [*bad, {"typed": poison, "concepts": [poison, "seeds"]}]:
            for ev in (*history.ANSWERS, "written", poison):
                progress.record(ev, item.id, resp=resp, ok=True, score=0.5)
        screen = Single(item)
        assert all(faults(piece) == [] for piece in html_of(screen.view()))
        if item.type == "predict":
            assert all(faults(piece) == [] for piece in html_of(Reveal(item, 1).view()))
    progress.record("checked", "check:ring_all_reduce", resp={"hint": poison}, ok=False)
    assert all(faults(piece) == [] for piece in html_of(single("exercise").view()))


def test_the_widget_carries_views_and_presses(sample: bank.Bank) -> None:
    from utils.quiz.widget import QuizWidget

    widget = QuizWidget(single("single"), "<p>static</p>", "plain")
    bundle, _ = widget._repr_mimebundle_()
    assert bundle["text/html"] == "<p>static</p>"
    assert bundle["text/plain"] == "plain"
    assert "application/vnd.jupyter.widget-view+json" in bundle
    for noise in (None, "check", {"do": 3}, {"do": "check", "values": "x", "ms": "y"}, {"do": "nothing"}):
        widget._receive(None, noise, None)
    widget._receive(None, {"do": "check", "values": {"choice": ["average"]}, "ms": 3}, None)
    assert widget.view["say"] == "Right."
    assert progress.events()[0].ms == 3
