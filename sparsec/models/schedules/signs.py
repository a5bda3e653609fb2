"""Random magnitudes whose signs are learnt: a weight takes one bit and a seed.

Zhou et al. 2019 (section 3) found that the sign of an initial weight is what counts of it; here it is all that learns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsec.models.masks import Masks, apply_masks
from sparsec.models.schedules.gates import gated
from sparsec.models.schedules.task import Task


def signs(task: Task) -> Masks:
    """Prune at once, then learn the signs of what is left; magnitudes stay, biases and norms are trained."""
    train = task.training("signs")
    masks = task.choose(task.masks, task.sparsity, last=True)
    with gated(task, Gate):
        train(task.model, lambda step, total: task.progress("signs", step, total))
    apply_masks(task.model, masks)
    return masks


class Gate(nn.Module):
    """Magnitudes of a weight, and the numbers whose signs they take, which start as the weight itself."""

    magnitude: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("magnitude", weight.detach().abs().clone())
        self.latent = nn.Parameter(weight.detach().clone())

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The magnitudes with the learnt signs."""
        del weight
        passed: torch.Tensor = SignOf.apply(self.latent, self.magnitude)
        return passed


class SignOf(torch.autograd.Function):
    """A magnitude with the sign of a latent number, which gets its gradient as if it were the weight."""

    @staticmethod
    def forward(ctx: Any, latent: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
        """A latent of zero counts as positive."""
        ctx.save_for_backward(magnitude)
        return torch.where(latent < 0, -magnitude, magnitude)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """None for pruned weights."""
        (magnitude,) = ctx.saved_tensors
        return gradient * (magnitude != 0), None
