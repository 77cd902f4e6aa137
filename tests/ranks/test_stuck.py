"""Who waits in vain, decided without any process."""

from utils.ranks.stuck import left_over, needs, stuck


def collective(group="0", members=(0, 1, 2, 3), number=1):
    call = {"kind": "collective", "group": group, "ranks": members, "number": number, "channel": "", "peer": None}
    return {"call": call}


def message(kind, me, peer, number=1, tag=0):
    source, target = (me, peer) if kind == "send" else (peer, me)
    channel = f"0 {source}>{target}#{tag}"
    call = {"kind": kind, "group": "0", "ranks": (0, 1, 2, 3), "number": number, "channel": channel, "peer": peer}
    return {"call": call}


def book(collectives=None, sent=None, received=None, groups=None):
    return {
        "collectives": collectives or {}, "sent": sent or {}, "received": received or {}, "groups": groups or {}
    }  # fmt: skip


def test_waiting_for_a_rank_that_still_runs_is_no_deadlock():
    waits = {r: collective() for r in (0, 1, 2)}
    books = {r: book({"0": 1}) for r in (0, 1, 2)}
    assert stuck(waits, {3}, books, 4) == set()


def test_waiting_for_a_rank_that_has_finished_is():
    waits = {r: collective() for r in (0, 1, 2)}
    books = {r: book({"0": 1}) for r in (0, 1, 2)} | {3: book()}
    assert stuck(waits, set(), books, 4) == {0, 1, 2}


def test_an_operation_that_all_have_begun_is_under_way():
    waits = {0: collective()}
    books = {r: book({"0": 1}) for r in range(4)}  # the others began it asynchronously, and have finished the cell
    assert needs(0, waits[0], books, 4) == (set(), True)
    assert stuck(waits, set(), books, 4) == set()


def test_a_chain_of_waits_with_a_running_rank_at_its_end():
    waits = {0: message("recv", 0, 1), 1: message("recv", 1, 2), 2: message("recv", 2, 3)}
    assert stuck(waits, {3}, {}, 4) == set()
    assert stuck(waits, set(), {}, 4) == {0, 1, 2}


def test_two_that_receive_from_each_other():
    waits = {0: message("recv", 0, 1), 1: message("recv", 1, 0)}
    assert stuck(waits, {2, 3}, {}, 4) == {0, 1}  # whatever the others do


def test_a_message_whose_other_end_is_there():
    waits = {0: message("send", 0, 1)}
    assert stuck(waits, set(), {1: book(received={"0 0>1#0": 1})}, 4) == set()
    assert stuck(waits, set(), {1: book(received={"0 0>1#7": 1})}, 4) == {0}  # another tag
    assert stuck(waits, set(), {1: book(received={"0 any": 1})}, 4) == set()  # whoever sends


def test_waits_of_two_groups_in_opposite_order():
    a = {0: collective("a", (0, 1)), 1: collective("b", (0, 1))}
    assert stuck(a, {2, 3}, {0: book({"a": 1}), 1: book({"b": 1})}, 4) == {0, 1}


def test_a_rendezvous_needs_anyone_who_runs():
    waits = {0: {"call": None}, 1: {"call": None}}
    assert stuck(waits, {2}, {}, 3) == set()
    assert stuck(waits, set(), {}, 3) == {0, 1}


def test_calls_left_behind():
    groups = {"0": (0, 1, 2)}
    books = {0: book({"0": 2}, groups=groups), 1: book({"0": 1}, groups=groups), 2: book({"0": 1}, groups=groups)}
    (left,) = left_over(books, {0, 1, 2})
    assert (left["made"], left["missing"], left["number"]) == ([0], [1, 2], 2)
    assert left_over(books, {0, 1}) == []  # rank 2 did not run the cell, and may make its call in another


def test_messages_left_behind():
    books = {0: book(sent={"0 0>1#0": 2}), 1: book(received={"0 0>1#0": 1})}
    (left,) = left_over(books, {0, 1})
    assert (left["kind"], left["made"], left["missing"], left["number"]) == ("send", [0], [1], 2)
    assert left_over({0: book(sent={"0 0>1#0": 1}), 1: book(received={"0 0>1#0": 1})}, {0, 1}) == []
