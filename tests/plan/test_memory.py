"""What a GPU holds: the published formulas, the published figures, and what has to be true of any layout."""

from dataclasses import replace

import pytest

from utils import plan, schedule
from utils.plan import activations
from utils.plan.layout import SCHEDULES, balanced_split, even_split
from utils.plan.memory import last_rank, layers_by_rank, memory, shares, state_bytes

FIT = plan.fitted()


# arXiv:1910.02054, Table 1: GB of a 7.5B model and of a 1T model on N_d ranks, by ZeRO stage.
@pytest.mark.parametrize(
    ("psi", "ways", "stage", "gb"),
    [(7.5e9, 64, 0, 120), (7.5e9, 64, 1, 31.4), (7.5e9, 64, 2, 16.6), (7.5e9, 64, 3, 1.88), (1e12, 1024, 1, 4011),
     (1e12, 1024, 2, 2013), (1e12, 1024, 3, 15.6)],
)  # fmt: skip
def test_states_of_the_zero_paper(psi, ways, stage, gb):
    held = state_bytes(psi, 0, plan.Layout(data=ways, zero=stage), plan.MIXED)
    assert sum(held.values()) / 1e9 == pytest.approx(gb, rel=0.003)


@pytest.mark.parametrize("tensor", [1, 2, 8])
def test_a_layer_keeps_what_korthikanti_says(tensor):
    # arXiv:2205.05198, Table 2, for a GPT layer with dropout and without flash attention.
    m, sw = plan.GPT_22B, plan.MEGATRON_2021
    s, b, h, a = m.sequence, 4, m.hidden, m.heads
    sums = s * b * 4 * a / tensor  # the softmax's sums, which the paper leaves out

    def kept(recompute, split):
        lay = plan.Layout(tensor=tensor, micro_batch=b, recompute=recompute, sequence_parallel=split)
        return activations.layer_bytes(m, lay, sw) - (0 if recompute == "full" else sums)

    scores = 5 * a * s / h
    assert kept("none", False) == pytest.approx(s * b * h * (10 + 24 / tensor + scores / tensor))
    assert kept("selective", False) == pytest.approx(s * b * h * (10 + 24 / tensor))
    assert kept("none", True) == pytest.approx(s * b * h / tensor * (34 + scores))
    assert kept("selective", True) == pytest.approx(s * b * h * 34 / tensor)
    assert kept("full", False) == pytest.approx(2 * s * b * h)


# arXiv:2205.05198, Figure 1 (as digitised by Calculon): GiB of activations on the first stage, without recomputation.
@pytest.mark.parametrize(
    ("model", "pipeline", "virtual", "micro", "gib"),
    [(plan.GPT_22B, 1, 1, 4, 59.25), (plan.GPT_175B, 8, 3, 1, 66.84), (plan.GPT_530B, 35, 3, 1, 114.02)],
)
def test_activations_of_figure_1(model, pipeline, virtual, micro, gib):
    name = "interleaved-1f1b" if virtual > 1 else "1f1b"
    lay = plan.Layout(
        tensor=8, pipeline=pipeline, virtual=virtual, schedule=name, micro_batch=micro, accumulate=8 * pipeline,
        recompute="none", sequence_parallel=False,
    )  # fmt: skip
    held = memory(model, lay, plan.MEGATRON_2021, FIT)
    assert held.ranks[0]["activations"] / 2**30 == pytest.approx(gib, rel=0.01)


def test_flash_attention_keeps_what_selective_recomputation_keeps():
    lay = plan.Layout(tensor=8, recompute="none")
    selective = replace(lay, recompute="selective")
    flash = activations.layer_bytes(plan.GPT_22B, lay, plan.MEGATRON)
    assert flash == activations.layer_bytes(plan.GPT_22B, selective, plan.MEGATRON_2021)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (4, 16)])
def test_in_flight_is_what_the_simulation_holds(name, p, m):
    v = 2 if name in ("interleaved-1f1b", "zb-v", "dualpipe-v") else 1
    lay = plan.Layout(pipeline=p, accumulate=m, schedule=name, virtual=v)
    run = schedule.simulate(schedule.build(name, p * v, m, v if v > 1 else None))
    for rank in range(p):
        ours, simulated = activations.in_flight(lay, rank), run.peak_activations[rank]
        assert ours == simulated or name == "interleaved-1f1b"
        assert simulated <= ours <= simulated + v  # Megatron's warm-up holds one more than a simulation needs


@pytest.mark.parametrize("software", [plan.MEGATRON, plan.NANOTRON, plan.FSDP, plan.MEGATRON_2021])
def test_a_higher_zero_stage_never_holds_more_states(software):
    held = [state_bytes(1e9, 1e8, plan.Layout(data=8, zero=z), software) for z in range(4)]
    for lower, higher in zip(held, held[1:], strict=False):
        assert all(higher[kind] <= lower[kind] for kind in lower)
    assert [shares(plan.Layout(data=8, zero=z)) for z in range(4)] == [(1, 1, 1), (1, 1, 8), (1, 8, 8), (8, 8, 8)]


@pytest.mark.parametrize("recompute", ["none", "alternate", "full"])
def test_more_ranks_never_hold_more_of_a_layer(recompute):
    model, sw = plan.LLAMA_8B, plan.MEGATRON
    kept = [activations.layer_bytes(model, plan.Layout(tensor=t, recompute=recompute), sw) for t in (1, 2, 4, 8)]
    assert kept == sorted(kept, reverse=True)
    split = [activations.layer_bytes(model, plan.Layout(context=c, recompute=recompute), sw) for c in (1, 2, 4)]
    assert split[0] == pytest.approx(4 * split[2])


def test_recomputing_more_keeps_less():
    kept = [
        activations.layer_bytes(plan.LLAMA_8B, plan.Layout(recompute=way), plan.MEGATRON_2021)
        for way in ("none", "selective", "alternate", "full")
    ]
    assert kept == sorted(kept, reverse=True)


def test_zero_2_can_hold_more_than_zero_1_by_its_buckets():
    # Megatron-LM issue 6314 asks why; here: with few gradients to share out, the bucket is what shows.
    lay = plan.Layout(data=2, zero=0)
    small = plan.Model(2, 1024, 8, vocab=256)
    sw = replace(plan.MEGATRON, bucket=20e6)
    held = [memory(small, replace(lay, zero=z), sw, FIT).total for z in (0, 1)]
    assert memory(small, replace(lay, zero=1), sw, FIT)["transient"] == 40e6
    assert held[1] < held[0]


def test_the_logits_stand_on_the_last_stage_only():
    held = memory(plan.LLAMA_8B, plan.Layout(pipeline=4, accumulate=8), plan.MEGATRON, FIT)
    assert [rank["logits"] > 0 for rank in held.ranks] == [False, False, False, True]
    assert held.ranks[0]["activations"] > held.ranks[3]["activations"]


def test_all_parameters_are_on_some_rank():
    for lay in (
        plan.Layout(pipeline=4, tensor=2),
        plan.Layout(tensor=8),
        plan.Layout(pipeline=8, virtual=2, schedule="interleaved-1f1b"),
    ):
        held = memory(plan.LLAMA_8B, lay, plan.MEGATRON, FIT)
        total = sum(rank["parameters"] for rank in held.ranks) / 2 * lay.tensor
        copies = (lay.tensor - 1) * plan.LLAMA_8B.layers * plan.LLAMA_8B.layer_vectors
        assert total == pytest.approx(plan.LLAMA_8B.parameters + copies, rel=1e-3)


def test_a_tied_table_is_held_by_both_ends_of_a_pipeline():
    held = memory(plan.GPT_1_7B, plan.Layout(pipeline=2, accumulate=2), plan.MEGATRON, FIT)
    whole = memory(plan.GPT_1_7B, plan.Layout(), plan.MEGATRON, FIT)
    twice = sum(rank["parameters"] for rank in held.ranks) - whole["parameters"]
    assert twice == pytest.approx(2 * plan.GPT_1_7B.vocab * plan.GPT_1_7B.hidden, rel=0.001)


def test_experts_are_shared_out_over_expert_ranks():
    mixture = plan.Model(4, 512, 8, vocab=1000, experts=8, experts_per_token=2)
    held = [memory(mixture, plan.Layout(data=8, expert=e, zero=0), plan.MEGATRON, FIT)["parameters"] for e in (1, 2, 8)]
    assert held[0] - held[1] == pytest.approx(2 * mixture.layers * mixture.expert_parameters / 2)
    assert held[0] - held[2] == pytest.approx(2 * mixture.layers * mixture.expert_parameters * 7 / 8)


@pytest.mark.parametrize(("layers", "stages"), [(126, 16), (126, 128), (70, 12), (32, 4), (16, 16)])
def test_layers_are_dealt_out_whole(layers, stages):
    counts = even_split(layers, stages)
    assert sum(counts) == layers
    assert max(counts) - min(counts) <= 1
    assert counts[0] == min(counts)
    assert counts[-1] == min(counts)


def test_llama_3_leaves_its_first_and_last_stage_a_layer_short():
    assert even_split(126, 128) == [0, *[1] * 126, 0]  # arXiv:2407.21783, section 3.3.2


def test_a_balanced_split_counts_the_head():
    model = plan.Model(16, 2048, 32, ffn=8192, gated=True, vocab=131072, sequence=4096)
    assert balanced_split(model, 8) == [2, 3, 2, 3, 2, 3, 1, 0]  # the head weighs as much as four layers
    assert sum(balanced_split(model, 4)) == 16


def test_the_rank_of_the_last_stage():
    assert last_rank(plan.Layout(pipeline=4)) == 3
    assert last_rank(plan.Layout(pipeline=4, schedule="zb-v", accumulate=8)) == 0
    counts = layers_by_rank(plan.LLAMA_8B, plan.Layout(pipeline=4, schedule="zb-v"), plan.MEGATRON)
    assert counts == [8, 8, 8, 8]


def test_leaving_out_ranks_that_are_not_the_fullest_changes_no_peak():
    for name, v in (("1f1b", 1), ("interleaved-1f1b", 2), ("gpipe", 1), ("zb-h1", 1)):
        lay = plan.Layout(pipeline=8, accumulate=16, schedule=name, virtual=v)
        for sw in (plan.MEGATRON, plan.NANOTRON):
            every, few = (memory(plan.LLAMA_8B, lay, sw, FIT, all_ranks=a).total for a in (True, False))
            assert every == few
