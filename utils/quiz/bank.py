"""Read the question bank: one YAML file a topic, checked against `schema.json`.

How to write items
------------------
The file is `utils/quiz/bank/<topic>.yaml`. A lesson's topic is its name without number and with hyphens:
`data_parallelism` writes `data-parallelism.yaml`, and every id in it starts with `data-parallelism.`. Check it with

    python -m utils.quiz lint data-parallelism        # or without a name: every bank

Use block scalars (`|` or `>-`) or single quotes for text with a colon, a backslash or a quote; never double quotes
around mathematics. Text is Markdown: `code`, fenced code, lists, tables, `$...$` for mathematics; raw HTML is shown as
text. Options are shuffled, so nothing may refer to one by letter or place. Every option has a `why`, right or wrong: a
wrong one names the mistake in thinking (`misconception`: a slug defined under `misconceptions:` in your own file, or in
`misconceptions.yaml`, which all banks share).
An id is never reused. Raise `rev` when the meaning of an item changes; set `status: retired` instead of deleting.

    schema_version: 1
    bank: data-parallelism
    title: Data parallelism
    topics:                              # a topic's lesson is where its verdict sends the learner
      - {id: gradients, title: Averaging gradients, lesson: data_parallelism}
    misconceptions:                      # slug: what is believed
      half-ring: A ring all-reduce sends each byte once.
      same-data-everywhere: Every rank reads the same batch.
    test:                                # optional; this is the default
      draw: {easy: 3, medium: 4, hard: 3}
      follow_up: {medium: 3, hard: 2}
    items:
      - id: data-parallelism.what-is-a-replica
        type: flashcard
        topic: gradients                 # may be left out where the file has one topic
        difficulty: easy
        level: beginner                  # optional label shown on the card instead of the difficulty
        prompt: What is a *replica*?
        answer: One rank's whole copy of the model.

      - id: data-parallelism.after-backward
        type: mcq                        # three to six options, exactly one right
        topic: gradients
        difficulty: easy
        equiv: gradients-meet            # siblings with one slug ask the same thing: a second attempt draws another
        roles: [test]                    # lesson, practice, test; with `equiv` the default is [test], else [practice]
        prompt: What must happen after `backward()` on every rank?
        options:
          - {id: average, text: The gradients are averaged, correct: true, why: Every replica takes the same step.}
          - {id: data, text: The batches are exchanged, why: Data stay where they are., misconception: data-travel}
          - {id: none, text: Nothing, why: Replicas drift apart., misconception: replicas-agree-alone, pin: last}
        explanation: The mean of the gradients of equal shards is the gradient of the whole batch.

      - id: data-parallelism.what-is-equal
        type: multi                      # three to eight options, one or more right; all of them make it right
        topic: gradients
        difficulty: medium
        prompt: Which of these are equal on all ranks after the step?
        options:
          - {id: parameters, text: Parameters, correct: true, why: Same start and same step.}
          - {id: adam, text: Adam's states, correct: true, why: They have seen the same gradients.}
          - {id: batch, text: The batch, why: Each rank reads its own shard., misconception: same-data-everywhere}

      - id: data-parallelism.ring-bytes
        type: numeric
        topic: gradients
        difficulty: hard
        prompt: A ring all-reduce of 800 MB on 4 ranks. How much does each rank send?
        answer:
          value: 1200
          derive: 2*(4-1)/4*800          # arithmetic; the lint holds value against it
          rel_tol: 0.01
          unit: MB
          accept_units: {MB: 1, GB: 1000}
          catch:                         # wrong numbers that are expected, with the mistake behind each
            - {value: 600, derive: (4-1)/4*800, why: That is only the reduce-scatter half., misconception: half-ring}
        explanation: $2(N-1)/N$ of 800 MB.

      - id: data-parallelism.why-broadcast
        type: open                       # writing first; then the concepts are ticked; then the model answer
        topic: gradients
        difficulty: medium
        prompt: Why is a broadcast needed before the first step?
        hints: [Think of what each rank's random seed decides.]
        concepts:                        # two to eight, each a thing one can find in an answer or not
          - {id: seeds, label: Each rank starts from its own random parameters}
          - {id: same, label: Equal steps keep a difference, detail: It stays for ever.}
        model_answer: Every rank draws its own first parameters ...
        min_chars: 40                    # the checklist opens when so much is written (default 40)

      - id: data-parallelism.shard-30
        type: problem                    # with `options` (as in mcq), or `answer` (as in numeric), or neither
        topic: gradients
        difficulty: medium
        prompt: Thirty sequences, four ranks. How large are the shards?
        hints: [30 = 4 * 7 + 2]
        steps:
          - {do: Divide, why: 30 // 4 = 7 leaves 2.}
          - {do: Give one more to the first two ranks}
        final_answer: 8, 8, 7, 7
        quick_check: They add up to 30.
        common_mistakes:
          - {mistake: Dropping the two that are left, fix: Then the batch is 28., misconception: drop-the-rest}

      - id: data-parallelism.four-gradients
        type: predict                    # with `options`, or `answer`, or neither (a line of text)
        topic: gradients
        difficulty: medium
        roles: [lesson]                  # shown only where a lesson names it
        prompt: The next cell computes four gradients of 8 sequences and one of 32. How are they related?
        options: []                      # as in mcq
        explanation: The gradient of a mean is the mean of the gradients.    # shown beside the real result

      - id: data-parallelism.exercise-ring
        type: code                       # the attempts of check.<check>, recorded by `utils.progress.attempt`
        topic: gradients
        difficulty: hard
        prompt: Write a ring all-reduce for any N and any length.
        lesson: data_parallelism         # the exercise notebook
        check: ring_all_reduce

In a lesson: `quiz.show("data-parallelism.four-gradients")` in one cell; the next code cell ends in
`quiz.reveal("data-parallelism.four-gradients", value)`. At the end `quiz.deck("data-parallelism")`,
`quiz.questions("data-parallelism")`, `quiz.practice("data-parallelism")` and `quiz.test("data-parallelism")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.quiz.reading import BankError, id_faults, nearest, read, schema_faults

FOLDER = Path(__file__).parent / "bank"
MISCONCEPTIONS = "misconceptions.yaml"
DRAW = {"easy": 3, "medium": 4, "hard": 3}
FOLLOW_UP = {"medium": 3, "hard": 2}


@dataclass(frozen=True)
class Topic:
    """A part of a bank, and the lesson that teaches it."""

    id: str
    title: str
    lesson: str | None


@dataclass(frozen=True)
class Item:
    """One item: its common fields as attributes, those of its kind by key (`item["options"]`)."""

    id: str
    type: str
    bank: str
    topic: str
    difficulty: str
    rev: int
    status: str
    roles: tuple[str, ...]
    equiv: str
    raw: Mapping[str, Any]

    def __getitem__(self, field: str) -> Any:
        return self.raw[field]

    def get(self, field: str, default: Any = None) -> Any:
        """Return a field of the item, or `default` where the author left it out."""
        return self.raw.get(field, default)

    @property
    def label(self) -> str:
        """The level shown to the learner: beginner to advanced where given, else easy to hard."""
        return self.raw.get("level", self.difficulty)


@dataclass(frozen=True)
class Bank:
    """One file of the bank."""

    name: str
    title: str
    path: Path
    topics: tuple[Topic, ...]
    items: tuple[Item, ...]
    draw: Mapping[str, int]
    follow_up: Mapping[str, int]
    misconceptions: Mapping[str, str]

    def topic(self, name: str) -> Topic:
        """Return a topic of this bank by its id."""
        return next(topic for topic in self.topics if topic.id == name)

    def select(self, *types: str, role: str | None = None, topic: str | None = None) -> list[Item]:
        """Return the live items of these types, in file order, for a role and a topic where given."""
        return [
            item
            for item in self.items
            if item.status == "live"
            and (not types or item.type in types)
            and (role is None or role in item.roles)
            and (topic is None or item.topic == topic)
        ]


_cache: dict[Path, tuple[tuple[int, int], Bank]] = {}


def names() -> list[str]:
    """Return the names of all banks, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.name != MISCONCEPTIONS)


def load(name: str) -> Bank:
    """Return a bank, read again only when its file has changed.

    Raises BankError, naming file, item and field, where the file is missing, broken or breaks the schema.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in names():
        raise BankError(f"There is no bank {name!r}.{nearest(name, names())}")
    status = path.stat()
    stamp = (status.st_mtime_ns, status.st_size)
    if path in _cache and _cache[path][0] == stamp:
        return _cache[path][1]
    data = read(path)
    faults = schema_faults(data) or id_faults(data, name)
    if faults:
        raise BankError(f"{path.name} cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults[:12]))
    bank = _build(data, path)
    _cache[path] = (stamp, bank)
    return bank


def all_banks() -> tuple[list[Bank], list[str]]:
    """Return every bank that can be read, and a message for every one that cannot."""
    banks, messages = [], []
    for name in names():
        try:
            banks.append(load(name))
        except BankError as error:
            messages.append(str(error))
    return banks, messages


def find(identifier: str) -> Item:
    """Return the item with this id; raise BankError naming the nearest id where there is none."""
    if not isinstance(identifier, str):
        raise BankError(
            f"An item is named by its id, a string such as 'data-parallelism.ring-bytes', not {identifier!r}."
        )
    stem = identifier.split(".", 1)[0]
    if stem in names():
        bank = load(stem)
        for item in bank.items:
            if item.id == identifier:
                return item
        known = [item.id for item in bank.items]
    else:
        known = [item.id for bank in all_banks()[0] for item in bank.items]
    raise BankError(f"There is no item {identifier!r} in the bank.{nearest(identifier, known)}")


def resolve(name: str) -> tuple[Bank, str | None]:
    """Return the bank, and the topic in it, of 'data-parallelism' or 'data-parallelism.gradients'."""
    if not isinstance(name, str):
        raise BankError(f"A topic is named by a string such as 'data-parallelism', not {name!r}.")
    stem, _, topic = name.partition(".")
    bank = load(stem)
    if topic and topic not in [known.id for known in bank.topics]:
        options = [f"{stem}.{known.id}" for known in bank.topics]
        raise BankError(f"The bank {stem!r} has no topic {topic!r}.{nearest(name, options)}")
    return bank, topic or None


def _build(data: Mapping[str, Any], path: Path) -> Bank:
    lesson = data["bank"].replace("-", "_")
    topics = tuple(Topic(t["id"], t["title"], t.get("lesson", lesson)) for t in data["topics"])
    items = tuple(
        Item(
            id=raw["id"],
            type=raw["type"],
            bank=data["bank"],
            topic=raw.get("topic", topics[0].id),
            difficulty=raw["difficulty"],
            rev=raw.get("rev", 1),
            status=raw.get("status", "live"),
            roles=tuple(raw.get("roles", ["test"] if "equiv" in raw else ["practice"])),
            equiv=raw.get("equiv", raw["id"]),
            raw=raw,
        )
        for raw in data["items"]
    )
    test = data.get("test", {})
    draw = test.get("draw", DRAW)
    follow_up = test.get("follow_up", {} if "draw" in test else FOLLOW_UP)
    return Bank(data["bank"], data["title"], path, topics, items, draw, follow_up, data.get("misconceptions", {}))
