"""The checks of the exercises on choosing a layout: the stub, the solution, and wrong answers with their own hints."""

import pytest

from tests.exercises.sides import Sides, swap
from utils import plan
from utils.check import choosing_a_layout as checks

SIDES = Sides("09_choosing_a_layout", before=["imports"])
FUNCTIONS = ("zero_bytes", "exposed_seconds", "most_layers", "choose")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_stub_is_not_attempted(function):
    SIDES.stub_is_not_attempted(function)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_solution_passes(function):
    SIDES.solution_passes(function)


ALL_SHARED = """
def zero_bytes(parameters, model_ranks, data_ranks, stage):
    held = -(-parameters // model_ranks)
    return 18 * (-(-held // data_ranks) if stage else held)
"""
ZERO = [
    (swap(("4 * (share", "2 * (share")), "result", "Gradients are kept in 32 bits"),
    (swap(("12 * (share", "8 * (share")), "result", "Adam's states are 12 bytes"),
    (ALL_SHARED, "result", "as soon as the stage is above 0"),
    (lambda code: code.replace(">= 1", ">= 0").replace(">= 2", ">= 1").replace(">= 3", ">= 2"), "result",
     "one too far"),
    (lambda code: code.replace(">= 3", ">= 4").replace(">= 2", ">= 3").replace(">= 1", ">= 2"), "result",
     "one too late"),
    (swap(("stage >= 3", "stage >= 4")), "result", "Stage 3 shares the parameters too"),
    (swap(("held = -(-parameters // model_ranks)", "held = parameters")), "result", "divide the model first"),
    (lambda code: code.replace("if stage >= 3 else held", "").replace("if stage >= 2 else held", "")
     .replace("if stage >= 1 else held", ""), "result", "without ZeRO each holds all of it"),
    (lambda code: code.replace("-(-parameters // model_ranks)", "parameters // model_ranks")
     .replace("-(-held // data_ranks)", "held // data_ranks"), "result", "are rounded up"),
    (lambda code: code.replace("-(-parameters // model_ranks)", "parameters / model_ranks")
     .replace("-(-held // data_ranks)", "held / data_ranks"), "result", "divide without rounding"),
    (swap(("return total + 12 * (share if stage >= 1 else held)",
          "return (total + 12 * (share if stage >= 1 else held)) / 1e9")), "result", "not gigabytes"),
    (swap(("return total + 12 * (share if stage >= 1 else held)",
          "return (total + 12 * (share if stage >= 1 else held)) * model_ranks * data_ranks")), "result",
     "the whole cluster's bytes"),
    (swap(("return total +", "total +")), "result", "is there a `return`"),
    ("def zero_bytes(parameters, model_ranks, data_ranks, stage):\n    return 7 * parameters", "result",
     "Take it apart"),
]  # fmt: skip

PARALLEL = """
def exposed_seconds(layers, bandwidth, latency, bucket):
    now, ends, waiting = 0.0, [0.0], 0
    for number, (seconds, size) in enumerate(layers):
        now, waiting = now + seconds, waiting + size
        if waiting >= bucket or number == len(layers) - 1:
            ends.append(now + latency + waiting / bandwidth)
            waiting = 0
    return max(0.0, max(ends) - now)
"""
TRAFFIC = """
def exposed_seconds(layers, bandwidth, latency, bucket):
    now, traffic, waiting = 0.0, 0.0, 0
    for number, (seconds, size) in enumerate(layers):
        now, waiting = now + seconds, waiting + size
        if waiting >= bucket or number == len(layers) - 1:
            traffic, waiting = traffic + latency + waiting / bandwidth, 0
    return RESULT
"""
EXPOSED = [
    (TRAFFIC.replace("RESULT", "traffic"), "result", "Nothing runs beside|time of all messages"),
    (TRAFFIC.replace("RESULT", "max(0.0, traffic - now)"), "result", "Traffic less backward pass"),
    (swap(("return free - now", "return free")), "result", "when the last message ends"),
    (PARALLEL, "result", "share one network"),
    (swap(("max(free, now)", "max(free, now - seconds)")), "result", "not when it begins"),
    (lambda code: code.replace("now, free, waiting = 0.0, 0.0, 0", "now, free, waiting, inside = 0.0, 0.0, 0, 0")
     .replace("waiting += size", "waiting, inside = waiting + size, inside + 1")
     .replace("+ latency +", "+ inside * latency +").replace("waiting = 0\n", "waiting = inside = 0\n"), "result",
     "latency for each layer"),
    (lambda code: code.replace("+ latency +", "+").replace("now, free, waiting = 0.0, 0.0, 0",
                                                          "now, free, waiting, paid = 0.0, 0.0, 0, False")
     .replace("waiting / bandwidth", "waiting / bandwidth + (0 if paid else latency); paid = True"), "result",
     "latency once"),
    (swap(("+ latency", "")), "result", "The latency is missing"),
    (swap(("waiting >= bucket or number == len(layers) - 1", "True")), "result", "each layer by itself"),
    (swap(("waiting >= bucket", "waiting > bucket")), "result", "with just `bucket` bytes"),
    (lambda code: code.replace(" or number == len(layers) - 1", "").replace("return free - now",
                                                                          "return max(0.0, free - now)"), "result",
     "was never sent"),
    (swap(("enumerate(layers)", "enumerate(layers[::-1])")), "result", "from the front"),
    ("def exposed_seconds(layers, bandwidth, latency, bucket):\n    return latency + layers[-1][1] / bandwidth",
     "result", "last layer's message alone"),
    ("def exposed_seconds(layers, bandwidth, latency, bucket):\n    return 0.01", "result", "Keep two clocks"),
    (swap(("return free - now", "return layers[99]")), "error", "IndexError"),
]  # fmt: skip

ESTIMATE = "plan.estimate(replace(model, layers=layers), cluster, layout, simulate=None)"
DEEP = [
    (swap((f"return {ESTIMATE}.fits", f"return {ESTIMATE}.memory_bytes <= cluster.gpu.memory")), "result",
     "Part of a GPU's memory is not for you"),
    (swap((f"return {ESTIMATE}.fits",
          f"e = {ESTIMATE}\n        kinds = ('parameters', 'gradients', 'optimizer')\n"
          "        return sum(e.memory[kind] for kind in kinds) <= e.limit_bytes")), "result", "the states only"),
    (swap((f"return {ESTIMATE}.fits",
          f"e = {ESTIMATE}\n        held = [sum(rank.values()) for rank in e.memory.ranks]\n"
          "        return sum(held) / len(held) <= e.limit_bytes")),
     "result", "Every stage has to fit, not their mean"),
    (lambda code: code.replace("return low", "return high").replace("return 0", "return 1"), "result",
     "the first number that does not fit"),
    (swap(("return low", "return low - 1")), "result", "One more still fits"),
    (swap(("return low", "return low // layout.pipeline * layout.pipeline")), "result",
     "do not step by `pipeline`"),
    (swap(("return low", "return min(low, model.layers)")), "result", "given model are no limit"),
    (swap(("return low", "return min(low, 128)")), "result", "You stop too early"),
    (swap(("return low", "return low // layout.stages")), "result", "layers of one stage"),
    (swap(("return 0", "return 1")), "result", "not even one layer fits, return 0"),
    (lambda code: code.replace("return low", "return replace(model, layers=low).parameters")
     .replace("return 0", "return replace(model, layers=1).parameters"), "result", "not of parameters"),
    ("def most_layers(model, cluster, layout):\n    return 33", "result", "for one number after another"),
    ("def most_layers(model, cluster, layout):\n    return str(model.layers)", "result", "Return a number"),
]  # fmt: skip

# A choice by rule: of a ladder of model ranks the first that fits; what is in capitals is filled in.
LADDER = """
def choose(model, cluster, batch):
    for tensor, pipeline in WAYS:
        data = cluster.gpus // (tensor * pipeline)
        if data * tensor * pipeline != cluster.gpus or batch % (data * MICRO):
            continue
        for recompute in MODES:
            layout = plan.Layout(data, tensor, pipeline, zero=ZERO, micro_batch=MICRO,
                                 accumulate=batch // data // MICRO, recompute=recompute)
            try:
                if plan.estimate(model, cluster, layout).fits:
                    return layout
            except plan.PlanError:
                pass
    return layout
"""


def ladder(ways, modes, zero, micro=1):
    """Return a choice: the first of these ways and modes that fits."""
    code = LADDER.replace("WAYS", ways).replace("MODES", modes).replace("ZERO", zero)
    return code.replace("MICRO", str(micro))


HEAD = "def choose(model, cluster, batch):\n"
CHOICES = [
    (HEAD + "    return plan.search(model, cluster, batch)[0].layout", "search", "is what you play against"),
    (HEAD + "    return plan.Layout(cluster.gpus, zero=0, accumulate=batch // cluster.gpus)", "memory",
     "most of it (optimizer|activations)"),
    (HEAD + "    return plan.Layout(cluster.gpus // 8, 8, zero=3, recompute='full')", "batch", "has to be the batch"),
    (HEAD + "    return plan.Layout(4, 8, accumulate=batch // 4, recompute='full')", "result", "has to use every GPU"),
    (HEAD + "    return cluster.gpus // 8, 8", "result", "return a `plan.Layout`, not tuple"),
    (HEAD + "    return plan.Layout(cluster.gpus // 4, 2, 2, accumulate=4 * batch // cluster.gpus, virtual=2,\n"
     "                       schedule='interleaved-1f1b')", "result", "interleaving are out of the game"),
    (HEAD + "    layout = plan.Layout(cluster.gpus, zero=3, accumulate=batch // cluster.gpus, recompute='full')\n"
     "    return [layout for _ in range(200) if plan.estimate(model, cluster, layout)][0]", "estimates",
     "more than 100 estimates"),
    (ladder("((8, 1), (8, 2), (8, 4), (8, 8))", "('none', 'full')", "2"), "regret", "Tensor ranks wait"),
    (ladder("((1, 8), (2, 8), (4, 8), (8, 8))", "('none', 'full')", "2"), "regret", "stages of unequal work"),
    (ladder("((2, 4), (4, 4), (8, 4), (8, 8))", "('none', 'full')", "2", micro=8), "regret", "Its pipeline idles"),
    (ladder("((1, 1), (2, 1), (1, 2), (1, 4), (4, 2), (8, 1), (8, 4), (8, 8))", "('full',)", "3"), "regret",
     "computes a whole forward pass again"),
    (HEAD + "    return None.layout", "error", "AttributeError"),
]  # fmt: skip

ALL = [
    (name, *row)
    for name, rows in zip(FUNCTIONS, (ZERO, EXPOSED, DEEP, CHOICES), strict=True)
    for row in rows
]


@pytest.mark.parametrize(("function", "wrong", "what", "hint"), ALL, ids=[f"{a[0]}-{a[3][:40]}" for a in ALL])
def test_a_wrong_answer_gets_its_own_hint(function, wrong, what, hint):
    SIDES.wrong_is_not_yet(function, wrong, what, hint)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_there_are_enough_wrong_answers(function):
    SIDES.enough_wrong_answers(function, [hint for name, _, _, hint in ALL if name == function])


def test_the_clock_agrees_with_what_was_worked_out_by_hand():
    layers = [(1.0, 10.0)] * 3
    assert checks.exposed_reference(layers, 10.0, 0.5, bucket=10.0) == 2.5  # on the wire 1 to 2.5, to 4, to 5.5; less 3
    assert checks.exposed_reference(layers, 10.0, 0.5, bucket=20.0) == 3.0  # 2 to 4.5, then the rest to 6
    assert checks.exposed_reference(layers, 10.0, 0.5, bucket=1e9) == 3.5  # all of it at the end, 3 to 6.5


def test_the_planner_is_as_it_was_after_a_game():
    before = plan.estimate, plan.search
    verdict = checks.choose(lambda model, cluster, batch: plan.search(model, cluster, batch))
    assert verdict.what == "search"
    assert (plan.estimate, plan.search) == before


def test_there_is_no_back_door_to_the_search():
    from utils.plan.search import search as original

    def sly(model, cluster, batch):
        from utils.plan.search import search

        return search(model, cluster, batch)[0].layout

    assert checks.choose(sly).what == "search"
    from utils.plan.search import search

    assert search is original


@pytest.mark.parametrize("kind", ["float64", "int64"])
def test_numbers_of_numpy_are_numbers(kind):
    import numpy

    def answer(*case):
        return getattr(numpy, kind)(checks.zero_reference(*case))

    assert checks.zero_bytes(answer).status == "passed"


def test_one_case_needs_recomputation_and_another_does_not():
    assert {checks.best(case).layout.recompute for case in checks.WITHHELD} >= {"none", "full"}


def test_the_planner_has_no_regret_against_itself():
    case = checks.WITHHELD[0]
    e, used = checks.judged(lambda model, cluster, batch: checks.best(case).layout, case)
    assert e.step_seconds == checks.best(case).step_seconds
    assert used == 0


def test_one_layer_more_than_the_most_does_not_fit():
    from dataclasses import replace

    for (model, cluster, layout), (most, _) in zip(checks._deep_cases(), checks._deep_answers(), strict=True):
        assert not plan.estimate(replace(model, layers=most + 1), cluster, layout).fits
        assert not most or plan.estimate(replace(model, layers=most), cluster, layout).fits
