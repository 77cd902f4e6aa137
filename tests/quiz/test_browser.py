"""Every kind of item in a real JupyterLab and a real Notebook 7: by keyboard alone, announced, accessible, kept."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from playwright.sync_api import expect

from tests.browser.lab import Lab
from tests.quiz.harmless import HOSTILE
from tests.quiz.pages import Quiz, notebook, opened
from tests.quiz.test_static import SAMPLE, poisoned

KINDS = ["card", "single", "multi", "number", "open", "shards", "predict", "exercise"]
CALLS = [f"quiz.show('sample.{name}')" for name in KINDS] + [
    "quiz.reveal('sample.predict', [0.5, 2])",
    "quiz.practice('sample')",
]
FRONTS = ["lab", "notebook7"]


def forget(lab: Lab) -> None:
    """Empty the folder where kernels keep progress."""
    shutil.rmtree(lab.server.course_home)
    lab.server.course_home.mkdir()


@pytest.fixture(scope="module", params=FRONTS)
def quiz(request: pytest.FixtureRequest, lab_browser: Lab) -> Iterator[Quiz]:
    """Return a notebook with one cell of every kind, run."""
    forget(lab_browser)
    with opened(lab_browser, request.param, notebook(*CALLS)) as page:
        yield page


def check_rules(quiz: Quiz, cards: int) -> None:
    """Hold every card against the accessibility rules, in the dark and in the light theme."""
    for theme in ("dark", "light"):
        quiz.theme(theme)
        assert {n: faults for n in range(1, cards + 1) if (faults := quiz.axe(quiz.card(n)))} == {}, theme


def test_no_card_breaks_an_accessibility_rule_before_it_is_answered(quiz: Quiz) -> None:
    check_rules(quiz, len(CALLS))


def test_the_live_region_is_there_from_the_start_and_silent(quiz: Quiz) -> None:
    for number in range(1, len(CALLS) + 1):
        region = quiz.card(number).get_by_role("status")
        expect(region).to_have_count(1)
        assert region.text_content() == ""


def test_flashcard(quiz: Quiz) -> None:
    card = quiz.card(1)
    quiz.enter(card)
    quiz.to("Show the answer")
    quiz.unharmed()
    quiz.press("Enter")
    quiz.says(card, "Answer shown")
    expect(card.locator(".answer")).to_contain_text("whole")
    expect(card.locator(".answer math")).to_be_visible()
    quiz.to("^Good")
    quiz.unharmed()
    quiz.press("Space")
    quiz.says(card, r"Rated: Good\. It comes back in 1 day")
    quiz.same_cells()


def test_single_choice(quiz: Quiz) -> None:
    card = quiz.card(2)
    quiz.enter(card)
    assert quiz.focused()["type"] == "radio"
    quiz.unharmed()
    quiz.press("ArrowDown")
    chosen = quiz.focused()["text"]
    quiz.press("ArrowUp", "ArrowDown")
    assert quiz.focused()["text"] == chosen
    expect(card.locator("input:checked")).to_have_count(1)
    expect(card.locator(".omw-result")).to_have_count(0)  # choosing does not grade
    quiz.press("Tab")
    quiz.press("ArrowRight")
    quiz.press("ArrowRight")
    assert quiz.focused()["text"] == "Certain"
    quiz.press("Enter")
    quiz.says(card, r"ight\.")
    expect(card.locator(".omw-result")).to_have_count(3)
    expect(card.locator(".omw-result math")).to_be_visible()
    quiz.same_cells()
    quiz.to("Answer again")
    quiz.unharmed()
    quiz.to("Answer again")
    quiz.press("Enter")
    quiz.says(card, "Asked again")
    quiz.same_cells()
    quiz.to("Check")
    quiz.press("Enter")
    quiz.says(card, "Choose an option first")
    quiz.same_cells()


def test_multiple_choice(quiz: Quiz) -> None:
    card = quiz.card(3)
    quiz.enter(card)
    for words in ("The parameters", "Adam's states"):
        quiz.enter(card)
        quiz.to(words)
        quiz.unharmed()
        quiz.press("Space")
    quiz.to("Check")
    quiz.press("Space")
    quiz.says(card, r"^Right\.$")
    quiz.same_cells()


def test_number(quiz: Quiz) -> None:
    card = quiz.card(4)
    quiz.enter(card)
    quiz.press("Enter")
    quiz.says(card, "Type a number first")
    quiz.same_cells()
    quiz.page.keyboard.type("2*(4-1)/4*800 bananas x d d")
    quiz.press("Enter")
    quiz.says(card, "for example 0.75")
    quiz.press("Control+A")
    quiz.page.keyboard.type("0.6 GB")
    quiz.unharmed()
    quiz.press("Control+A")
    quiz.page.keyboard.type("0.6 GB")
    quiz.press("Enter")
    quiz.says(card, r"Not right\. Right is: 1200 MB")
    expect(card).to_contain_text("That is only the reduce-scatter half.")
    quiz.same_cells()


def test_open_question(quiz: Quiz) -> None:
    card = quiz.card(5)
    quiz.enter(card)
    quiz.to("^Hint")
    quiz.unharmed()
    quiz.press("Enter")
    expect(card.locator("details[open]")).to_have_count(1)
    quiz.to("Your answer, in your own words")
    quiz.page.keyboard.type("xabdd")
    quiz.press("Enter", "Escape")
    quiz.same_cells()
    quiz.to("Compare")
    quiz.press("Enter")
    quiz.says(card, "Write first: 15 more characters")
    assert card.locator("textarea").input_value().startswith("xabdd"), "what was typed stays"
    quiz.to("Your answer, in your own words", "Shift+Tab")
    quiz.page.keyboard.type("Each rank starts from a seed of its own.")
    quiz.to("Compare")
    quiz.press("Enter")
    quiz.says(card, "The checklist is open")
    assert quiz.focused()["type"] == "checkbox"
    quiz.unharmed()
    quiz.press("Space")
    quiz.to("^Count")
    quiz.press("Enter")
    quiz.says(card, "You got 1 of 4 concepts")
    expect(card).to_contain_text("Model answer")
    quiz.same_cells()


def test_problem(quiz: Quiz) -> None:
    card = quiz.card(6)
    quiz.enter(card)
    quiz.to("^Hint")
    quiz.press("Space")
    expect(card).to_contain_text("30 = 4 * 7 + 2")
    quiz.press("Tab")
    assert quiz.focused()["type"] == "radio"
    quiz.press("ArrowDown")
    quiz.to("^Check")
    quiz.press("Enter")
    quiz.says(card, "The solution is open")
    quiz.same_cells()
    for words in ("Quick check", "Common mistakes"):
        quiz.enter(card)
        quiz.to(words)
        quiz.unharmed()
        quiz.press("Enter")
    expect(card).to_contain_text("Dropping the two that are left.")
    expect(card).to_contain_text("They add up to 30.")


def test_predict_and_reveal(quiz: Quiz) -> None:
    card, result = quiz.card(7), quiz.card(9)
    expect(result.locator("details:not([open])")).to_contain_text("Predict first")
    quiz.enter(result)
    quiz.unharmed()
    card = quiz.card(7)
    quiz.enter(card)
    quiz.press("ArrowDown")
    quiz.unharmed()
    quiz.to("Lock in")
    quiz.press("Enter")
    quiz.says(card, "Locked in")
    quiz.same_cells()
    expect(card.locator("input")).to_have_count(0)
    expect(result).to_contain_text("You predicted")
    expect(result).to_contain_text("The run gave")
    expect(result).to_contain_text("[0.5, 2]")


def test_code_exercise(quiz: Quiz) -> None:
    card = quiz.card(8)
    expect(card).to_contain_text("Not attempted yet.")
    quiz.enter(card)
    quiz.to("Look again")
    quiz.unharmed()
    quiz.press("Enter")
    quiz.says(card, "Read again")
    quiz.same_cells()


def test_practice_in_a_row(quiz: Quiz) -> None:
    card = quiz.card(10)
    place = card.locator(".omw-heading").inner_text().split(" ·")[0]
    assert place in ("Practice 1 of 3", "Practice 2 of 3")
    quiz.enter(card)
    quiz.to("^Next$")
    quiz.press("Enter")
    expect(card.locator(".omw-heading")).not_to_contain_text(place)
    assert quiz.focused()["heading"]
    quiz.unharmed()
    quiz.to("^Back$")
    quiz.press("Enter")
    expect(card.locator(".omw-heading")).to_contain_text(place)
    quiz.same_cells()


def test_no_card_breaks_an_accessibility_rule_after_it_is_answered(quiz: Quiz) -> None:
    check_rules(quiz, len(CALLS))


@pytest.mark.parametrize("front", FRONTS)
def test_the_whole_test_by_keyboard(lab_browser: Lab, front: str) -> None:
    forget(lab_browser)
    calls = [
        "quiz.test('data-or-model-parallelism')",
        "quiz.doors('data-or-model-parallelism')",
        "quiz.progress()",
        "quiz.review()",
    ]
    with opened(lab_browser, front, notebook(*calls, plain=True)) as quiz:
        card = quiz.card(1)
        quiz.enter(card)
        quiz.to("^Start$")
        quiz.press("Enter")
        for number in range(1, 11):
            expect(card.locator(".omw-heading")).to_contain_text(f"Question {number} of 10")
            assert quiz.focused()["heading"]
            quiz.press("Tab")
            if quiz.focused()["type"] == "text":
                quiz.page.keyboard.type("1")
            else:
                quiz.press("Space")
            quiz.press("Enter")
        quiz.says(card, "between")
        assert quiz.focused()["heading"]
        expect(card.locator("details")).to_have_count(10)
        quiz.same_cells()
        doors = quiz.card(2)
        quiz.enter(doors)
        quiz.to("Jump in")
        quiz.press("Enter")
        expect(doors).to_contain_text("These notebooks lead there")
        quiz.unharmed()
        check_rules(quiz, 4)


def test_closed_and_opened_again_everything_is_there(lab_browser: Lab) -> None:
    forget(lab_browser)
    names = ("single", "open", "predict")
    content = notebook(*(f"quiz.show('sample.{name}')" for name in names), "quiz.reveal('sample.predict', 3)")
    running = lab_browser.open(content, width=1100)
    running.run_all()
    quiz = Quiz(running.page, 5)
    quiz.card(1).get_by_role("radio").first.check()
    quiz.card(1).get_by_role("button", name="Check").click()
    quiz.says(quiz.card(1), "ight")
    quiz.card(3).get_by_role("radio").first.check()
    quiz.card(3).get_by_role("button", name="Lock in").click()
    quiz.says(quiz.card(3), "Locked in")
    # typed, not compared: a reload of the page keeps it, a killed kernel may lose just this
    quiz.card(2).get_by_role("textbox").fill("Typed, but not yet compared.")
    running.save()
    running.page.reload()
    running.page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
    expect(quiz.card(2).get_by_role("textbox")).to_have_value("Typed, but not yet compared.")
    expect(quiz.card(1).locator(".omw-result")).to_have_count(3)
    running.page.evaluate("() => jupyterapp.shell.currentWidget.context.ready")
    running.wait_for_kernel()
    running.restart_and_run_all()
    expect(quiz.card(1)).to_contain_text("Answered on")
    expect(quiz.card(1).locator(".omw-result")).to_have_count(3)
    expect(quiz.card(3)).to_contain_text("locked in on")
    expect(quiz.card(4)).to_contain_text("You predicted")
    expect(quiz.card(2).get_by_role("textbox")).to_have_value("")
    running.close()


def test_a_killed_kernel_says_so_and_keeps_the_words(lab_browser: Lab) -> None:
    forget(lab_browser)
    with opened(lab_browser, "lab", notebook("quiz.show('sample.single')", "quiz.show('sample.open')")) as quiz:
        quiz.card(1).get_by_role("radio").first.check()
        quiz.card(1).get_by_role("button", name="Check").click()
        quiz.says(quiz.card(1), "ight")
        quiz.card(2).get_by_role("textbox").fill("Words that nobody has seen yet.")
        lab_browser.server.end_sessions()
        quiz.card(2).get_by_role("button", name="Compare").click()
        quiz.says(quiz.card(2), "The kernel has not answered")
        expect(quiz.card(2).get_by_role("textbox")).to_have_value("Words that nobody has seen yet.")
    with opened(lab_browser, "lab", notebook("quiz.show('sample.single')")) as quiz:
        expect(quiz.card(1)).to_contain_text("Answered on")


@pytest.mark.parametrize("front", FRONTS)
def test_hostile_text_does_not_run_in_the_browser(lab_browser: Lab, front: str, tmp_path: Path) -> None:
    forget(lab_browser)
    data = yaml.safe_load((SAMPLE / "sample.yaml").read_text())
    poison = "\n\n".join(HOSTILE)
    data["items"] = [poisoned(raw, poison) for raw in data["items"]]
    for raw in data["items"]:
        for option in raw.get("options", []):
            option["text"] = " ".join(HOSTILE)
    (tmp_path / "sample.yaml").write_text(yaml.safe_dump(data, allow_unicode=True).replace("\0", ""))
    (tmp_path / "misconceptions.yaml").write_text("{}")
    shows = [f"quiz.show('sample.{name}')" for name in ("card", "single", "number", "open", "shards", "predict")]
    content = notebook(*shows, "quiz.reveal('sample.predict', '<img src=x onerror=alert(1)>')", folder=tmp_path)
    with opened(lab_browser, front, content) as quiz:
        ran: list[str] = []
        quiz.page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
        quiz.card(1).get_by_role("button", name="Show the answer").click()
        for number in (2, 5, 6):
            quiz.card(number).get_by_role("radio").first.check()
            quiz.card(number).locator("button.omw-primary").click()
            expect(quiz.card(number).locator("button.omw-primary")).to_have_count(0)
        quiz.card(4).get_by_role("textbox").fill("<img src=x onerror=alert(1)> and <script>alert(1)</script>")
        quiz.card(4).locator("button.omw-primary").click()
        expect(quiz.card(4).locator(".wrote")).to_contain_text("<script>alert(1)</script>")
        expect(quiz.card(7)).to_contain_text("onerror")
        for selector in (
            ".omw script",
            ".omw img",
            ".omw iframe",
            ".omw svg",
            ".omw [onerror]",
            ".omw [onclick]",
            ".omw [style]",
        ):
            assert quiz.page.locator(selector).count() == 0, selector
        assert quiz.page.locator(".omw a[href^='javascript' i], .omw a[href^='data' i]").count() == 0
        quiz.page.wait_for_timeout(500)
        assert ran == []


def committed(calls: list[str], home: Path) -> nbformat.NotebookNode:
    """Return an executed notebook as it is committed: without widget views."""
    content = notebook(*calls)
    NotebookClient(content, timeout=120, kernel_name="python3").execute(env={**os.environ, "COURSE_HOME": str(home)})
    content.metadata.pop("widgets", None)
    for cell in content.cells:
        for output in cell.outputs:
            output.data.pop("application/vnd.jupyter.widget-view+json", None)
    return content


def test_a_clone_without_a_kernel_reads_and_opens(lab_browser: Lab, tmp_path: Path) -> None:
    content = committed(CALLS, tmp_path)
    running = lab_browser.open(copy.deepcopy(content), outputs=True, kernel=False)
    page = running.page
    folds = sum(output.data["text/html"].count("<details>") for cell in content.cells for output in cell.outputs)
    for index in range(1, len(content.cells)):
        running.cell(index)
    assert page.locator(".jp-OutputArea-output details").count() == folds
    assert page.locator(".jp-OutputArea-output details[open]").count() == 0
    first = running.cell(2).locator("details").first
    expect(first.locator("p").first).not_to_be_visible()
    first.locator("summary").click()
    expect(first.locator("p").first).to_be_visible()
    expect(running.cell(2).locator("mjx-container").first).to_be_visible()
    assert page.locator(".omw").count() == 0
    running.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_narrow_screen_shows_everything(lab_browser: Lab, theme: str) -> None:
    forget(lab_browser)
    with opened(lab_browser, "notebook7", notebook(*CALLS, "quiz.progress()"), width=900) as quiz:
        quiz.theme(theme)
        quiz.page.set_viewport_size({"width": 320, "height": 800})
        for number in range(1, len(CALLS) + 2):
            card = quiz.card(number)
            if number == 2:
                card.get_by_role("radio").first.check()
                card.get_by_role("button", name="Check").click()
                expect(card.locator(".omw-result")).to_have_count(3)
            assert card.evaluate("card => card.scrollWidth <= card.clientWidth + 1"), number
            assert (
                card.evaluate(
                    "card => [...card.querySelectorAll('*')].filter(n => n.getClientRects().length"
                    " && !n.closest('.omw-said, math') && n.getBoundingClientRect().right"
                    " > card.getBoundingClientRect().right + 1).map(n => n.outerHTML.slice(0, 80))"
                )
                == []
            )


def test_progress_is_carried_away_and_brought_back(lab_browser: Lab, tmp_path: Path) -> None:
    forget(lab_browser)
    with opened(lab_browser, "lab", notebook("quiz.show('sample.single')", "quiz.progress()")) as quiz:
        quiz.card(1).get_by_role("radio").first.check()
        quiz.card(1).get_by_role("button", name="Check").click()
        quiz.says(quiz.card(1), "ight")
        card = quiz.card(2)
        quiz.enter(card)
        quiz.to("Download my progress")
        with quiz.page.expect_download() as waiting:
            quiz.press("Enter")
        waiting.value.save_as(tmp_path / "progress.jsonl")
        assert (tmp_path / "progress.jsonl").read_text().count("\n") == 1
        quiz.same_cells()
        forget(lab_browser)  # as Binder does
        card.get_by_role("button", name="Restore").click()
        quiz.says(card, "Choose the file first")
        card.locator("input[type=file]").set_input_files(tmp_path / "progress.jsonl")
        quiz.page.wait_for_timeout(300)
        card.get_by_role("button", name="Restore").click()
        quiz.says(card, "1 events added, 0 were here already")
        card.get_by_role("button", name="Restore").click()
        quiz.says(card, "0 events added, 1 were here already")
