"""The training that is right: one worker, the whole model, the whole batch."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from utils import model

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Expected:
    """What one step must give. Gradients are those before clipping; `before` and `after` are the parameters."""

    loss: float
    norm: float
    gradients: Tensors
    before: Tensors
    after: Tensors


class Reference:
    """Train the whole model in this process, a step at a time."""

    def __init__(self, config: model.Config, seed: int, optimizer: str) -> None:
        self.config, self.seed, self.optimizer_name = config, seed, optimizer
        self.network = model.GPT(config, seed)
        self.optimizer = model.optimizer(optimizer, self.network.parameters())
        self.start = self.parameters()

    def parameters(self) -> Tensors:
        """Copy the parameters, by name."""
        return {name: p.detach().clone() for name, p in self.network.named_parameters()}

    def step(self, tokens: Tensor, targets: Tensor) -> Expected:
        """Take one step and give all that it did."""
        before = self.parameters()
        self.network.zero_grad()
        loss = model.loss(self.network(tokens), targets)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in self.network.named_parameters() if p.grad is not None}
        norm = total_norm(gradients)
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        return Expected(loss.item(), norm, gradients, before, self.parameters())

    def gradients_of(self, parameters: Tensors, loss_of: Callable[[model.GPT], Tensor]) -> Tensors:
        """Give the gradients of another loss at these parameters, to see whether it explains what a trainer did."""
        network = model.GPT(self.config, self.seed)
        network.load_state_dict(parameters, strict=False)
        loss_of(network).backward()
        return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def total_norm(gradients: Tensors) -> float:
    """Give the norm of all gradients together."""
    return float(sum(g.double().square().sum() for g in gradients.values())) ** 0.5
