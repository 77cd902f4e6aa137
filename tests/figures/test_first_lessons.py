"""Pictures and tables of the first two notebooks: what they say is what they were given."""

import math

import pytest

from utils import figures
from utils.figures import one_worker, start_here
from utils.figures.table import Table


def drawn(made):
    """Draw a (figure, description) pair and return the description."""
    fig, description = made
    return figures.picture(fig, description).description


def test_losses_say_where_they_start_and_end_and_what_left_the_picture():
    said = drawn(one_worker.losses({"right": [4.8, 4.0, 3.0], "wrong": [4.8, 100.0, math.nan]}, floor=3.44))
    assert "right: 4.8, then 3.9" in said
    assert "wrong: 4.8, out of the picture by step 2" in said
    assert "3.44" in said


def test_the_two_walls_count_what_fits():
    said = drawn(one_worker.two_walls(["small", "large"], [3600.0, 4e8], [2e9, 2e12], {"16 GB": 16e9, "80 GB": 80e9}))
    assert "small 60 minutes and 2 GB" in said
    assert "large 13 years and 2,000 GB" in said
    assert "Of 2, 1 fit in 16 GB, 1 fit in 80 GB." in said


@pytest.mark.parametrize(("seconds", "words"), [(30, "30 seconds"), (7200, "2.0 hours"), (5 * 86400, "5.0 days"),
                                                (3e9, "95 years"), (1e11, "3,171 years")])  # fmt: skip
def test_durations_are_written_as_people_do(seconds, words):
    assert one_worker.duration(seconds) == words


def test_needs_say_where_a_model_fits():
    kinds = {"parameters": 4e9, "gradients": 4e9, "optimizer states": 8e9, "activations": 4e9}
    said = drawn(one_worker.needs(kinds, devices=(16e9, 80e9), title="one billion"))
    assert "20 GB in all" in said
    assert "does not fit in 16 GB" in said
    assert "fits in 80 GB" in said


def test_norms_and_losses_say_how_they_start_and_end():
    said = drawn(one_worker.norms_and_losses({"right": ([4.0] * 5, [8.0] * 5), "wrong": ([3.0] * 5, [32.0] * 5)}))
    assert "right: norm 8.0, then 8.0, loss 4.0; wrong: norm 32.0, then 32.0, loss 3.0" in said


def test_the_moments_of_a_step_come_in_order_and_end_as_they_should():
    torch = pytest.importorskip("torch")
    from torch.distributed._tools.mem_tracker import MemTracker

    from utils import model

    config = model.Config(layers=3, width=32, context=32)
    network = model.GPT(config, seed=0)
    optimizer = torch.optim.AdamW(network.parameters())
    tokens, targets = model.batch(0, 4, 32)
    tracker = MemTracker()
    tracker.track_external(network, optimizer)
    with tracker:
        model.loss(network(tokens), targets).backward()
    points = one_worker.moments(tracker, 3)
    assert [name for name, _ in points] == ["start", "0", "1", "2", "loss", "2", "1", "0", "end"]
    activations = [kinds["activations"] for _, kinds in points]
    assert activations[:5] == sorted(activations[:5])
    assert activations[4:] == sorted(activations[4:], reverse=True)
    parameters = 4 * sum(p.numel() for p in network.parameters())
    assert points[-1][1]["gradients"] == points[-1][1]["parameters"] == parameters
    assert points[4][1]["gradients"] == 0
    assert "at 'loss' (" in drawn(one_worker.step_by_step(points))


def test_the_two_methods_say_who_holds_what():
    data = [(range(6), range(4 * rank, 4 * rank + 4)) for rank in range(3)]
    model = [(range(2 * rank, 2 * rank + 2), range(12)) for rank in range(3)]
    said = drawn(start_here.two_methods(data, model, blocks=6, sequences=12))
    assert "rank 1 blocks 0 to 5 and sequences 4 to 7" in said
    assert "rank 1 blocks 2 to 3 and sequences 0 to 11" in said


def test_the_time_of_a_step_is_the_sum_of_its_parts():
    said = drawn(start_here.step_time(60.0, 30.0, workers=4, alone=240.0))
    assert "4 workers take 90 ms" in said
    assert "2.7 times as fast: an efficiency of 67%" in said


def test_a_table_escapes_aligns_and_separates():
    bundle = Table(["name", "n"], [("<b>", 1234), ("x", 2.5e23)], "caption & more")._repr_mimebundle_()
    assert "<b>" not in bundle["text/html"].replace("<body>", "")
    assert "1,234" in bundle["text/plain"]
    assert "2.50e+23" in bundle["text/plain"]
    with pytest.raises(ValueError, match="row 0 has 1 cells; the table has 2 columns"):
        Table(["a", "b"], [("x",)], "short")


def test_an_exercise_that_is_not_written_yet_is_said_so():
    from utils import model
    from utils.check.one_worker import accumulation_case, counted_work

    def stub(*arguments):
        raise NotImplementedError("stub")

    def broken(*arguments):
        raise ZeroDivisionError("by zero")

    config = model.Config(layers=1, width=32, context=32)
    answers = ((stub, "not written yet"), (broken, "ZeroDivisionError: by zero"), (lambda *_: None, "None"))
    for function, words in answers:
        for table in (
            one_worker.work_by_model(function, counted_work, [config], 2),
            one_worker.accumulation_by_size(function, lambda: accumulation_case(4, masked=False)),
            one_worker.micro_batch_by_device(function, config, 8, [10**7]),
        ):
            assert words in table._repr_mimebundle_()["text/plain"]
