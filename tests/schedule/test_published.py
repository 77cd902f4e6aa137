"""The simulator against the bubble rates printed in a paper that measured on 8 GPUs."""

import pytest

from utils import schedule

# Qi et al., Zero Bubble Pipeline Parallelism, arXiv:2401.10241: times in ms from Table 9, bubble rates from Table 5.
# Model, layers a rank (one a stage if interleaved), micro-batches; F, B, W, transfer; 1F1B, interleaved, ZB-H1, ZB-H2.
ROWS = [
    ("1.5B", 3, 24, (18.522, 18.086, 9.337, 0.601), (0.2431, 0.1055, 0.1585, 0.1083)),
    ("1.5B", 3, 32, (18.513, 18.086, 9.331, 0.626), (0.1985, 0.0818, 0.1242, 0.0837)),
    ("1.5B", 3, 64, (18.546, 18.097, 9.321, 0.762), (0.1240, 0.0443, 0.0674, 0.0444)),
    ("6.2B", 4, 24, (29.718, 29.444, 19.927, 0.527), (0.2347, 0.0808, 0.1323, 0.0698)),
    ("6.2B", 4, 32, (29.802, 29.428, 19.530, 0.577), (0.1898, 0.0628, 0.1045, 0.0559)),
    ("6.2B", 4, 64, (29.935, 29.621, 19.388, 0.535), (0.1091, 0.0320, 0.0554, 0.0294)),
]
rows = pytest.mark.parametrize("row", ROWS, ids=[f"{model}-{m}" for model, _, m, *_ in ROWS])


@rows
@pytest.mark.parametrize(("name", "column"), [("1f1b", 0), ("zb-h1", 2), ("zb-h2", 3)])
def test_four_printed_decimals(row: tuple, name: str, column: int) -> None:
    _, _, micro_batches, (forward, backward_input, backward_weight, transfer), bubbles = row
    built = schedule.build(name, 8, micro_batches)
    found = schedule.simulate(built, forward, backward_input, backward_weight, transfer)
    assert round(found.bubble, 4) == bubbles[column]


# The same table: what the authors' search finds within p and within 2p micro-batches of memory (ZB-1p, ZB-2p).
SEARCHED = [(0.1585, 0.0433), (0.1242, 0.0039), (0.0674, 0.0026), (0.1323, 0.0029), (0.1045, 0.0022), (0.0554, 0.0010)]
PAIRS = [pytest.param(row, searched, id=f"{row[0]}-{row[2]}") for row, searched in zip(ROWS, SEARCHED, strict=True)]


@pytest.mark.parametrize(("row", "searched"), PAIRS)
def test_the_limits_of_searched_schedules(row: tuple, searched: tuple[float, float]) -> None:
    """Within 1F1B's memory the search finds nothing better than ZB-H1; with twice that, something below ZB-H2."""
    _, _, micro_batches, costs, _ = row
    h1, h2 = (schedule.simulate(schedule.build(name, 8, micro_batches), *costs) for name in ("zb-h1", "zb-h2"))
    assert max(h1.peak_activations) == 8
    assert round(h1.bubble, 4) == searched[0]
    assert max(h2.peak_activations) <= 2 * 8
    assert 0 < searched[1] < h2.bubble


@rows
@pytest.mark.parametrize(("hop", "relative"), [(None, 0.05), (0.0, 0.021)])
def test_interleaved_is_close(row: tuple, hop: float | None, relative: float) -> None:
    """Within 5 % as it stands; within about 2 % if the hop from the last rank round to the first is free."""
    _, held, micro_batches, (forward, backward_input, backward_weight, transfer), bubbles = row
    built = schedule.build("interleaved-1f1b", 8 * held, micro_batches, per_rank=held)
    parts = (forward / held, backward_input / held, backward_weight / held)
    assert schedule.simulate(built, *parts, transfer, hop=hop).bubble == pytest.approx(bubbles[1], rel=relative)


def test_1f1b_has_the_bubble_of_gpipe_and_with_costly_transfers_a_larger_one() -> None:
    def bubble(name: str, transfer: float) -> float:
        return schedule.simulate(schedule.build(name, 4, 8), 1, 1, 1, transfer).bubble

    assert bubble("1f1b", 0) == pytest.approx(bubble("gpipe", 0)) == pytest.approx(3 / 11)
    assert round(bubble("1f1b", 0.2), 3) == 0.337
    assert round(bubble("gpipe", 0.2), 3) == 0.298


@pytest.mark.parametrize(
    ("name", "peak"),
    [("gpipe", [12, 12, 12, 12]), ("1f1b", [4, 3, 2, 1]), ("zb-h1", [4, 4, 4, 4]), ("zb-h2", [7, 7, 7, 7])],
)
def test_activations_held(name: str, peak: list[int]) -> None:
    """GPipe holds every micro-batch, 1F1B as many as there are stages behind; ZB-H1 no more than 1F1B's first rank."""
    assert schedule.simulate(schedule.build(name, 4, 12)).peak_activations == peak


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_zero_bubble_is_zero_when_the_three_passes_take_alike(ranks: int) -> None:
    assert schedule.simulate(schedule.build("zb-h2", ranks, 3 * ranks)).bubble == pytest.approx(0)
    folded = schedule.simulate(schedule.build("zb-v", 2 * ranks, 3 * ranks))
    assert folded.bubble == pytest.approx(0)
    assert set(folded.peak_activations) == {2 * ranks}, "halves of stages: as much as 1F1B's first rank"
