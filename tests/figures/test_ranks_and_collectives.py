"""The pictures of the lesson on ranks and collectives: what they read off the values, and what they say in words."""

import math

import pytest

from utils import figures
from utils.check.messages import Message
from utils.figures import ranks_and_collectives as pictures

OWN = [[(position + 1) * 10**rank for position in range(4)] for rank in range(4)]


def recorded_ring(n: int) -> list[list[list[int]]]:
    """Return what n ranks hold after each step of a ring all-reduce, by rank and step."""
    held = [[(chunk + 1) * 10**rank for chunk in range(n)] for rank in range(n)]
    trace = [[list(row)] for row in held]
    for step in range(2 * (n - 1)):
        given = [held[rank][(rank - step) % n] for rank in range(n)]
        for rank in range(n):
            take = (rank - step - 1) % n
            held[rank][take] = given[(rank - 1) % n] + (held[rank][take] if step < n - 1 else 0)
            trace[rank].append(list(held[rank]))
    return trace


@pytest.mark.parametrize(
    ("value", "ranks"),
    [(3, [0]), (20, [1]), (1111, [0, 1, 2, 3]), (3303, [0, 2, 3]), (1110, [1, 2, 3]), (0, []), (0.5, []), (-10, []),
     (math.nan, []), (math.inf, []), (10**12, [])],
)  # fmt: skip
def test_a_number_tells_which_ranks_are_in_it(value, ranks):
    assert pictures.contributors(value) == ranks


def test_tensors_lists_and_none_are_flattened():
    torch = pytest.importorskip("torch")
    assert pictures.flat([torch.ones(2), torch.zeros(1, 2)]) == [1, 1, 0, 0]
    assert pictures.flat(None) == []
    assert pictures.flat(torch.tensor(3)) == [3]


def test_a_grid_says_what_every_rank_holds():
    fig, text = pictures.grid({"x": OWN, "parts": [sum(OWN, []), [], [], []], "y": [[1111]] * 4})
    assert "x: each rank's own numbers." in text
    assert "rank 0 holds 1, 2, 3, 4, 10" in text
    assert "rank 3 holds nothing" in text
    assert "y: every rank holds 1111." in text
    figures.picture(fig, text)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_ring_is_drawn_step_by_step_and_ends_in_the_sum(n):
    trace = recorded_ring(n)
    total = ", ".join(str((chunk + 1) * int("1" * n)) for chunk in range(n))
    for step in range(2 * n - 1):
        figures.picture(*pictures.ring(trace, step))
    fig, text = pictures.film(trace)
    assert f"At the end: every rank holds {total}." in text
    figures.picture(fig, text)


def test_ring_and_tree_take_equally_long_where_they_cross():
    alpha, beta = 1e-4, 1e9
    for n in (4, 5, 64, 1000):
        size = pictures.crossing(n, alpha, beta)
        ring, tree = pictures.ring_seconds(size, n, alpha, beta), pictures.tree_seconds(size, n, alpha, beta)
        assert ring == pytest.approx(tree)
        assert pictures.ring_seconds(size * 2, n, alpha, beta) < pictures.tree_seconds(size * 2, n, alpha, beta)
        assert pictures.ring_seconds(size / 2, n, alpha, beta) > pictures.tree_seconds(size / 2, n, alpha, beta)


def test_ring_or_tree_says_where_they_cross():
    text = pictures.ring_or_tree(64, 1e-4, 1e9)[1]
    assert "Below 1.14 MB the tree is faster" in text


def test_times_are_described_with_their_misfit():
    sizes = [4.0, 4e3, 4e6]
    fig, text = pictures.message_times(sizes, [1e-4, 1.04e-4, 8.2e-3], 1e-4, 1e9)
    assert "at most a factor of 2.0" in text
    figures.picture(fig, text)


def test_bytes_are_described():
    assert pictures.sent({"naive": [12e6, 4e6], "ring": [6e6, 6e6]})[1].endswith("naive: 12.0, 4.0; ring: 6.0, 6.0.")


def test_messages_are_drawn_with_those_that_nobody_took(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(figures, "show", lambda fig, text: shown.append(figures.picture(fig, text).description))
    pictures.space_time([Message(0, 1, 0, 4), Message(1, 2, 1, 4, taken=False)], ranks=3)
    assert shown[0].startswith("2 messages in 2 rounds. round 1: 0 to 1; round 2: 1 to 2.")
    assert "1 of them were never received" in shown[0]
    pictures.space_time([], ranks=3)
    pictures.space_time(None, ranks=3)
    assert "Not written yet" in capsys.readouterr().out
