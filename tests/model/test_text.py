"""The text: the same characters everywhere, and batches that depend on the step alone."""
import hashlib
import subprocess
import sys

import pytest
import torch

from utils import model

HASH = "272d43a3fd35ef476dfefa20bffe028662bf4590740b12886b39da9e3bccfe77"


def sha(words):
    return hashlib.sha256(words.encode()).hexdigest()


def test_the_text_of_the_pinned_torch():
    assert len(model.text()) == 1_341_653
    assert len(model.symbols()) == 100 == model.SMALL.vocab
    assert sha(model.text()) == HASH


def test_the_text_is_the_same_whatever_was_imported():
    source = ("import hashlib, torch._dynamo, torch.distributed.fsdp, torch.distributed.pipelining, "
              "torch.distributed.tensor.parallel, torch.distributed.checkpoint, torch.utils.checkpoint\n"
              "from utils import model; print(hashlib.sha256(model.text().encode()).hexdigest())")
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == HASH


def test_python_without_docstrings_is_told():
    source = "from utils import model; model.text()"
    done = subprocess.run([sys.executable, "-OO", "-c", source], capture_output=True, text=True, timeout=120)
    assert "runs with -OO" in done.stderr


def test_another_torch_is_told(monkeypatch):
    monkeypatch.setattr(model, "text", lambda: "".join(map(chr, range(32, 140))))
    with pytest.raises(RuntimeError, match="have 108 symbols, the model has 100"):
        model.symbols.__wrapped__()


def test_encode_and_decode():
    words = "torch.distributed.all_reduce(tensor)\n"
    assert model.decode(model.encode(words)) == words
    with pytest.raises(ValueError, match="no symbol 'ß'"):
        model.encode("groß")


def test_splits_do_not_overlap_and_lose_nothing():
    train, validation = model.split("train"), model.split("validation")
    assert len(train) + len(validation) == len(model.text())
    assert 0.09 < len(validation) / len(model.text()) < 0.11
    with pytest.raises(ValueError, match='"train" or "validation"'):
        model.batch(0, 2, split="test")


def test_targets_are_the_next_tokens():
    tokens, targets = model.batch(3, 5)
    assert tokens.shape == targets.shape == (5, 64)
    assert tokens.dtype == targets.dtype == torch.int64
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    words = model.decode(tokens[0])
    assert words in model.text() or any(words in part for part in [model.decode(model.split("train"))])


def test_batches_depend_on_step_seed_and_split_alone():
    first = model.batch(3, 5)[0]
    torch.manual_seed(99)
    assert torch.equal(first, model.batch(3, 5)[0])
    for other in (model.batch(4, 5), model.batch(3, 5, seed=1), model.batch(3, 5, split="validation")):
        assert not torch.equal(first, other[0])


@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_the_shares_of_the_ranks_are_the_global_batch(world_size):
    whole = model.batch(7, 30)
    shares = [model.batch(7, 30, rank=rank, world_size=world_size) for rank in range(world_size)]
    for which in (0, 1):
        assert torch.equal(torch.cat([share[which] for share in shares]), whole[which])
    if world_size == 4:
        assert [len(share[0]) for share in shares] == [8, 8, 7, 7]
    with pytest.raises(ValueError, match="rank 4 is not one of 0 to 3"):
        model.batch(7, 30, rank=4, world_size=4)


def test_letter_frequencies_cost_less_than_nothing_known():
    assert 3.0 < model.letter_frequency_loss() < torch.log(torch.tensor(100.0)).item()
