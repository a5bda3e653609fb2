"""Edge-popup: a good network within random weights, found without changing any (Ramanujan et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import nn

from sparsec.models.masks import Masks
from sparsec.models.schedules.gates import frozen, gated, largest
from sparsec.models.schedules.movement import StraightThrough
from sparsec.models.schedules.task import Task


def edge_popup(task: Task) -> Masks:
    """Learn a score for every weight, and compute with those of the largest |score| of every layer.

    Weights, biases and norms stay what they were; the gradient of a score is the weight's times the weight (section 3).
    Criterion and quota have no part in it.
    """
    train = task.training("edge-popup")
    with frozen(task.model), gated(task, lambda weight: Gate(weight, 1 - task.sparsity, task.generator)) as gates:
        train(task.model, lambda step, total: task.progress("scores", step, total))
        return {name: gate.mask() for name, gate in gates.items()}


class Gate(nn.Module):
    """The scores of a weight, uniform at the start as Kaiming's initialisation draws them."""

    def __init__(self, weight: torch.Tensor, density: float, generator: torch.Generator) -> None:
        super().__init__()
        bound = math.sqrt(3 / weight[0].numel())
        self.scores = nn.Parameter((2 * torch.rand(weight.shape, generator=generator) - 1) * bound)
        self.count = max(1, round(density * weight.numel()))

    def mask(self) -> torch.Tensor:
        """The weights that compute."""
        return largest(self.scores.detach().abs(), self.count)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight under the mask."""
        # |score| ranks, as the authors' programs have it: scores and their gradients keep one sign each
        passed: torch.Tensor = StraightThrough.apply(weight.detach(), self.scores.abs(), self.mask())
        return passed
