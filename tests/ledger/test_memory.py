"""Memory by kind: storages, each once."""
import pytest
import torch

from utils import ledger, model, ranks

BYTES = 309_376 * 4


def trainer():
    network = model.GPT(seed=0)
    return network, torch.optim.AdamW(network.parameters(), lr=1e-3)


def step(network, optimizer, sequences):
    tokens, targets = model.batch(0, sequences)
    model.loss(network(tokens), targets).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_model_at_rest():
    network, optimizer = trainer()
    held = ledger.held(network, optimizer)
    assert held.parameters == [BYTES]  # tied weights once
    assert held.gradients == held.optimizer_state == held.activations == [0]


def test_a_step_of_adam():
    network, optimizer = trainer()
    with ledger.Meter(network, optimizer) as meter:
        step(network, optimizer, 4)
    held = meter.memory
    assert held.parameters == [BYTES]
    assert held.gradients == [BYTES]  # at their peak, although zero_grad has freed them
    moments = held.optimizer_state[0] - 2 * BYTES
    assert 0 <= moments < 1000  # and one count of steps a parameter
    assert held.total[0] == sum(getattr(held, kind)[0] for kind in
                                ("parameters", "gradients", "optimizer_state", "activations", "other"))


def test_activations_grow_with_layers_and_batch():
    found = {}
    for layers, sequences in ((2, 4), (4, 4), (4, 8)):
        network = model.GPT(model.Config(layers=layers), seed=0)
        with ledger.Meter(network) as meter:
            step(network, torch.optim.SGD(network.parameters()), sequences)
        found[layers, sequences] = meter.memory.activations[0]
    per_block = (found[4, 4] - found[2, 4]) / 2
    stream = 4 * 64 * 64 * 4  # bytes of [sequences, positions, width]
    assert per_block / stream == pytest.approx(16, rel=0.02)
    assert found[4, 8] == pytest.approx(2 * found[4, 4], rel=1e-4)  # the loss keeps one number more


def test_without_gradients_there_are_no_activations():
    network, _ = trainer()
    with ledger.Meter(network) as meter, torch.no_grad():
        network(model.batch(0, 2)[0])
    assert meter.memory.activations == [0]


def test_activations_are_freed_between_micro_batches():
    network = model.GPT(model.Config(layers=1), seed=0)
    peaks = []
    for parts in (1, 2):
        tokens, targets = model.batch(0, 8)
        with ledger.Meter(network) as meter:
            for a, b in zip(tokens.chunk(parts), targets.chunk(parts), strict=True):
                model.loss(network(a), b).backward()
        peaks.append(meter.memory.activations[0])
    assert peaks[0] == pytest.approx(2 * peaks[1], rel=1e-4)


def test_an_optimizer_of_ones_own_is_other():
    class Mine:
        def __init__(self, network):
            self.network = network
            self.momentum = [torch.zeros_like(p) for p in network.parameters()]

    held = ledger.held(Mine(model.GPT(seed=0)))
    assert held.parameters == held.other == [BYTES]


def test_hooks_do_not_change_the_gradients():
    tokens, targets = model.batch(0, 2)
    gradients = []
    for measured in (False, True):
        network = model.GPT(model.Config(layers=1), seed=0)
        with ledger.Meter(network if measured else None):
            model.loss(network(tokens), targets).backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_sharded_tensor_weighs_its_shard():
    ranks.start(2, fresh=True)
    try:
        ranks.run("""
from torch.distributed.tensor import DTensor, Shard, init_device_mesh
mesh = init_device_mesh("cpu", (2,))
weight = torch.nn.Parameter(DTensor.from_local(torch.ones(500, 10), mesh, [Shard(0)]))""")
        assert ledger.memory("weight").parameters == [20_000, 20_000]
    finally:
        ranks.stop()


def test_on_ranks():
    ranks.start(2)
    try:
        ranks.run("""
from utils import model
network = model.GPT(model.Config(layers=2), seed=rank)
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
def step(sequences):
    tokens, targets = model.batch(0, sequences)
    model.loss(network(tokens), targets).backward()
    optimizer.step()
    optimizer.zero_grad()""")
        held = ledger.memory("network, optimizer", during="step(2 + 2 * rank)")
        assert held.parameters[0] == held.parameters[1] == held.gradients[0]
        assert held.activations[1] == pytest.approx(2 * held.activations[0], rel=1e-4)
        assert "rank 1" in repr(held)
        with pytest.raises(ranks.RanksError, match="ZeroDivisionError"):
            ledger.memory("network", during="1 / 0")
        with pytest.raises(ranks.RanksError, match="no_such"):
            ledger.memory("no_such")
        assert ledger.memory("network").activations == [0, 0]
    finally:
        ranks.stop()


def test_weights_put_together_for_use_are_gathered_and_no_activations():
    network = torch.nn.Linear(64, 64, bias=False)
    flat, whole = torch.randn(64 * 64), network.weight.detach().clone().flatten()
    network.weight.data = flat.view(64, 64)

    def gather(*_):
        flat.untyped_storage().resize_(flat.nbytes)
        flat.copy_(whole)

    def free(*_):
        flat.untyped_storage().resize_(0)

    free()
    network.register_forward_pre_hook(gather)
    network.register_forward_hook(free)
    network.register_full_backward_pre_hook(gather)
    network.weight.register_post_accumulate_grad_hook(free)
    with ledger.Meter(network) as meter:
        network(torch.ones(1, 64, requires_grad=True)).sum().backward()
    held = meter.memory
    assert held.parameters == [0]
    assert held.gathered == [flat.nbytes]
    assert held.activations == [64 * 4]  # the input
    assert "gathered" in repr(held)


def test_nothing_gathered_takes_no_line():
    network, _ = trainer()
    assert "gathered" not in repr(ledger.held(network))


def test_a_gradient_that_a_hook_takes_away_was_there():
    network = torch.nn.Linear(8, 8, bias=False)
    network.weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with ledger.Meter(network) as meter:
        network(torch.ones(1, 8)).sum().backward()
    assert meter.memory.gradients == [8 * 8 * 4]
