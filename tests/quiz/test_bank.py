"""The bank: schema, names, errors that name file, item and field, lints, and every committed bank."""

import copy
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from utils import quiz
from utils.quiz import bank, lint, reading
from utils.quiz.__main__ import main
from utils.quiz.bank import BankError

SAMPLE = yaml.safe_load((Path(__file__).parent / "bank/sample.yaml").read_text())
Write = Callable[[str, str], Path]


def item(data: dict, name: str) -> dict:
    return next(raw for raw in data["items"] if raw["id"] == f"sample.{name}")


def broken(change: Callable[[dict], object]) -> list[str]:
    data = copy.deepcopy(SAMPLE)
    change(data)
    return reading.schema_faults(data) or reading.id_faults(data, "sample")


def test_the_sample_has_every_kind_and_no_fault() -> None:
    kinds = {raw["type"] for raw in SAMPLE["items"]}
    assert kinds == {"flashcard", "mcq", "multi", "numeric", "open", "problem", "predict", "code"}
    assert broken(lambda data: None) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda d: item(d, "single")["options"][1].update(correct=True),
            ["sample.single", "options", "2 options are marked"],
        ),
        (lambda d: item(d, "single")["options"][0].pop("why"), ["sample.single", "options.0", "'why' is a required"]),
        (lambda d: item(d, "single").update(dificulty="easy"), ["sample.single", "dificulty", "difficulty"]),
        (lambda d: item(d, "single").update(difficulty="Easy"), ["sample.single", "difficulty", "'easy'"]),
        (lambda d: item(d, "single").update(answer="x"), ["sample.single", "answer"]),
        (lambda d: item(d, "card").pop("answer"), ["sample.card", "'answer' is a required"]),
        (lambda d: item(d, "single")["options"].pop(), ["sample.single", "options"]),
        (lambda d: item(d, "card").update(id="Foo"), ["Foo", "id"]),
        (lambda d: item(d, "card").pop("id"), ["item number 1 (no id)", "'id' is a required"]),
        (lambda d: item(d, "open").update(concepts=[]), ["sample.open", "concepts"]),
        (lambda d: item(d, "card").update(type="essay"), ["sample.card", "type", "'flashcard'"]),
        (lambda d: item(d, "card").update(answer=False), ["sample.card", "answer", "put it in quotes"]),
        (lambda d: item(d, "single")["options"][0].update({"a b": None}), ["sample.single", "put it in quotes"]),
        (lambda d: item(d, "card-two").update(id="sample.card"), ["sample.card", "used twice"]),
        (lambda d: item(d, "card").update(id="other.card"), ["other.card", "must start with 'sample.'"]),
        (lambda d: item(d, "card").update(topic="gradient"), ["sample.card", "topic", "Did you mean 'gradients'"]),
        (lambda d: item(d, "single")["options"][0].update(id="data"), ["sample.single", "'data' is used twice"]),
        (lambda d: d.update(bank="other"), ["bank", "'other'", "'sample'"]),
        (lambda d: d.update(itemz=[]), ["the file", "itemz", "Did you mean 'items'"]),
    ],
)
def test_each_fault_names_item_and_field(change: Callable[[dict], object], says: list[str]) -> None:
    faults = "\n".join(broken(change))
    assert all(words in faults for words in says), faults


def test_an_unknown_id_names_the_nearest(sample: bank.Bank) -> None:
    with pytest.raises(BankError, match=r"no item 'sample\.singel'.*Did you mean 'sample\.single'"):
        quiz.show("sample.singel")
    with pytest.raises(BankError, match="Did you mean 'sample.card'"):
        quiz.show("sampel.card")
    with pytest.raises(BankError, match="a string such as"):
        quiz.show(3)  # type: ignore[arg-type]
    with pytest.raises(BankError, match="There is no bank 'sampl'. Did you mean 'sample'"):
        quiz.deck("sampl")
    with pytest.raises(BankError, match=r"no topic 'gradient'. Did you mean 'sample\.gradients'"):
        quiz.deck("sample.gradient")
    with pytest.raises(BankError, match="of type mcq"):
        quiz.reveal("sample.single", 1)


def test_an_error_is_shown_without_a_traceback(sample: bank.Bank) -> None:
    with pytest.raises(BankError) as caught:
        quiz.show("sample.nothing")
    shown = caught.value._render_traceback_()
    assert len(shown) == 1
    assert "File" not in shown[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", r"other\.yaml, line \d+, column \d+"),
        ("bank: other\nbank: other\n", "line 2: the key 'bank' is written twice"),
        ("", "is not of type 'object'"),
        ("[1, 2]", "is not of type 'object'"),
        ("schema_version: 2\nbank: other\n", "schema_version"),
        ('a: "$\\cdot$"', "single quotes"),
    ],
)
def test_a_broken_file_is_named_with_its_line(make_bank: Write, text: str, says: str) -> None:
    make_bank("other", text)
    with pytest.raises(BankError, match=says):
        bank.load("other")
    _, messages = bank.all_banks()
    assert len(messages) == 1


def test_a_file_that_is_no_text(make_bank: Write) -> None:
    make_bank("other", "").write_bytes(b"a: \xff\xfe")
    with pytest.raises(BankError, match="not UTF-8"):
        bank.load("other")


def test_a_broken_bank_leaves_the_others_usable(make_bank: Write) -> None:
    make_bank("sample", (Path(__file__).parent / "bank/sample.yaml").read_text())
    make_bank("other", "a: [1")
    assert bank.find("sample.card").label == "beginner"
    found, messages = bank.all_banks()
    assert [b.name for b in found] == ["sample"]
    assert "other.yaml" in messages[0]


def test_a_changed_file_is_read_again(make_bank: Write) -> None:
    text = (Path(__file__).parent / "bank/sample.yaml").read_text()
    make_bank("sample", text)
    assert bank.find("sample.card")["prompt"] == "What is a *replica*?"
    make_bank("sample", text.replace("What is a *replica*?", "What is it, a *replica*?"))
    assert bank.find("sample.card")["prompt"] == "What is it, a *replica*?"


def test_the_guide_shows_a_bank_that_passes() -> None:
    doc = bank.__doc__ or ""
    start, end = doc.index("    schema_version"), doc.index("In a lesson:")
    data = yaml.safe_load(textwrap.dedent(doc[start:end]).replace("options: []", "answer: {value: 1}"))
    assert {raw["type"] for raw in data["items"]} == {raw["type"] for raw in SAMPLE["items"]}
    assert reading.schema_faults(data) + reading.id_faults(data, "data-parallelism") == []


def lints(make_bank: Write, change: Callable[[dict], object]) -> str:
    data = copy.deepcopy(SAMPLE)
    data["misconceptions"] = {"data-travel": "Batches travel.", "half-ring": "A ring is over at half."}
    change(data)
    make_bank("sample", yaml.safe_dump(data, allow_unicode=True))
    return "\n".join(lint.lint("sample")[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda d: item(d, "single")["options"][1].update(why="See option A."),
            "options.1.why: 'option A' names an option",
        ),
        (lambda d: item(d, "single").update(explanation="The first answer is right."), "explanation: 'first answer'"),
        (lambda d: item(d, "single")["options"][1].update(text="All of the above"), "needs `pin: last`"),
        (lambda d: item(d, "single")["options"][1].pop("misconception"), "(data).misconception"),
        (lambda d: item(d, "single")["options"][1].update(misconception="data-travels"), "Did you mean 'data-travel'"),
        (lambda d: item(d, "single")["options"][1].update(text="nothing"), "the same as option"),
        (lambda d: item(d, "card").update(answer="It is <b>bold</b>."), "answer: raw HTML '<b>'"),
        (lambda d: item(d, "card").update(answer="It costs $5."), "odd number of $"),
        (lambda d: item(d, "card").update(answer="$\\text{<i>}$"), "cannot be typeset"),
        (lambda d: item(d, "card").update(answer="```\nopen"), "code block is not closed"),
        (lambda d: item(d, "number")["answer"].update(value=1300), "answer.value: is 1300, but derive gives 1200"),
        (lambda d: item(d, "number")["answer"]["catch"][0].update(derive="2*x"), "cannot be computed"),
        (lambda d: item(d, "number")["answer"]["catch"][1].update(value=1205), "within the tolerance"),
        (lambda d: item(d, "number")["answer"].update(accept_units={"GB": 1000}), "must hold the answer's own unit"),
        (lambda d: item(d, "single").update(prompt="Which of these is not sent?"), "turns on 'not'"),
        (
            lambda d: (item(d, "single").update(equiv="x"), item(d, "multi").update(equiv="x")),
            "equiv 'x': difficulty is easy, medium",
        ),
    ],
)
def test_each_lint_finds_its_fault(make_bank: Write, change: Callable[[dict], object], says: str) -> None:
    assert lints(make_bank, lambda data: None) == ""
    faults = lints(make_bank, change)
    assert says in faults, faults
    assert all(line.startswith("sample.yaml, ") for line in faults.splitlines())


def test_the_command_names_faults_and_fails(make_bank: Write, capsys: pytest.CaptureFixture[str]) -> None:
    lints(make_bank, lambda data: None)
    assert main(["lint", "sample"]) == 0
    lints(make_bank, lambda d: item(d, "card").update(answer="It costs $5."))
    assert main(["lint"]) == 1
    assert "item 'sample.card', answer: an odd number" in capsys.readouterr().out
    assert main(["lint", "nothing"]) == 1


@pytest.mark.parametrize("name", bank.names())
def test_every_committed_bank_is_free_of_faults(name: str) -> None:
    faults, _ = lint.lint(name)
    assert faults == []


@pytest.mark.parametrize("name", bank.names())
def test_every_committed_bank_reads_the_same_where_yaml_has_no_c_library(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(bank.__file__).parent / "bank" / f"{name}.yaml"
    fast = reading.read(path)
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert reading.read(path) == fast


def test_no_id_is_used_in_two_banks() -> None:
    banks, messages = bank.all_banks()
    assert messages == []
    ids = [item.id for found in banks for item in found.items]
    assert len(ids) == len(set(ids))


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys; import utils.quiz, utils.progress; from utils.quiz import bank; bank.all_banks();"
        "print([m for m in ('torch','matplotlib','IPython','ipywidgets','rfc3987_syntax','numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
