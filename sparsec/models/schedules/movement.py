"""Movement pruning: weights stay that training moves away from zero (Sanh et al. 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsec.models.masks import Masks
from sparsec.models.schedules.gates import gated
from sparsec.models.schedules.gradual import PRUNING_PHASE, UPDATES
from sparsec.models.schedules.task import Task


def movement(task: Task) -> Masks:
    """Learn a score for every weight beside it, the sum of -w dL/dw, and keep the best of every layer.

    Hard movement pruning (section 4): the forward pass uses the best weights, gradients pass straight through to all
    scores. The share that goes follows the cubic schedule of `gradual`, in `rounds` updates; criterion and quota have
    no part in it.
    """
    train = task.training("movement")
    updates = task.rounds or UPDATES
    with gated(task, Gate) as gates:
        def hook(step: int, total: int) -> None:
            due = min(updates, int(updates * step / (PRUNING_PHASE * total)))
            for gate in gates.values():
                gate.choose(task.sparsity * (1 - (1 - due / updates) ** 3))
            task.progress("pruning and training", step, total)

        train(task.model, hook)
    return {name: gate.mask.clone() for name, gate in gates.items()}


class Gate(nn.Module):
    """A weight's scores, and the mask of the best of them."""

    mask: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros_like(weight))
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight under the mask."""
        passed: torch.Tensor = StraightThrough.apply(weight, self.scores, self.mask)
        return passed

    def choose(self, sparsity: float) -> None:
        """Keep the weights of the highest scores."""
        removed = round(sparsity * self.scores.numel())
        lowest = self.scores.detach().flatten().argsort(stable=True)[:removed]
        self.mask.fill_(True)
        self.mask.view(-1)[lowest] = False


class StraightThrough(torch.autograd.Function):
    """w under a mask; the gradient of a score is w times that of what comes out, whatever the mask (eq. 5)."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, _scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The weights that the mask keeps."""
        ctx.save_for_backward(weight, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Gradients of the weight and of the scores."""
        weight, mask = ctx.saved_tensors
        return gradient * mask, gradient * weight, None
