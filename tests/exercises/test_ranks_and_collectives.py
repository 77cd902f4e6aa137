"""The exercises on ranks and collectives from three sides: stub, solution, and plausible wrong answers."""

import os
import re
from typing import Any

import pytest

from tests.exercises.sides import Sides, swap
from utils import check, ranks
from utils.check.messages import Seen, rounds, timeline
from utils.check.ranks_and_collectives import NEEDED, trace

SIDES = Sides("02_ranks_and_collectives")
EXERCISES = ("tree_broadcast", "ring_all_reduce", "ring_all_gather", "all_to_all")


@pytest.fixture(scope="module", autouse=True)
def five_ranks(tmp_path_factory):
    """Start the ranks once for all tests of this file; attempts go to an empty folder."""
    old, os.environ["COURSE_HOME"] = os.environ.get("COURSE_HOME"), str(tmp_path_factory.mktemp("home"))
    ranks.start(NEEDED)
    yield
    ranks.stop()
    if old is None:
        del os.environ["COURSE_HOME"]
    else:
        os.environ["COURSE_HOME"] = old


@pytest.mark.parametrize("name", EXERCISES)
def test_the_stub_is_not_attempted(name):
    SIDES.stub_is_not_attempted(name)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name):
    SIDES.solution_passes(name)


# name of the mistake -> (what is off, what its hint says, wrong answer)
Wrong = dict[str, tuple[str, str, Any]]

TREE: Wrong = {
    "the root sends to everybody": (
        "messages", "sends all 3 messages itself",
        """
def tree_broadcast(tensor, root, n):
    if rank == root:
        for other in range(n):
            if other != root:
                dist.send(tensor, dst=other)
    else:
        dist.recv(tensor, src=root)
""",
    ),
    "a chain": (
        "messages", "walks along a chain",
        """
def tree_broadcast(tensor, root, n):
    place = (rank - root) % n
    if place > 0:
        dist.recv(tensor, src=(rank - 1) % n)
    if place < n - 1:
        dist.send(tensor, dst=(rank + 1) % n)
""",
    ),
    "the root is always rank 0": (
        "result", "Number the ranks from the root",
        """
def tree_broadcast(tensor, root, n):
    reach = 1
    while reach < n:
        if rank < reach and rank + reach < n:
            dist.send(tensor, dst=rank + reach)
        elif reach <= rank < 2 * reach:
            dist.recv(tensor, src=rank - reach)
        reach *= 2
""",
    ),
    "no look whether a partner exists": (
        "deadlock", "every send needs its receive",
        """
def tree_broadcast(tensor, root, n):
    place = (rank - root) % n
    reach = 1
    while reach < n:
        if place < reach:
            dist.send(tensor, dst=(place + reach + root) % n)
        elif place < 2 * reach:
            dist.recv(tensor, src=(place - reach + root) % n)
        reach *= 2
""",
    ),
    "two rounds, whatever n": (
        "result", "The number of rounds must grow with n",
        """
def tree_broadcast(tensor, root, n):
    place = (rank - root) % n
    for reach in (1, 2):
        if place < reach and place + reach < n:
            dist.send(tensor, dst=(place + reach + root) % n)
        elif reach <= place < 2 * reach:
            dist.recv(tensor, src=(place - reach + root) % n)
""",
    ),
    "everybody has it twice": (
        "messages", "a rank needs the tensor once",
        """
def tree_broadcast(tensor, root, n):
    place = (rank - root) % n
    if place == 0:
        for other in range(1, n):
            dist.send(tensor, dst=(other + root) % n)
    else:
        dist.recv(tensor, src=root)
        if place > 1:
            dist.recv(tensor, src=(root + 1) % n)
    if place == 1:
        for other in range(2, n):
            dist.send(tensor, dst=(other + root) % n)
""",
    ),
    "into a tensor of its own": (
        "result", "fill the tensor that was handed in",
        """
def tree_broadcast(tensor, root, n):
    place = (rank - root) % n
    reach = 1
    while reach < n:
        if place < reach and place + reach < n:
            dist.send(tensor, dst=(place + reach + root) % n)
        elif reach <= place < 2 * reach:
            tensor = torch.empty_like(tensor)
            dist.recv(tensor, src=(place - reach + root) % n)
        reach *= 2
    return tensor
""",
    ),
    "the library's own": (
        "messages", "calls broadcast",
        """
def tree_broadcast(tensor, root, n):
    dist.broadcast(tensor, src=root)
""",
    ),
    "deadlock: everybody sends before receiving": (
        "deadlock", "all wait in a send",
        """
def tree_broadcast(tensor, root, n):
    place = (rank - root) % n
    reach = 1
    while reach < n:
        dist.send(tensor, dst=(place + reach + root) % n)
        dist.recv(tensor, src=(place - reach + root) % n)
        reach *= 2
""",
    ),
}  # fmt: skip

RING: Wrong = {
    "by way of rank 0": (
        "messages", "sends only to its right neighbour",
        """
def ring_all_reduce(tensor, n):
    if rank == 0:
        inbox = torch.empty_like(tensor)
        for other in range(1, n):
            dist.recv(inbox, src=other)
            tensor += inbox
        for other in range(1, n):
            dist.send(tensor, dst=other)
    else:
        dist.send(tensor, dst=0)
        dist.recv(tensor, src=0)
""",
    ),
    "the whole tensor goes round": (
        "bytes", "Cut it into n chunks",
        """
def ring_all_reduce(tensor, n):
    outgoing = tensor.clone()
    for step in range(n - 1):
        inbox = torch.empty_like(tensor)
        sending = dist.isend(outgoing, dst=(rank + 1) % n)
        dist.recv(inbox, src=(rank - 1) % n)
        sending.wait()
        tensor += inbox
        outgoing = inbox
""",
    ),
    "the mean": (
        "result", "you return the mean",
        swap(("take.copy_(inbox)", "take.copy_(inbox)\n    tensor /= n")),
    ),
    "second phase starts at its own chunk": (
        "result", "start the second phase with that one",
        """
def ring_all_reduce(tensor, n):
    chunks = tensor.tensor_split(n)
    for step in range(2 * (n - 1)):
        first = step < n - 1
        shift = step if first else step - n + 1
        give, take = chunks[(rank - shift) % n], chunks[(rank - shift - 1) % n]
        inbox = torch.empty_like(take)
        sending = dist.isend(give, dst=(rank + 1) % n)
        dist.recv(inbox, src=(rank - 1) % n)
        sending.wait()
        if first:
            take += inbox
        else:
            take.copy_(inbox)
""",
    ),
    "only the first phase": (
        "result", "The second is missing",
        swap(("range(2 * (n - 1))", "range(n - 1)")),
    ),
    "adds in the second phase too": (
        "result", "something was added twice",
        swap(("if step < n - 1:", "if True:")),
    ),
    "replaces in the first phase": (
        "result", "no number is a sum",
        swap(("take += inbox", "take.copy_(inbox)")),
    ),
    "the rest of the division is lost": (
        "result", "the rest of the division is lost",
        """
def ring_all_reduce(tensor, n):
    size = len(tensor) // n
    chunks = [tensor[i * size:(i + 1) * size] for i in range(n)]
    for step in range(2 * (n - 1)):
        give, take = chunks[(rank - step) % n], chunks[(rank - step - 1) % n]
        inbox = torch.empty_like(take)
        sending = dist.isend(give, dst=(rank + 1) % n)
        dist.recv(inbox, src=(rank - 1) % n)
        sending.wait()
        if step < n - 1:
            take += inbox
        else:
            take.copy_(inbox)
""",
    ),
    "world_size instead of n": (
        "messages", "which takes no part",
        swap(("(rank + 1) % n, (rank - 1) % n", "(rank + 1) % world_size, (rank - 1) % world_size")),
    ),
    "a copy": (
        "result", "leave the sum in the tensor",
        swap(("chunks = tensor.tensor_split(n)", "tensor = tensor.clone(); chunks = tensor.tensor_split(n)")),
    ),
    "buffers of another type": (
        "messages", "the type of what arrives",
        swap(("torch.empty_like(take)", "torch.empty(len(take))")),
    ),
    "in float32, whatever the type": (
        "result", "the others are lost",
        lambda code: swap(("    chunks = tensor.tensor_split(n)", "    given, tensor = tensor, tensor.float()\n"
                           "    chunks = tensor.tensor_split(n)"))(code) + "\n    given.copy_(tensor)\n",
    ),
    "deadlock: send, then receive": (
        "deadlock", "all wait in a send",
        swap(("sending = dist.isend(give, dst=right)", "dist.send(give, dst=right)")),
    ),
}  # fmt: skip

GATHER: Wrong = {
    "everybody to everybody": (
        "messages", "sends only to its right neighbour",
        """
def ring_all_gather(mine, lengths):
    n = len(lengths)
    pieces = [mine.new_empty(length) for length in lengths]
    pieces[rank] = mine
    works = [dist.isend(mine, dst=r) for r in range(n) if r != rank]
    works += [dist.irecv(pieces[r], src=r) for r in range(n) if r != rank]
    for work in works:
        work.wait()
    return torch.cat(pieces)
""",
    ),
    "in the order of arrival": (
        "result", "in the order in which they arrived",
        """
def ring_all_gather(mine, lengths):
    n = len(lengths)
    pieces = [mine]
    for step in range(n - 1):
        inbox = mine.new_empty(lengths[(rank - step - 1) % n])
        sending = dist.isend(pieces[-1], dst=(rank + 1) % n)
        dist.recv(inbox, src=(rank - 1) % n)
        sending.wait()
        pieces.append(inbox)
    return torch.cat(pieces)
""",
    ),
    "always its own piece": (
        "result", "the piece of its left neighbour again and again",
        """
def ring_all_gather(mine, lengths):
    n = len(lengths)
    pieces = [mine] * n
    for step in range(n - 1):
        inbox = mine.new_empty(lengths[(rank - 1) % n])
        sending = dist.isend(mine, dst=(rank + 1) % n)
        dist.recv(inbox, src=(rank - 1) % n)
        sending.wait()
        pieces[(rank - step - 1) % n] = inbox
    return torch.cat(pieces)
""",
    ),
    "one step": (
        "result", "One step reaches the neighbour",
        swap(("range(n - 1)", "range(min(n - 1, 1))")),
    ),
    "buffers of its own length": (
        "messages", "into a buffer of",
        swap(("mine.new_empty(length) for", "torch.empty_like(mine) for")),
    ),
    "all it has so far": (
        "bytes", "not all that you have gathered so far",
        """
def ring_all_gather(mine, lengths):
    n = len(lengths)
    pieces = {rank: mine}
    for step in range(n - 1):
        owners = [(rank - s) % n for s in range(step + 1)]
        arriving = [(rank - 1 - s) % n for s in range(step + 1)]
        inbox = mine.new_empty(sum(lengths[o] for o in arriving))
        sending = dist.isend(torch.cat([pieces[o] for o in owners]), dst=(rank + 1) % n)
        dist.recv(inbox, src=(rank - 1) % n)
        sending.wait()
        for o, piece in zip(arriving, inbox.split([lengths[o] for o in arriving])):
            pieces[o] = piece
    return torch.cat([pieces[r] for r in range(n)])
""",
    ),
    "padded to the longest piece": (
        "bytes", "you pad",
        """
def ring_all_gather(mine, lengths):
    n, longest = len(lengths), max(lengths)
    pieces = [mine.new_zeros(longest) for _ in lengths]
    pieces[rank][: len(mine)] = mine
    for step in range(n - 1):
        sending = dist.isend(pieces[(rank - step) % n], dst=(rank + 1) % n)
        dist.recv(pieces[(rank - step - 1) % n], src=(rank - 1) % n)
        sending.wait()
    return torch.cat([piece[:length] for piece, length in zip(pieces, lengths)])
""",
    ),
    "in float32, whatever the type": (
        "result", "the others are lost",
        swap(("    pieces = ", "    mine = mine.float()\n    pieces = ")),
    ),
    "a list": (
        "result", "return one tensor",
        swap(("return torch.cat(pieces)", "return pieces")),
    ),
    "deadlock: receive, then send": (
        "deadlock", "all wait in a receive",
        """
def ring_all_gather(mine, lengths):
    n = len(lengths)
    pieces = [mine.new_empty(length) for length in lengths]
    pieces[rank] = mine
    for step in range(n - 1):
        dist.recv(pieces[(rank - step - 1) % n], src=(rank - 1) % n)
        dist.send(pieces[(rank - step) % n], dst=(rank + 1) % n)
    return torch.cat(pieces)
""",
    ),
}  # fmt: skip

EXCHANGE: Wrong = {
    "its own row is missing": (
        "result", "the one that never travels",
        swap(("result[rank] = rows[rank]", "pass")),
    ),
    "the same row to everybody": (
        "result", "Rank d is to get row d",
        swap(("dist.isend(rows[to]", "dist.isend(rows[rank]")),
    ),
    "rows in the order of arrival": (
        "result", "in the wrong order",
        swap(("dist.recv(result[source]", "dist.recv(result[(rank + step) % n]")),
    ),
    "the whole matrix to everybody": (
        "bytes", "Send to rank d row d alone",
        """
def all_to_all(rows, n):
    result = rows.clone()
    for step in range(1, n):
        inbox = torch.empty_like(rows)
        sending = dist.isend(rows, dst=(rank + step) % n)
        dist.recv(inbox, src=(rank - step) % n)
        sending.wait()
        result[(rank - step) % n] = inbox[rank]
    return result
""",
    ),
    "through rank 0": (
        "messages", "every row goes straight to its owner",
        """
def all_to_all(rows, n):
    result = torch.empty_like(rows)
    if rank == 0:
        everything = [rows] + [torch.empty_like(rows) for _ in range(n - 1)]
        for source in range(1, n):
            for d in range(n):
                dist.recv(everything[source][d], src=source)
        for to in range(1, n):
            for s in range(n):
                dist.send(everything[s][to], dst=to)
        return torch.stack([everything[s][0] for s in range(n)])
    for d in range(n):
        dist.send(rows[d], dst=0)
    for s in range(n):
        dist.recv(result[s], src=0)
    return result
""",
    ),
    "partners by exclusive or": (
        "messages", "which takes no part",
        """
def all_to_all(rows, n):
    result = torch.empty_like(rows)
    result[rank] = rows[rank]
    step = 1
    while step < n or step & (step - 1):
        other = rank ^ step
        sending = dist.isend(rows[other % n], dst=other)
        dist.recv(result[other % n], src=other)
        sending.wait()
        step += 1
    return result
""",
    ),
    "only the two neighbours": (
        "result", "sends only to ranks 1, 3",
        swap(("range(1, n)", "{1, n - 1} - {0, n}")),
    ),
    "in float32, whatever the type": (
        "result", "the others are lost",
        swap(("    result = ", "    rows = rows.float()\n    result = ")),
    ),
    "deadlock: send to all, then receive": (
        "deadlock", "all wait in a send",
        """
def all_to_all(rows, n):
    result = torch.empty_like(rows)
    result[rank] = rows[rank]
    for step in range(1, n):
        dist.send(rows[(rank + step) % n], dst=(rank + step) % n)
    for step in range(1, n):
        dist.recv(result[(rank - step) % n], src=(rank - step) % n)
    return result
""",
    ),
}  # fmt: skip

ALL = {"tree_broadcast": TREE, "ring_all_reduce": RING, "ring_all_gather": GATHER, "all_to_all": EXCHANGE}


@pytest.mark.parametrize(("name", "mistake"), [(name, mistake) for name, wrong in ALL.items() for mistake in wrong])
def test_a_wrong_answer_gets_its_own_hint(name, mistake):
    what, hint, answer = ALL[name][mistake]
    if isinstance(answer, str):
        answer = "%%ranks" + answer
    SIDES.wrong_is_not_yet(name, answer, what, re.escape(hint))


@pytest.mark.parametrize("name", EXERCISES)
def test_there_are_enough_wrong_answers_with_a_deadlock_among_them(name):
    SIDES.enough_wrong_answers(name, [hint for _, hint, _ in ALL[name].values()])
    assert any(what == "deadlock" for what, _, _ in ALL[name].values())


def test_a_ring_the_other_way_round_is_a_ring_as_well():
    turn = swap(
        ("(rank + 1) % n, (rank - 1) % n", "(rank - 1) % n, (rank + 1) % n"),
        ("(rank - step) % n", "(rank + step) % n"),
        ("(rank - step - 1) % n", "(rank + step + 1) % n"),
    )
    assert SIDES.judge("ring_all_gather", turn(SIDES.solution("ring_all_gather"))).passed


def test_an_error_in_the_learners_code_is_shown_with_its_rank():
    code = SIDES.solution("all_to_all").replace("result = torch.empty_like(rows)", "result = torch.empty_like(row)")
    verdict = SIDES.judge("all_to_all", code)
    assert (verdict.status, verdict.what) == ("not yet", "error")
    assert "NameError" in verdict.hint


def test_too_few_ranks_are_not_an_attempt(monkeypatch):
    monkeypatch.setattr(check.all_to_all, "ranks", 9)
    verdict = check.all_to_all("all_to_all")
    assert verdict.status == "not attempted"
    assert "ranks.start(9)" in verdict.headline


def test_trace_shows_what_the_function_sent():
    SIDES.solution_passes("tree_broadcast")
    sent = sorted((m.start, m.sender, m.receiver) for m in trace("tree_broadcast", n=5, root=2, length=6))
    assert sent == [(0, 2, 3), (1, 2, 4), (1, 3, 0), (2, 2, 1)]


def test_trace_of_a_stub_and_of_a_missing_function_is_nothing():
    SIDES.stub_is_not_attempted("all_to_all")
    assert trace("all_to_all", n=3, length=3) is None
    ranks.run("del all_to_all")
    assert trace("all_to_all", n=3, length=3) is None


def test_trace_of_a_deadlock_keeps_what_was_begun(capsys):
    ranks.run("def all_to_all(rows, n):\n    dist.send(rows[0], dst=(rank + 1) % n)")
    messages = trace("all_to_all", n=3, length=3)
    assert [(m.sender, m.receiver, m.taken) for m in messages] == [(0, 1, False), (1, 2, False), (2, 0, False)]
    assert "wait for each other" in capsys.readouterr().out


def test_receives_that_are_posted_first_do_not_stop_the_clock():
    both = [Seen(log=[("recv", 1 - rank, 4, ()), ("send", 1 - rank, 4, (1.0,))]) for rank in range(2)]
    assert rounds(both) == 1
    assert all(message.taken for message in timeline(both))
