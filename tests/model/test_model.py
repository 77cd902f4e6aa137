"""The model: names, first values, parts, and that it learns."""
import pytest
import torch

from utils import model


def names(module):
    return {name: parameter for name, parameter in module.named_parameters()}


def test_one_thread():
    assert torch.get_num_threads() == 1


def test_shapes_and_sizes():
    tokens, targets = model.batch(0, 3)
    logits = model.GPT(seed=0)(tokens)
    assert logits.shape == (3, 64, 100)
    assert model.loss(logits, targets).shape == ()
    counts = {config: sum(p.numel() for p in model.GPT(config, seed=0).parameters())
              for config in (model.SMALL, model.EIGHT, model.SISTER)}
    assert counts == {model.SMALL: 309_376, model.EIGHT: 408_960, model.SISTER: 9_510_400}


def test_query_key_value_have_no_bias_and_weights_are_tied():
    found = names(model.GPT(seed=0))
    assert not [name for name in found if name.endswith((".query.bias", ".key.bias", ".value.bias"))]
    assert "output.weight" not in found
    network = model.GPT(seed=0)
    assert network.output.weight is network.token.weight


def test_no_position_sees_a_later_one():
    tokens, _ = model.batch(0, 2)
    network = model.GPT(seed=0)
    changed = tokens.clone()
    changed[:, 40:] = (changed[:, 40:] + 1) % 100
    before, after = network(tokens), network(changed)
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40:], after[:, 40:])


def test_first_values_depend_on_seed_and_name_alone():
    one = names(model.GPT(seed=1))
    torch.manual_seed(1)
    torch.rand(7)  # what was drawn before makes no difference
    again = names(model.GPT())
    other = names(model.GPT(seed=2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    matrices = [name for name in one if one[name].dim() > 1]
    assert not any(torch.equal(one[name], other[name]) for name in matrices)
    drawn = {tuple(one[name].flatten()[:4].tolist()) for name in matrices}
    assert len(drawn) == len(matrices)  # no two parameters share a stream


def test_parts_are_the_whole_cut():
    config = model.Config(layers=5)
    whole = model.GPT(config, seed=3)
    cuts = [range(0, 2), range(2, 3), range(3, 5)]
    parts = [model.Part(config, cut, first=i == 0, last=i == 2, seed=3) for i, cut in enumerate(cuts)]
    expected, met = dict(whole.named_parameters(remove_duplicate=False)), set()
    for part in parts:
        for name, parameter in part.named_parameters():
            assert torch.equal(parameter, expected[name]), name
            met.add(name)
    assert met == set(expected)
    tokens, _ = model.batch(0, 2)
    x = tokens
    for part in parts:
        x = part(x)
    assert torch.equal(x, whole(tokens))
    assert parts[2].output.weight is not parts[0].token.weight


@pytest.mark.parametrize(("wrong", "words"), [
    (lambda: model.Config(width=65), "65 does not divide into 4 heads"),
    (lambda: model.Config(layers=0), "layers must be at least 1"),
    (lambda: model.Part(model.SMALL, range(4, 7)), "0 to 5"),
    (lambda: model.Part(model.SMALL, [1, 0]), "rise"),
    (lambda: model.GPT(seed=0)(torch.zeros(1, 65, dtype=torch.int64)), "context is 64"),
])
def test_what_cannot_be_built_says_why(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def test_untied_output_weights_are_their_own():
    config = model.Config(layers=3, tied=False)
    whole = model.GPT(config, seed=0)
    found = names(whole)
    assert not torch.equal(found["output.weight"], found["token.weight"])
    last = model.Part(config, range(2, 3), last=True, seed=0)
    assert torch.equal(last.output.weight, found["output.weight"])


def test_frozen_parameters_ask_for_no_gradient():
    config = model.Config(layers=2, frozen=("token.weight", "blocks.1.mlp.up.bias"))
    whole = model.GPT(config, seed=0)
    assert [name for name, p in whole.named_parameters() if not p.requires_grad] == list(config.frozen)
    last = model.Part(config, [1], last=True, seed=0)  # its copy of the tied weight is frozen with it
    assert [n for n, p in last.named_parameters() if not p.requires_grad] == ["blocks.1.mlp.up.bias", "output.weight"]


def test_optimizers_by_name():
    parameters = list(model.GPT(seed=0).parameters())
    assert isinstance(model.optimizer("sgd", parameters), torch.optim.SGD)
    assert model.optimizer("adamw", parameters, lr=1.0).param_groups[0]["lr"] == 1.0
    with pytest.raises(ValueError, match="sgd, adamw"):
        model.optimizer("adam", parameters)


def test_meta_device_costs_nothing():
    with torch.device("meta"):
        network = model.GPT(model.SISTER, seed=0)
    assert all(parameter.is_meta for parameter in network.parameters())


def test_ignored_targets_do_not_count():
    tokens, targets = model.batch(0, 2)
    logits = model.GPT(seed=0)(tokens)
    masked = targets.clone()
    masked[0] = -100
    assert torch.allclose(model.loss(logits, masked), model.loss(logits[1:], targets[1:]))
    total = model.loss(logits, targets, reduction="sum")
    assert torch.allclose(total / targets.numel(), model.loss(logits, targets))


def test_it_learns():
    network = model.GPT(seed=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(60):
        tokens, targets = model.batch(step, 16)
        model.loss(network(tokens), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.validation_loss(network) < model.letter_frequency_loss() - 0.2
