"""Each trap really is one: the fixture differs where it says, and only there."""
import pytest
import torch

from utils import model
from utils.check.reference import Reference
from utils.check.traps import SMALL, TRAPS, fixture, named


def test_without_traps_it_is_as_forgiving_as_can_be():
    plain = fixture([], 4, 5)
    assert len(set(plain.seeds)) == 1
    assert all(size % 4 == 0 for size in plain.sizes)
    assert (plain.config.tied, plain.config.frozen, plain.config.clip) == (False, (), None)
    assert not any((plain.batch(step)[1] == -100).any() for step in range(5))


def test_batches_are_other_ones_at_every_step():
    plain = fixture([], 2, 3)
    assert not torch.equal(plain.batch(0)[0], plain.batch(1)[0])
    assert torch.equal(plain.batch(0)[0], plain.batch(0)[0])


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8])
def test_uneven_never_divides(ranks):
    uneven = fixture(["uneven"], ranks, 20)
    assert all(size % ranks and size >= ranks for size in uneven.sizes)
    assert len(set(uneven.sizes)) > 1
    assert (uneven.config.context, uneven.config.vocab) == (SMALL.context - 1, SMALL.vocab + 1)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_tokens_are_unequal_however_they_are_shared(ranks):
    _, targets = fixture(["tokens"], ranks, 1).batch(0)
    counted = (targets != -100).sum(1)
    assert counted.min() >= 1  # nobody's mean is 0 / 0
    contiguous = [part.sum().item() for part in counted.tensor_split(ranks)]
    strided = [counted[r::ranks].sum().item() for r in range(ranks)]
    assert len(set(contiguous)) == len(set(strided)) == ranks


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_clipping_binds_at_every_step(optimizer):
    clipped = fixture(list(TRAPS), 4, 20)
    reference = Reference(clipped.config, clipped.seeds[0], optimizer)
    for step in range(20):
        assert reference.step(*clipped.batch(step)).norm > 1.3 * clipped.config.clip


def test_the_other_traps():
    trapped = fixture(["seeds", "tied", "frozen"], 3, 1)
    assert len(set(trapped.seeds)) == 3
    assert trapped.config.tied
    assert trapped.config.frozen == ("position.weight",)
    assert "position.weight" in dict(model.GPT(trapped.config, 0).named_parameters())


def test_names():
    assert named("all") == list(TRAPS)
    assert named("tied") == ["tied"]
    assert named({"tokens", "seeds"}) == ["seeds", "tokens"]
    with pytest.raises(ValueError, match="no trap 'x'"):
        named(["x"])


def test_a_configuration_of_ones_own_keeps_its_sizes():
    config = model.Config(layers=8, width=48, context=16)
    assert fixture(["clip"], 4, 1, config, sequences=5).config.layers == 8
    assert fixture([], 4, 1, config, sequences=5).sizes == [5]
