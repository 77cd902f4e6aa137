"""The test: what is drawn, what its verdict is worth over 10,000 synthetic learners, and the way through it."""

import random
from collections import Counter
from typing import Any

import pytest

from tests.quiz.conftest import Clock
from tests.quiz.harmless import HOSTILE, faults
from tests.quiz.test_parts import block, has, html_of, labels
from utils import progress
from utils.quiz import bank, exam, grade, lint
from utils.quiz.exam import CONFIRM, DEVELOPING, START, STRONG
from utils.quiz.examscreen import Exam
from utils.quiz.lessons import lesson

NAME = "data-or-model-parallelism"
PROFILES = {  # probability of a right answer to an easy, medium, hard question
    "developing": {"easy": 0.90, "medium": 0.65, "hard": 0.40},
    "competent": {"easy": 0.95, "medium": 0.85, "hard": 0.65},
    "strong": {"easy": 0.98, "medium": 0.95, "hard": 0.88},
}


@pytest.fixture
def pool(home: Any) -> bank.Bank:
    return bank.load(NAME)


# ---- the bank


def test_the_pool_has_at_least_thirty_items_and_a_sibling_for_every_slot(pool: bank.Bank) -> None:
    items = pool.select(*exam.QUESTIONS, role="test")
    slots = Counter(item.equiv for item in items)
    assert len(items) >= 30
    assert min(slots.values()) >= 2
    for level, count in {"easy": 3, "medium": 4 + 3, "hard": 3 + 2}.items():
        assert len({item.equiv for item in items if item.difficulty == level}) >= count
    assert lint.lint(NAME) == ([], [])


def test_the_practice_part_holds_what_the_issue_lists(pool: bank.Bank) -> None:
    cards = pool.select("flashcard")
    assert [card.label for card in cards] == ["beginner", "beginner", "beginner", "intermediate", "intermediate"]
    single = pool.select("mcq", role="practice")
    assert len(single) == 5
    assert all(len(item["options"]) == 4 for item in single)
    opened = pool.select("open")
    assert [len(item["concepts"]) for item in opened] == [4, 4]
    assert all(item["hints"] for item in opened)
    problems = pool.select("problem")
    assert [item.difficulty for item in problems] == ["easy", "easy", "medium", "medium", "hard"]


def test_every_number_with_a_unit_or_formula_is_derived(pool: bank.Bank) -> None:
    numbers = pool.select("numeric")
    assert len(numbers) >= 15
    for item in numbers:
        value = grade.arithmetic(item["answer"]["derive"])
        assert abs(value - item["answer"]["value"]) <= grade.tolerance(item["answer"]), item.id
        assert grade.number(item["answer"], item["answer"]["derive"]).ok, "the formula itself is a right answer"
        for caught in item["answer"]["catch"]:
            found = grade.number(item["answer"], caught.get("derive", str(caught["value"])))
            assert not found.ok
            assert found.note == caught["why"], item.id


# ---- what is drawn


def draw_levels(drawn: exam.Draw) -> tuple[Counter, Counter]:
    return Counter(item.difficulty for item in drawn.first), Counter(item.difficulty for item in drawn.more)


def test_ten_questions_from_easy_to_hard_and_five_more(pool: bank.Bank) -> None:
    for learner in range(30):
        drawn = exam.draw(pool, str(learner), 0)
        first, more = draw_levels(drawn)
        assert first == {"easy": 3, "medium": 4, "hard": 3}
        assert more == {"medium": 3, "hard": 2}
        assert drawn.short == ()
        assert [item.difficulty for item in drawn.first] == ["easy"] * 3 + ["medium"] * 4 + ["hard"] * 3
        slots = [item.equiv for item in (*drawn.first, *drawn.more)]
        assert len(slots) == len(set(slots)), "no slot is asked twice in one attempt"


def test_the_same_learner_and_attempt_get_the_same_test(pool: bank.Bank) -> None:
    assert exam.draw(pool, "a", 0) == exam.draw(pool, "a", 0)
    tests = {tuple(item.id for item in exam.draw(pool, str(learner), 0).first) for learner in range(50)}
    assert len(tests) > 40


def test_a_second_attempt_draws_equivalent_siblings(pool: bank.Bank) -> None:
    for learner in range(30):
        first, second = exam.draw(pool, str(learner), 0), exam.draw(pool, str(learner), 1)
        assert [item.equiv for item in first.first] == [item.equiv for item in second.first]
        ids = {item.id for item in (*first.first, *first.more)}
        assert not ids & {item.id for item in (*second.first, *second.more)}


def test_topics_are_spread(pool: bank.Bank) -> None:
    for learner in range(30):
        topics = Counter(item.topic for item in exam.draw(pool, str(learner), 0).first)
        assert len(topics) >= 5


def small(count: int, siblings: int = 1) -> bank.Bank:
    items = []
    for level in ("easy", "medium", "hard"):
        for slot in range(count):
            for sibling in range(siblings):
                raw = {
                    "id": f"small.{level}-{slot}-{sibling}",
                    "type": "mcq",
                    "difficulty": level,
                    "equiv": f"{level}-{slot}",
                    "prompt": "?",
                    "options": [
                        {"id": "a", "text": "a", "why": "a", "correct": True},
                        {"id": "b", "text": "b", "why": "b"},
                        {"id": "c", "text": "c", "why": "c"},
                    ],
                }
                items.append(raw)
    data = {"bank": "small", "title": "Small", "topics": [{"id": "t", "title": "T"}], "items": items}
    return bank._build(data, bank.FOLDER / "small.yaml")


def test_a_small_bank_says_what_it_lacks_and_fills_with_siblings() -> None:
    drawn = exam.draw(small(1), "a", 0)
    assert len(drawn.first) == 3
    assert drawn.more == ()
    assert drawn.short == ("1 of 3 easy", "1 of 4 medium", "1 of 3 hard")
    filled = exam.draw(small(2, siblings=2), "a", 0)
    assert draw_levels(filled)[0] == {"easy": 3, "medium": 4, "hard": 3}
    assert len({item.id for item in filled.first}) == 10
    twenty = exam.draw(small(4, siblings=2), "a", 0)
    assert draw_levels(twenty)[1] == {"medium": 3, "hard": 2}, "siblings fill the five more"


# ---- what it is worth


@pytest.mark.parametrize(
    ("right", "more", "says"),
    [
        (10, None, STRONG),
        (9, None, STRONG),
        (8, None, CONFIRM),
        (7, None, CONFIRM),
        (6, None, DEVELOPING),
        (5, None, DEVELOPING),
        (4, None, START),
        (0, None, START),
        (8, 4, STRONG),
        (8, 3, DEVELOPING),
        (7, 5, STRONG),
        (7, 4, DEVELOPING),
    ],
)
def test_the_rule(right: int, more: int | None, says: str) -> None:
    assert exam.verdict(right, 10, more, 5 if more is not None else 0) == says


def test_the_interval_is_the_references() -> None:
    table = {5: (0.24, 0.76), 7: (0.40, 0.89), 8: (0.49, 0.94), 9: (0.60, 0.98), 10: (0.72, 1.00)}
    for right, (low, high) in table.items():
        assert exam.wilson(right, 10) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))
    assert "between 5 and 9 in 10" in exam.interval_words(8, 10)
    assert exam.wilson(0, 0) == (0, 1)


def simulate(pool: bank.Bank, profile: dict[str, float], learners: int = 10_000) -> Counter:
    """Let synthetic learners take the test as the screen gives it: draw, answer, five more where asked."""
    rng = random.Random(20261122)
    found: Counter = Counter()
    for learner in range(learners):
        drawn = exam.draw(pool, f"learner {learner % 500}", learner // 500 % 2)
        right = sum(rng.random() < profile[item.difficulty] for item in drawn.first)
        first = exam.verdict(right, len(drawn.first))
        found[f"first: {first}"] += 1
        more = sum(rng.random() < profile[item.difficulty] for item in drawn.more)
        final = exam.verdict(right, len(drawn.first), more, len(drawn.more)) if first == CONFIRM else first
        found[final] += 1
    return Counter({key: count / learners for key, count in found.items()})


@pytest.mark.parametrize(
    ("profile", "at_once", "in_the_end"),
    [("developing", 0.07, 0.12), ("competent", 0.43, 0.69), ("strong", 0.88, 0.99)],
)
def test_verdict_rates_over_ten_thousand_learners(
    pool: bank.Bank, profile: str, at_once: float, in_the_end: float
) -> None:
    rates = simulate(pool, PROFILES[profile])
    assert rates[f"first: {STRONG}"] == pytest.approx(at_once, abs=0.03)
    assert rates[STRONG] == pytest.approx(in_the_end, abs=0.03)
    if profile != "strong":
        assert 0.41 <= rates[f"first: {CONFIRM}"] <= 0.53


# ---- on the page


def answer(screen: Exam, right: bool) -> dict[str, Any]:
    """Return the values a learner who is right, or wrong, would have in the controls."""
    item = screen.items[screen.index]
    if item.type == "numeric":
        value = item["answer"]["value"] if right else item["answer"]["value"] * 7 + 3
        return {f"{item.id}/typed": str(value)}
    chosen = [o["id"] for o in item["options"] if bool(o.get("correct")) == right]
    return {f"{item.id}/choice": chosen if right and item.type == "multi" else chosen[:1]}


def take(screen: Exam, wrong: int) -> None:
    screen.act("start", {})
    while screen.stage == "asking":
        screen.act("next", answer(screen, right=screen.index >= wrong))


def test_a_whole_test_keeps_feedback_for_the_end(pool: bank.Bank, clock: Clock) -> None:
    screen = Exam(pool)
    assert labels(screen) == ["Start"]
    screen.act("start", {})
    for number in range(10):
        assert block(screen, "head")["html"].startswith(f"Question {number + 1} of 10")
        item = screen.items[screen.index]
        shown = " ".join(html_of(screen.view()))
        assert not any(option["why"][:30] in shown for option in item.get("options", []))
        screen.act("next", {})
        assert "I do not know" in screen.view()["say"]
        assert screen.index == number
        screen.act("next", answer(screen, right=True))
        assert "ight" not in screen.view()["say"].replace("all right", "") or number == 9
    assert "Strong" in block(screen, "banner")["html"]
    assert "between 7 and 10 in 10" in block(screen, "proof")["html"]
    assert sum(b["kind"] == "fold" for b in screen.view()["blocks"]) == 10
    last = progress.events()[-1]
    assert (last.ev, last.item) == ("finished", f"test:{NAME}")
    assert last.resp["right"] == 10


def test_five_more_are_asked_after_seven_or_eight(pool: bank.Bank, clock: Clock) -> None:
    screen = Exam(pool)
    take(screen, wrong=2)
    assert "five more can" in block(screen, "banner")["html"]
    assert labels(screen)[0] == "Five more questions"
    screen.act("more", {})
    assert block(screen, "head")["html"].startswith("Question 11 of 15")
    screen.act("back", {})
    assert screen.index == 10, "the first part is closed once its result is known"
    while screen.stage == "asking":
        screen.act("next", answer(screen, right=True))
    assert "Strong" in block(screen, "banner")["html"]
    assert "13 of 15 right" in block(screen, "proof")["html"]
    assert "ive more" not in " ".join(labels(screen))


def test_what_was_missed_leads_to_its_lessons(pool: bank.Bank, clock: Clock) -> None:
    screen = Exam(pool)
    take(screen, wrong=10)
    assert "Start here" in block(screen, "banner")["html"]
    table = block(screen, "topics")["html"]
    for name, (_, asked) in exam.by_topic(screen.items, {}).items():
        topic = pool.topic(name)
        assert topic.title.replace("'", "&#x27;") in table
        assert f"0 of {asked}" in table
    words = block(screen, "next")["html"]
    for name in {pool.topic(topic).lesson for topic in exam.by_topic(screen.items, {})}:
        assert lesson(name).words.replace("'", "&#x27;") in words


def test_closing_and_reopening_goes_on_where_it_was_left(pool: bank.Bank, clock: Clock) -> None:
    screen = Exam(pool)
    screen.act("start", {})
    for _ in range(4):
        screen.act("next", answer(screen, right=True))
    again = Exam(pool)
    assert labels(again) == ["Go on"]
    assert "4 of 10 are answered and kept." in block(again, "banner")["html"]
    again.act("start", {})
    assert block(again, "head")["html"].startswith("Question 5 of 10")
    again.act("back", {})
    value = block(again, "typed")["value"] if has(again, "typed") else block(again, "choice")["chosen"]
    assert value, "the answer given before stands in its control"
    again.act("next", answer(again, right=False))
    while again.stage == "asking":
        again.act("next", answer(again, right=True))
    assert again.score()[:2] == (9, 10), "a changed answer counts as it was changed"
    assert "9 of 10" in block(Exam(pool), "proof")["html"]


def test_not_knowing_counts_as_not_right(pool: bank.Bank, clock: Clock) -> None:
    screen = Exam(pool)
    screen.act("start", {})
    for _ in range(10):
        screen.act("skip", {})
    assert screen.score()[:2] == (0, 10)
    assert "not known" in screen.view()["blocks"][-1]["summary"]
    assert Exam(pool).stage == "report"


def test_another_attempt_asks_siblings(pool: bank.Bank, clock: Clock) -> None:
    screen = Exam(pool)
    take(screen, wrong=0)
    asked = {item.id for item in screen.items}
    screen.act("again", {})
    assert labels(screen) == ["Start"]
    take(screen, wrong=10)
    assert not asked & {item.id for item in screen.items}
    assert "Start here" in block(Exam(pool), "banner")["html"]


def test_a_test_goes_on_with_its_questions_when_the_bank_has_grown(
    pool: bank.Bank, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Exam(pool)
    screen.act("start", {})
    asked = [item.id for item in screen.first]
    monkeypatch.setattr(exam, "draw", lambda *_: exam.Draw((), (), ()))
    assert [item.id for item in Exam(pool).first] == asked


def test_answers_of_a_test_are_not_shown_in_the_lesson(pool: bank.Bank, clock: Clock) -> None:
    from utils.quiz.screens import Single

    screen = Exam(pool)
    take(screen, wrong=0)
    assert not Single(screen.items[0]).part.done


def test_a_failed_save_does_not_stop_the_test(pool: bank.Bank, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Exam(pool)
    screen.act("start", {})

    def refuse(line: bytes) -> None:
        raise progress.NotSavedError("could not be saved")

    with monkeypatch.context() as patch:
        patch.setattr(progress, "_append", refuse)
        screen.act("next", answer(screen, right=True))
        assert "could not be saved" in screen.view()["say"]
        assert screen.index == 1
    screen.act("next", answer(screen, right=True))
    assert sum(event.ev == "answered" for event in progress._read()[0]) == 2


@pytest.mark.parametrize("poison", HOSTILE[:8])
def test_a_hostile_log_does_not_break_the_test(pool: bank.Bank, home: Any, poison: str) -> None:
    for resp in (
        poison,
        {"first": poison, "more": [poison]},
        {"first": [[poison]], "more": []},
        {"verdict": poison},
        None,
    ):
        for ev in ("started", "finished", "answered", "skipped"):
            for attempt in (0, poison, [poison], True):
                progress.record(ev, f"test:{NAME}", resp=resp, ctx={"test": f"test:{NAME}", "attempt": attempt})
    first = exam.draw(pool, progress.learner(), 0).first[0]
    progress.record(
        "answered", first.id, resp={"chosen": [poison], "typed": poison}, ctx={"test": f"test:{NAME}", "attempt": 0}
    )
    screen = Exam(pool)
    for do in ("start", "next", "skip", "more", "again", "start"):
        assert all(faults(piece) == [] for piece in html_of(screen.view()))
        screen.act(do, {})


# ---- one test per lesson

LESSONS = [name for name in bank.names() if name not in ("start-here", NAME)]


@pytest.mark.parametrize("name", LESSONS)
def test_each_lesson_has_what_the_issue_asks(name: str) -> None:
    found = bank.load(name)
    questions = found.select(*exam.QUESTIONS, role="test")
    assert len(found.select("flashcard")) >= 6
    assert len(questions) >= 20
    assert len(found.select("open")) >= 2
    assert len(found.select("problem")) >= 4
    assert max(Counter(item.equiv for item in questions).values()) >= 2


@pytest.mark.parametrize("name", bank.names())
def test_each_bank_gives_a_whole_test_five_more_and_a_second_attempt(name: str, home: Any, clock: Clock) -> None:
    found = bank.load(name)
    for learner in range(10):
        first, second = exam.draw(found, str(learner), 0), exam.draw(found, str(learner), 1)
        assert first.short == ()
        assert len(first.first) == sum(found.draw.values())
        if name in LESSONS:
            assert len(first.more) == 5
            assert not {item.id for item in first.first} & {item.id for item in second.first}
    screen = Exam(found)
    take(screen, wrong=0)
    assert "Strong" in block(screen, "banner")["html"]
