"""Review over days, the map, the doors, forgetting, and carrying progress away."""

import json
from pathlib import Path

import nbformat
import pytest

from tests.quiz.conftest import Clock
from tests.quiz.harmless import HOSTILE, faults
from tests.quiz.test_exam import take
from tests.quiz.test_parts import block, has, html_of, labels
from utils import progress
from utils.quiz import bank, exam, history, lessons, memory
from utils.quiz.examscreen import Exam
from utils.quiz.overview import Doors, DueToday, Forget, Map, Review, standings
from utils.quiz.screens import Single


def rate(name: str, how: str) -> None:
    screen = Single(bank.find(name))
    screen.act("reveal", {})
    screen.act(how, {})


def test_a_card_comes_back_after_growing_gaps(sample: bank.Bank, clock: Clock) -> None:
    gaps = []
    for _ in range(5):
        rate("sample.card", "good")
        (due,) = memory.schedule([sample])
        gaps.append(round((due.when - clock.moment).total_seconds() / 86400))
        clock.moment = due.when
    assert gaps == [1, 3, 8, 19, 43]


def test_a_missed_card_comes_back_sooner(sample: bank.Bank, clock: Clock) -> None:
    rate("sample.card", "again")
    rate("sample.card-two", "easy")
    when = {due.item.id: due.when for due in memory.schedule([sample])}
    assert when["sample.card"] < when["sample.card-two"]


def test_only_missed_questions_are_brought_back(sample: bank.Bank, clock: Clock) -> None:
    Single(bank.find("sample.single")).act("check", {"choice": ["average"]})
    Single(bank.find("sample.multi")).act("check", {"choice": ["batch"]})
    Single(bank.find("sample.number")).act("check", {"typed": "1200", "confidence": ["1"]})
    assert {due.item.id for due in memory.schedule([sample])} == {"sample.multi", "sample.number"}


def test_the_schedule_is_the_same_at_every_replay(sample: bank.Bank, clock: Clock) -> None:
    for how in ("again", "good", "hard", "easy", "good"):
        rate("sample.card", how)
        clock.forward(days=2)
    assert memory.schedule([sample]) == memory.schedule([sample])
    assert memory.scheduler().enable_fuzzing is False


def test_a_new_revision_starts_anew(sample: bank.Bank, clock: Clock) -> None:
    progress.record("rated", "sample.card", rev=7, resp={"rating": 3}, ok=True)
    assert memory.schedule([sample]) == []
    assert not Single(bank.find("sample.card")).part.done
    assert history.of_item(bank.find("sample.card")) == []


def test_review_asks_what_is_due_and_repeats_what_is_missed(sample: bank.Bank, clock: Clock) -> None:
    assert "Nothing is due" in block(Review(), "none")["html"]
    rate("sample.card", "good")
    rate("sample.card-two", "again")
    Single(bank.find("sample.multi")).act("check", {"choice": ["batch"]})
    assert "Nothing is due today. Next: 2 flashcards, 1 question, on 2026-11-23" in block(Review(), "none")["html"]
    assert "the next on 2026-11-23" in block(DueToday(), "due")["html"]
    clock.forward(days=3)
    assert "Due today: 2 flashcards, 1 question." in block(DueToday(), "due")["html"]
    review = Review()
    assert "Due today: 2 flashcards, 1 question." in block(review, "due")["html"]
    review.act("start", {})
    for _ in range(3):
        item = review.items[review.index]
        prefix = f"{review.index}/"
        if item.type == "flashcard":
            review.act("reveal", {})
            review.act("again" if item.id == "sample.card" else "good", {})
        else:
            assert has(review, "choice"), "asked anew, whatever was answered before"
            review.act("check", {f"{prefix}choice": ["adam", "parameters"]})
        review.act("next", {})
    assert [item.id for item in review.items].count("sample.card") == 2, "missed: once more in the same sitting"
    review.act("reveal", {})
    review.act("good", {})
    review.act("next", {})
    assert "4 of 4 done." in block(review, "banner")["html"]
    assert memory.due([sample])[0] == []
    assert "Nothing is due today." in block(Review(), "none")["html"]


def test_a_sitting_is_limited(sample: bank.Bank, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "A_SITTING", 1)
    rate("sample.card", "good")
    rate("sample.card-two", "good")
    clock.forward(days=5)
    assert "1 more wait" in block(Review(), "due")["html"]


def test_missed_questions_of_a_test_come_back(home: Path, clock: Clock) -> None:
    pool = bank.load("data-or-model-parallelism")
    screen = Exam(pool)
    take(screen, wrong=4)
    missed = {item.id for item in screen.items[:4]}
    assert {due.item.id for due in memory.schedule([pool])} == missed


# ---- the map


def test_the_map_counts_what_was_done(sample: bank.Bank, clock: Clock) -> None:
    (stand,) = standings()[0]
    assert (stand.state, stand.worked, stand.asked) == ("to do", 0, 0)
    Single(bank.find("sample.single")).act("check", {"choice": ["average"]})
    Single(bank.find("sample.multi")).act("check", {"choice": ["batch"]})
    Single(bank.find("sample.multi")).act("again", {})
    Single(bank.find("sample.multi")).act("check", {"choice": ["adam", "parameters"]})
    progress.attempt("ring_all_reduce", "passed")
    (stand,) = standings()[0]
    assert (stand.state, stand.worked, stand.passed) == ("started", 2, 1)
    assert (stand.right, stand.asked) == (1, 2), "the first answer to a question counts"
    clock.forward(days=2)
    assert standings()[0][0].due == 1
    table = block(Map(), "map")["html"]
    assert faults(table) == []
    assert 'scope="row"' in table
    assert 'scope="col"' in table
    assert "1 of 2 right: between 1 and 9 in 10" in table
    assert "Next: 1 due for review" in block(Map(), "next")["html"]


def test_a_strong_test_makes_a_topic_done(home: Path, clock: Clock) -> None:
    take(Exam(bank.load("data-or-model-parallelism")), wrong=0)
    stand = next(stand for stand in standings()[0] if stand.bank.name == "data-or-model-parallelism")
    assert (stand.state, stand.test) == ("done", exam.STRONG)


def test_skipped_lines_are_reported_with_their_number(sample: bank.Bank, clock: Clock) -> None:
    rate("sample.card", "good")
    with progress.log_path().open("ab") as stream:
        stream.write(b"<script>alert(1)</script>\n")
    screen = Map()
    assert "line 2 of progress.jsonl" in block(screen, "trouble")["html"]
    assert "1 thing could not be read" in block(screen, "trouble")["summary"]


def test_download_and_restore(sample: bank.Bank, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate("sample.card", "good")
    rate("sample.card-two", "good")
    screen = Map()
    screen.act("download", {})
    assert screen.download is not None
    name, text = screen.download
    assert name == "progress.jsonl"
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "binder"))
    screen = Map()
    screen.act("restore", {})
    assert "Choose the file first" in screen.view()["say"]
    screen.act("restore", {"file": text + "no event\n"})
    assert screen.view()["say"].startswith("2 events added, 0 were here already. 1 lines of the file are no events")
    screen.act("restore", {"file": text})
    assert screen.view()["say"] == "0 events added, 2 were here already."
    assert standings()[0][0].worked == 2


@pytest.mark.parametrize("poison", HOSTILE)
def test_a_hostile_file_restores_as_text(sample: bank.Bank, clock: Clock, poison: str) -> None:
    rate("sample.card", "good")
    base = json.loads(progress.download())
    lines = [
        {**base, "id": f"{n}{poison}", **change}
        for n, change in enumerate(
            [
                {"item": poison},
                {"ev": poison},
                {"item": "test:sample", "ev": "finished", "resp": {"verdict": poison, "right": poison}},
                {"item": "check:ring_all_reduce", "ev": "checked", "resp": {"hint": poison}},
                {"resp": {"rating": poison}},
                {"ev": "reset", "resp": [poison, ["sample.card"], None]},
                {"ev": "unreset", "resp": [poison]},
                {"ts": "9999-12-31T23:59:59+00:00", "resp": {"rating": 4}},
                {"ctx": {"test": [poison], "attempt": [poison], "role": poison}},
            ]
        )
    ]
    Map().act("restore", {"file": "\n".join(json.dumps(line) for line in lines)})
    for screen in (Map(), Review(), DueToday(), Forget("sample"), Doors(sample), Single(bank.find("sample.card"))):
        for do in ("", "start", "test", "jump", "leave", "reveal"):
            screen.act(do, {})
            assert all(faults(piece) == [] for piece in html_of(screen.view()))


# ---- forgetting


def test_reset_asks_keeps_a_copy_and_can_be_taken_back(sample: bank.Bank, clock: Clock, home: Path) -> None:
    rate("sample.card", "good")
    progress.attempt("ring_all_reduce", "passed")
    screen = Forget("sample")
    assert "Forget 2 recorded answers in sample?" in block(screen, "ask")["html"]
    assert labels(screen) == ["Forget them", "Keep them"]
    screen.act("keep", {})
    assert standings()[0][0].worked == 1
    before = progress.log_path().read_bytes()
    screen = Forget("sample")
    screen.act("forget", {})
    copies = list(home.glob("progress-*.jsonl"))
    assert [copy.read_bytes() for copy in copies] == [before]
    assert copies[0].name in screen.view()["say"]
    assert progress.log_path().read_bytes().startswith(before), "nothing is ever rewritten"
    (stand,) = standings()[0]
    assert (stand.state, stand.worked, stand.passed) == ("to do", 0, 0)
    assert not Single(bank.find("sample.card")).part.done
    rate("sample.card-two", "good")
    assert standings()[0][0].worked == 1, "what is answered after a reset counts"
    screen.act("undo", {})
    assert standings()[0][0].worked == 2
    assert "Forget 3 recorded answers" in block(Forget("sample"), "ask")["html"]


def test_reset_of_a_topic_leaves_the_others(home: Path, clock: Clock) -> None:
    rate("data-or-model-parallelism.what-is-data-parallelism", "good")
    rate("data-or-model-parallelism.when-model-parallelism", "good")
    Forget("data-or-model-parallelism.choosing").act("forget", {})
    left = {event.item for event in history.events()}
    assert left == {"data-or-model-parallelism.what-is-data-parallelism"}


# ---- doors and lessons


def test_two_doors(home: Path, clock: Clock) -> None:
    screen = Doors(bank.load("data-or-model-parallelism"))
    assert labels(screen) == ["Test yourself first", "Jump in"]
    assert "Recommended" in block(screen, "sides")["html"]
    screen.act("jump", {})
    assert "lessons" in [b["id"] for b in screen.view()["blocks"]]
    screen.act("leave", {})
    screen.act("test", {})
    screen.act("start", {})
    assert block(screen, "head")["html"].startswith("Question 1 of 10")
    screen.act("skip", {})
    screen.act("leave", {})
    screen.act("test", {})
    assert labels(screen)[0] == "Go on"


def test_lessons_are_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("notebooks", "exercises"):
        (tmp_path / folder).mkdir()
    cell = nbformat.v4.new_markdown_cell("# Can *four* workers train one model?\n\ntext")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks/03_data_parallelism.ipynb")
    (tmp_path / "notebooks/04_broken.ipynb").write_text("{")
    for place, href in (("notebooks", ""), ("exercises", "../notebooks/"), (".", "notebooks/")):
        monkeypatch.chdir(tmp_path / place)
        found = lessons.lesson("data_parallelism")
        assert found.href == f"{href}03_data_parallelism.ipynb"
        assert found.words == "03 Can four workers train one model?"
        assert lessons.lesson("broken").title == "Broken"
        assert lessons.lesson("not_there").href == ""
        assert lessons.all_lessons() in (["data_parallelism", "broken"], ["broken", "data_parallelism"])
