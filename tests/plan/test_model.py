"""Parameters and operations are exact: held against published counts."""

import pytest

from utils import plan

# arXiv:2104.04473, Table 1: layers, hidden, heads, printed billions of parameters.
SC21 = [
    (24, 2304, 24, 1.7), (30, 3072, 32, 3.6), (36, 4096, 32, 7.5), (40, 6144, 48, 18.4), (48, 8192, 64, 39.1),
    (60, 10240, 80, 76.1), (80, 12288, 96, 145.6), (96, 16384, 128, 310.1), (105, 20480, 128, 529.6),
    (128, 25600, 160, 1008.0),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "hidden", "heads", "billions"), SC21)
def test_parameters_of_sc21(layers, hidden, heads, billions):
    assert abs(plan.gpt(layers, hidden, heads).parameters / 1e9 - billions) <= 0.051


# llm-foundry, scripts/train/benchmarking/README.md: num_params of MPT models, by sequence length (learned positions).
@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "sequence", "count"),
    [(12, 768, 12, 2048, 125311488), (24, 2048, 16, 8192, 1328533504), (80, 8192, 64, 2048, 64862437376)],
)
def test_parameters_of_mpt(layers, hidden, heads, sequence, count):
    assert plan.gpt(layers, hidden, heads, 50368, sequence).parameters == count


def test_parameters_of_llama():
    # arXiv:2407.21783: "8B", "70B", "405B"; the counts are those of the released weights.
    assert plan.LLAMA_8B.parameters == 8030261248
    assert plan.LLAMA_70B.parameters == 70553706496
    assert plan.LLAMA_405B.parameters == pytest.approx(405.85e9, rel=1e-3)


def test_flops_are_those_of_sc21():
    # Equation 3 without recomputation: 72 B s l h^2 (1 + s/6h + V/12lh).
    m = plan.GPT_175B
    s, h, layers, vocab = m.sequence, m.hidden, m.layers, m.vocab
    assert m.flops == pytest.approx(72 * layers * h * h * (1 + s / (6 * h) + vocab / (12 * layers * h)))


def test_mfu_of_an_mpt_row():
    # MPT 70b on 512 H100: 1,007 tokens/s/GPU, 41.25 % of 990 TFLOP/s.
    m = plan.gpt(80, 8192, 64, 50368, 2048)
    assert 1007 * m.palm_flops / 990e12 == pytest.approx(0.4125, rel=1e-3)


def test_a_causal_model_does_half_of_the_attention():
    m = plan.LLAMA_8B
    assert m.layer_attention_flops(causal=True) * 2 == m.layer_attention_flops()
    assert m.forward_flops(causal=True) < m.forward_flops()


def test_experts_are_all_stored_and_few_are_visited():
    dense = plan.Model(32, 4096, 32, 8, 14336, True, 32000, 4096, tied=False)
    mixture = plan.Model(32, 4096, 32, 8, 14336, True, 32000, 4096, tied=False, experts=8, experts_per_token=2)
    # Mixtral 8x7B (arXiv:2401.04088): 46.7 billion parameters, 12.9 billion active.
    assert mixture.parameters == pytest.approx(46.7e9, rel=0.001)
    assert mixture.active_parameters == pytest.approx(12.9e9, rel=0.005)
    assert mixture.flops < 2 * dense.flops


def test_a_tied_table_is_counted_once():
    tied, own = (plan.Model(4, 64, 4, vocab=1000, tied=t) for t in (True, False))
    assert own.parameters - tied.parameters == 64 * 1000
    assert own.flops == tied.flops
