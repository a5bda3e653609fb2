"""Top-KAST: the largest weights compute, more of them learn (Jayakumar et al. 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsec.models.masks import Masks
from sparsec.models.schedules.gates import gated, largest
from sparsec.models.schedules.task import Task

UPDATES = 100
LEARNING = 2.0
"""Weights that learn, in multiples of those that compute."""
DECAY = 1e-4
"""Of the exploration regulariser (section 2.3): more for weights that only learn, divided by the density."""


def top_kast(task: Task) -> Masks:
    """Compute with the largest weights of every layer, and train twice as many, which may thus become the largest.

    The sets are chosen again `rounds` times, a hundred if not given; all other weights stand still. Criterion and
    quota have no part in it.
    """
    train = task.training("top-kast")
    updates, done = task.rounds or UPDATES, 0
    with gated(task, lambda weight: Gate(weight, 1 - task.sparsity)) as gates:
        def hook(step: int, total: int) -> None:
            nonlocal done
            due = updates * step // total
            for gate in gates.values():
                gate.settle(choose=due > done)
            done = due
            task.progress("training", step, total)

        train(task.model, hook)
    return {name: gate.computing.clone() for name, gate in gates.items()}


class Gate(nn.Module):
    """The sets A, of weights that compute, and B, of weights that learn."""

    computing: torch.Tensor
    learning: torch.Tensor
    still: torch.Tensor

    def __init__(self, weight: torch.Tensor, density: float) -> None:
        super().__init__()
        self.density = density
        self.weight = [weight]  # the parameter itself, which is the layer's
        for name in ("computing", "learning"):
            self.register_buffer(name, torch.ones_like(weight, dtype=torch.bool))
        self.register_buffer("still", weight.detach().clone())
        self.choose()

    def choose(self) -> None:
        """Take the sets anew."""
        magnitude = self.weight[0].detach().abs()
        count = max(1, round(self.density * magnitude.numel()))
        self.computing.copy_(largest(magnitude, count))
        self.learning.copy_(largest(magnitude, min(round(LEARNING * count), magnitude.numel())))
        self.still.copy_(self.weight[0].detach())

    def settle(self, *, choose: bool) -> None:
        """After a step: decay what computes, decay more what only learns, put back what does not learn."""
        with torch.no_grad():
            weight = self.weight[0]
            rate = torch.where(self.computing, DECAY, DECAY / max(self.density, 1e-6)).clamp(max=0.1)
            weight.copy_(torch.where(self.learning, weight * (1 - rate), self.still))
        if choose:
            self.choose()

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weights that compute."""
        passed: torch.Tensor = Sets.apply(weight, self.computing, self.learning)
        return passed


class Sets(torch.autograd.Function):
    """w on A; the gradient on B."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, computing: torch.Tensor, learning: torch.Tensor) -> torch.Tensor:
        """The weights that compute."""
        ctx.save_for_backward(learning)
        return weight * computing

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient of the weights that learn."""
        (learning,) = ctx.saved_tensors
        return gradient * learning, None, None
