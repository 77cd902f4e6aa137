"""What the learner reads when a cell fails: which rank, which line, what the others did, the usual cause.

The text is the same from run to run: no process ids, addresses or times, and nothing that depends on which rank was
first. It is decided from what each rank had called, not from the order of events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.ranks.capture import clean
from utils.ranks.causes import BY_ERROR, CAUSES, LOST_PEER, NO_MEMORY
from utils.ranks.stuck import left_over, needs

Reply = Mapping[str, Any]


class RanksError(RuntimeError):
    """What went wrong on the ranks. Its text is the explanation; a notebook shows it without a traceback."""

    def __init__(self, text: str, cause: str = "error", states: Mapping[int, State] | None = None):
        super().__init__(text)
        self.cause = cause
        self.states: dict[int, State] = dict(states or {})

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


@dataclass(frozen=True)
class State:
    """Where one rank stood when the cell ended.

    `status`: "finished", "raised", "waited", "called" (something other than the rest), "died", "interrupted",
    "stopped" (because others had failed) or "absent" (the cell did not run there). `line` counts as JupyterLab does;
    None if it is not known.
    """

    status: str
    line: int | None = None
    op: str = ""
    name: str = ""
    message: str = ""


@dataclass
class Case:
    """All that is known of a cell that failed: what the explanation is made from."""

    cell: int
    world: int
    replies: Mapping[int, Reply]  # of the ranks that ran it
    books: Mapping[int, Reply]  # what each rank of the world has called
    cells: Mapping[int, tuple[str, int]]  # source and number of the first line, by number of the cell
    what: str = "cell"  # or "expression", "call", "value"
    interrupted: bool = False
    stopped: frozenset[int] = frozenset()  # ranks that were stopped because others had failed
    lines: Mapping[int, int | None] = field(default_factory=dict)  # where killed ranks were, from the table


def names(ranks: Iterable[int]) -> str:
    """Return "rank 2" or "ranks 0-2, 5"."""
    runs: list[list[int]] = []
    for r in sorted(ranks):
        if runs and r == runs[-1][1] + 1:
            runs[-1][1] = r
        else:
            runs.append([r, r])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return ("rank " if len(runs) == 1 and runs[0][0] == runs[0][1] else "ranks ") + text


def folded(by_rank: Mapping[int, Any]) -> list[tuple[list[int], Any]]:
    """Return (ranks, value) with the ranks of equal values together, in order of their first rank."""
    groups: dict[Any, list[int]] = {}
    for r, value in sorted(by_rank.items()):
        groups.setdefault(value, []).append(r)
    return [(ranks, value) for value, ranks in groups.items()]


class Report:
    """The explanation of one case."""

    def __init__(self, case: Case):
        self.case = case
        self.ranks = sorted(case.replies)
        self.secondary = {r for r in self.ranks if self._only_waited(r)}
        self.wait = {r: w for r in self.secondary if (w := self._waited_for(r))}
        self.odd = self._odd_calls()
        self.groups = self._odd_groups()
        self.left = left_over(case.books, set(self.ranks)) if not self.secondary else []
        self.out_of_step = bool(self.secondary or self.odd or self.groups or self.left)
        self.cause, self.head, usual = self._judge()
        self.usual = CAUSES.get(usual, usual)

    @property
    def failed(self) -> bool:
        """Tell whether there is anything to report."""
        return bool(self.cause)

    # -- what happened on a rank ----

    def _reply(self, r: int) -> Reply:
        return self.case.replies[r]

    def _only_waited(self, r: int) -> bool:
        """Tell whether a rank's trouble is only that others did not come, or went."""
        d = self._reply(r)
        if d["status"] == "died" or d.get("mismatch"):
            return False
        stood = (d.get("was") or {}).get("wait") if d.get("freed") else None
        # A connection of the learner's own may break too, and with the same words.
        ours = d["status"] == "raised" and d.get("place", "").startswith(("torch.", "utils.ranks."))
        lost = ours and LOST_PEER.search(d["message"]) is not None
        return bool(stood) or lost

    def _stopped(self, r: int) -> bool:
        """Tell whether a rank was stopped only because others had failed."""
        d = self._reply(r)
        return r in self.case.stopped and d["status"] == "raised" and d["name"] == "KeyboardInterrupt"

    def _waited_for(self, r: int) -> dict[str, Any] | None:
        """Return what a rank waited for: `op`, `call`, `frames`."""
        d = self._reply(r)
        was = d.get("was") or {}
        if was.get("wait"):
            return {**was["wait"], "frames": was["frames"]}
        recent = d.get("book", {}).get("recent", [])
        call = d.get("failed") or (recent[-1] if recent else None)
        if call is None:
            return None
        return {"op": call["via"] or call["op"], "call": call, "frames": d.get("frames") or call["frames"]}

    def _odd_calls(self) -> dict[int, Mapping[str, Any]]:
        """Return the call of each rank in the place where they first differ; empty if none differs."""
        first = None
        for r in self.ranks:
            call = self._reply(r).get("mismatch")
            if call and (first is None or (call["group"], call["number"]) < (first["group"], first["number"])):
                first = call
        if first is None:
            return {}
        odd = {}
        for r in self.ranks:
            d = self._reply(r)
            wait = self.wait.get(r, {}).get("call")
            known = [d.get("mismatch"), d.get("failed"), wait, *d.get("book", {}).get("recent", [])]
            for call in filter(None, known):
                same = call["group"] == first["group"] and call["number"] == first["number"]
                if same and call["channel"] == first["channel"]:
                    odd[r] = call
                    break
        return odd

    def _odd_groups(self) -> dict[int, str]:
        """Return, by rank, what tells its groups from those the others have made; empty if all agree."""
        made: dict[str, dict[int, str]] = {}
        count = {r: d["book"]["new_groups"] for r, d in self.case.replies.items() if "new_groups" in d.get("book", {})}
        for r in count:
            for name, members in self._reply(r)["book"]["made"].items():
                made.setdefault(name, {})[r] = f"made a group of ranks {list(members)}"
        for by_rank in made.values():
            if len(set(by_rank.values())) > 1:
                return by_rank
        if len(count) == self.case.world and len(set(count.values())) > 1:
            return {r: f"called new_group {n} time{'s' * (n != 1)} so far" for r, n in count.items()}
        return {}

    # -- the verdict ----

    def _judge(self) -> tuple[str, str, str]:
        """Return cause, first line and usual cause."""
        d = self.case.replies
        others = self.secondary | set(self.odd) | {r for r in self.ranks if self._stopped(r)}
        raised = [r for r in self.ranks if d[r]["status"] == "raised" and r not in others]
        died = [r for r in self.ranks if d[r]["status"] == "died"]
        if self.case.interrupted:
            return "interrupted", "You interrupted the cell.", ""
        if died:
            how = sorted({d[r]["how"] for r in died})
            left = all("exit code" in h for h in how)
            return "died", f"{names(died)} died: {', '.join(how)}.", "exit" if left else "died"
        if self.odd:
            return "mismatch", *self._mismatch()
        if any(d[r]["name"] == "OddGroup" for r in raised):
            return "mismatch", "the ranks made groups that do not fit together.", "groups"
        if raised:
            return self._raised(raised)
        if self.secondary:
            return self._waiting()
        if self.groups:
            return "mismatch", "the ranks made groups that do not fit together.", "groups"
        if self.left:
            return self._left_behind()
        return "", "", ""

    def _mismatch(self) -> tuple[str, str]:
        calls = list(self.odd.values())
        if calls[0]["channel"]:
            return "a message does not fit the tensor that is to receive it.", "message"
        if len({c["op"] for c in calls}) > 1:
            return "the ranks called different operations where all must call the same.", "mismatch"
        what = calls[0]["via"] or calls[0]["op"]
        if len({c["peer"] for c in calls}) > 1:
            return f"the ranks called {what} with different roots.", "roots"
        return f"the ranks called {what} with tensors that do not agree.", "tensors"

    def _raised(self, raised: list[int]) -> tuple[str, str, str]:
        d = self.case.replies
        kinds = {d[r]["name"] for r in raised}
        kind = kinds.pop() if len(kinds) == 1 else ""
        if all(d[r].get("pickle") for r in raised):
            return "pickle", f"the value on {names(raised)} cannot be brought to the notebook.", "pickle"
        if all(d[r].get("early") for r in raised):
            return "syntax", f"The {self.case.what} cannot be read as Python.", "syntax"
        if any(self._no_memory(r) for r in raised):
            out = [r for r in raised if self._no_memory(r)]
            return "memory", f"{names(out)} ran out of memory.", "memory"
        everywhere = len(raised) == len(self.ranks)
        what = kind or "an error"
        head = f"{'every rank' if everywhere and len(raised) > 1 else names(raised)} raised {what}."
        alone = "raised alone" if len(self.ranks) == 1 else "raised everywhere"
        usual = BY_ERROR.get(kind) or (alone if everywhere else "raised")
        return "raised", head, usual

    def _no_memory(self, r: int) -> bool:
        d = self._reply(r)
        return d["name"] == "MemoryError" or NO_MEMORY.search(d.get("message", "")) is not None

    def _waiting(self) -> tuple[str, str, str]:
        """Judge a cell in which ranks only waited."""
        need = {r: needs(r, w, self.case.books, self.case.world)[0] for r, w in self.wait.items()}
        for r in sorted(need):
            call, op = self.wait[r]["call"], self.wait[r]["op"]
            missing = need[r] - set(self.wait)
            if not missing:
                continue
            if call is None:
                return "skipped", f"not all ranks came to the {op} that {names([r])} waits in.", "groups"
            if call["kind"] != "collective":
                return "unmatched", self._lonely(r, call) + ".", "unmatched"
            same = [q for q, w in self.wait.items() if w["call"] and w["call"]["group"] == call["group"]]
            others = "the others wait" if set(same) | missing == set(range(self.case.world)) else f"{names(same)} wait"
            who = others if len(same) > 1 else f"{names(same)} waits"
            absent = not missing & set(self.ranks)
            head = f"{names(missing)} {'did not run' if absent else 'never reached'} the {op} that {who} in."
            return "skipped", head, "absent" if absent else "skipped"
        if not any(need.values()):
            return "broken", "the connection between the ranks broke.", "broken"
        if tags := self._tags():
            return "unmatched", tags, "tags"
        messages = all(w["call"] and w["call"]["channel"] for w in self.wait.values())
        return "order", f"{names(self.wait)} wait for each other.", "order" if messages else "order of calls"

    def _tags(self) -> str:
        """Return who sends and receives with different tags, or ""."""
        calls = {r: w["call"] for r, w in self.wait.items() if w["call"] and w["call"]["channel"]}
        for r, sent in sorted(calls.items()):
            got = calls.get(sent["peer"])
            pair = got and (sent["kind"], got["kind"], got["peer"]) == ("send", "recv", r)
            if got and pair and sent["tag"] != got["tag"]:
                there = f"rank {sent['peer']} receives with tag {got['tag']}"
                return f"rank {r} sends to rank {sent['peer']} with tag {sent['tag']}, but {there}."
        return ""

    def _lonely(self, r: int, call: Mapping[str, Any]) -> str:
        """Return who sends to whom, or receives from whom, in vain."""
        if call["kind"] == "any":
            return f"rank {r} receives from anyone, and nobody sends"
        sends = call["kind"] == "send"
        peer = call["peer"]
        absent = " (the cell did not run there)" if peer not in self.ranks else ""
        text = f"rank {r} {'sends to' if sends else 'receives from'} rank {peer}, which never "
        text += ("receives it" if sends else "sends") + absent
        ways = self.case.books.get(peer, {}).get("received" if sends else "sent", {})
        before = call["channel"].split("#")[0] + "#"
        tags = sorted(c.split("#")[1] for c in ways if c.startswith(before) and c != call["channel"])
        return text + (f" with tag {call['tag']} (but with tag {', '.join(tags)})" if tags else "")

    def _left_behind(self) -> tuple[str, str, str]:
        first = self.left[0]
        call = self._left_call(first)
        if first["kind"] == "collective":
            op = (call["via"] or call["op"]) if call else "a collective"
            head = f"{names(first['made'])} began {op}, which {names(first['missing'])} never called."
            return "unmatched", head, "left behind"
        made = first["made"][0]
        plain = {"kind": first["kind"], "peer": first["missing"][0], "channel": first["key"], "tag": 0}
        return "unmatched", self._lonely(made, call or plain) + ".", "unmatched"

    def _left_call(self, left: Mapping[str, Any]) -> Mapping[str, Any] | None:
        for r in left["made"]:
            for call in self._reply(r).get("book", {}).get("recent", []):
                if left["key"] in (call["group"], call["channel"]) and call["number"] == left["number"]:
                    return call  # type: ignore[no-any-return]
        return None

    # -- the words ----

    def at(self, frames: Iterable[Any]) -> tuple[int | None, str]:
        """Return the line of this cell, and the words that say where the rank was."""
        frames = [tuple(f) for f in frames]
        here = [f for f in frames if f[0] == self.case.cell]
        inner = frames[-1] if frames else None
        line, words = None, ""
        if here:
            line, code = self._line(here[-1])
            words = f" at line {line}: {code}" if code else f" at line {line}"
            if here[-1][2] and here[0][1] != here[-1][1]:
                words += f"  (in {here[-1][2]}, called at line {self._line(here[0])[0]})"
        if inner and inner[0] != self.case.cell:
            number, code = self._line(inner)
            words += f"  (in {inner[2] or 'a cell'}, line {number} of an earlier cell: {code})"
        return line, words

    def _line(self, frame: tuple[int, int, str]) -> tuple[int, str]:
        source, first = self.case.cells.get(frame[0], ("", 1))
        lines = source.splitlines()
        code = lines[frame[1] - 1].strip() if 0 < frame[1] <= len(lines) else ""
        return frame[1] + first - 1, code if len(code) <= 100 else code[:97] + "..."

    def _words(self, r: int) -> tuple[State, str]:
        """Return the state of a rank and the words for it, which are equal for ranks in the same situation."""
        d = self._reply(r)
        if d["status"] == "died":
            frames = d.get("frames") or []
            if not any(f[0] == self.case.cell for f in frames) and (line := self.case.lines.get(r)):
                frames = [(self.case.cell, line, "")]
            line, where = self.at(frames)
            return State("died", line, message=d["how"]), f"died{where}"
        if d.get("name") == "OddGroup":
            line, where = self.at(d["frames"])
            return State("called", line, "new_group"), f"made another group{where}"
        if self.cause == "mismatch" and r in self.groups and not self.odd:
            return State("called", op="new_group", message=self.groups[r]), self.groups[r]
        if self.cause == "mismatch" and r in self.odd:
            odd = self.odd[r]
            line, where = self.at(odd["frames"])
            return State("called", line, odd["op"], message=odd["signature"]), f"called {self._what(odd)}{where}"
        if r in self.secondary:
            wait = self.wait.get(r)
            line, where = self.at(wait["frames"] if wait else d.get("frames", []))
            op = wait["op"] if wait else "a collective"
            return State("waited", line, op), f"waited in {op}{self._with(wait)}{where}"
        if self._stopped(r):
            line, where = self.at(d["frames"])
            return State("stopped", line), f"was stopped{where}"
        if d["status"] == "raised":
            return self._raised_words(d)
        for left in self.left:
            if r in left["made"] and (call := self._left_call(left)):
                line, where = self.at(call["frames"])
                op = call["via"] or call["op"]
                return State("finished", line, op), f"began {op}{where}"
        return State("finished"), "finished the cell"

    def _raised_words(self, d: Reply) -> tuple[State, str]:
        message = clean(d["message"]).strip()
        line, where = self.at(d["frames"])
        if d["name"] == "KeyboardInterrupt" and self.case.interrupted:
            return State("interrupted", line), f"was interrupted{where}"
        if d.get("early") and d.get("syntax"):
            number, column, text = d["syntax"]
            first = self.case.cells.get(self.case.cell, ("", 1))[1]
            line = number and number + first - 1
            code = (text or "").rstrip("\n")
            caret = " " * (column - 1) + "^" if column and code and column <= len(code) + 1 else ""
            shown = f"line {line}: {message}\n    {code}" + (f"\n    {caret}" if caret else "")
            return State("raised", line, "", d["name"], message), shown
        if not where and d.get("place") and not d.get("pickle"):
            where = f" in {d['place']}"
        if len(message) > 1200:
            message = message[:1000] + f" ... ({len(message):,} characters)"
        shown = f"raised {d['name']}{where}" + "".join(f"\n    {row}" for row in message.splitlines())
        return State("raised", line, "", d["name"], message), shown

    @staticmethod
    def _what(call: Mapping[str, Any]) -> str:
        if call["channel"]:
            way = "to" if call["op"] == "send" else "from"
            return f"{call['op']} {way} rank {call['peer']}: {call['signature']}"
        return str(call["signature"])

    @staticmethod
    def _with(wait: Mapping[str, Any] | None) -> str:
        call = wait and wait["call"]
        if not call or not call["channel"]:
            return ""
        return f" {'to' if call['kind'] == 'send' else 'from'} rank {call['peer']}"

    def states(self) -> dict[int, State]:
        """Return the state of every rank of the world."""
        absent = {r: State("absent") for r in range(self.case.world) if r not in self.case.replies}
        return {**absent, **{r: self._words(r)[0] for r in self.ranks}}

    def text(self, repaired: str) -> str:
        """Return the explanation; `repaired` says what was done about it."""
        head = self.head if self.cause in ("interrupted", "syntax") else f"The {self.case.what} stopped: {self.head}"
        by_rank = {r: self._words(r)[1] for r in self.ranks}
        if self.cause in ("skipped", "unmatched", "mismatch"):
            by_rank.update({r: "did not run this cell" for r in range(self.case.world) if r not in by_rank})
        out = [head, *(f"{names(ranks)}: {words}" for ranks, words in folded(by_rank))]
        if self.usual:
            out.append(f"Usual cause: {self.usual}")
        return "\n".join([*out, *filter(None, [repaired])])
