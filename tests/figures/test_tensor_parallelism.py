"""Pictures of the lesson on tensor parallelism: what they say is what they were given."""

from utils import figures
from utils.figures import tensor_parallelism
from utils.ledger._count import Call

X = [[1.0, 2.0], [0.0, -1.0]]
W = [[3.0, 1.0], [-1.0, 2.0]]


def drawn(made):
    """Draw a (figure, description) pair and return the description."""
    fig, description = made
    return figures.picture(fig, description).description


def product(a, b):
    """Multiply two small matrices."""
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]


def test_the_two_cuts_make_the_whole_and_say_when_they_do_not():
    by_columns = [product(X, [[row[rank]] for row in W]) for rank in (0, 1)]
    by_rows = [product([[row[rank]] for row in X], [W[rank]]) for rank in (0, 1)]
    whole = product(X, W)
    said = drawn(tensor_parallelism.two_cuts(by_columns, by_rows, whole))
    assert "y = x W is 1 5 / 1 -2" in said
    assert "rank 0 holds 1 / 1; side by side the 2 are y" in said
    assert "rank 0 holds 3 1 / 0 0; the sum of the 2 is y" in said
    said = drawn(tensor_parallelism.two_cuts(by_columns[::-1], [by_rows[0]] * 2, whole))
    assert "side by side the 2 are not y" in said
    assert "the sum of the 2 is not y" in said


def test_masks_say_how_many_differ():
    one, other = [[True, False], [False, True]], [[True, True], [False, False]]
    said = drawn(tensor_parallelism.masks({"equal": [one, one], "own": [one, other]}))
    assert "Equal: 1 different mask on 2 ranks; own: 2 different masks on 2 ranks" in said


def test_the_table_of_ranks_says_what_each_group_carries():
    places = [[0, 0], [0, 1], [1, 0], [1, 1]]
    row, column = {0: (0, 1), 1: (0, 1), 2: (2, 3), 3: (2, 3)}, {0: (0, 2), 1: (1, 3), 2: (0, 2), 3: (1, 3)}
    log = [[Call("all_reduce", 1000, group=row[r])] * 3 + [Call("all_reduce", 500, group=column[r])] for r in range(4)]
    said = drawn(tensor_parallelism.rank_table(places, log))
    assert "A mesh of 2 x 2 ranks" in said
    assert "tensor group 0, 1: 3 calls, 3 kB; tensor group 2, 3: 3 calls, 3 kB" in said
    assert "data group 0, 2: 1 calls, 500 B; data group 1, 3: 1 calls, 500 B" in said


def test_the_reach_says_share_and_throughput():
    times = {2: (8.0, 2.0), 8: (2.0, 2.0), 16: (1.0, 9.0)}
    fig, said = tensor_parallelism.reach(times, {2: 1000, 8: 700, 16: 150}, payload=2e8)
    bars = [patch.get_y() + patch.get_height() for patch in fig.axes[0].patches]
    assert max(bars) == 10_000  # ms
    assert 10_000 < fig.axes[0].get_ylim()[1] < 13_000
    assert "A message is 200 MB" in said
    # 2 ranks: 10 s x 2 = 20 rank-seconds; 8: 4 x 8 = 32; 16: 10 x 16 = 160
    assert "2: 20%, 1.00 (1.00); 8: 50%, 0.62 (0.70); 16: 90%, 0.12 (0.15)" in said
