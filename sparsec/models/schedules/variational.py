"""Sparse variational dropout: every weight has a dropout rate of its own, and those of high rates go.

Molchanov et al. 2017; noise is added to weights instead of sums (their equation 17 is the local form of the same).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from sparsec.models.masks import Masks
from sparsec.models.schedules.gates import gated, largest, penalised
from sparsec.models.schedules.task import Task

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""Of the approximation of the divergence (eq. 14)."""
START = -10.0
"""Log of the variances at the start."""
NOISE_PHASE = 0.7
"""Of the training; then the mask stands, and what is left is trained without noise."""
PRESSURE, RESPONSE = 1e-6, 0.2
"""The first weight of the divergence, and how fast it follows what is missing to the target."""
DROPPED = 3.0
"""Log alpha above which a weight counts as gone (section 5)."""


def variational_dropout(task: Task) -> Masks:
    """Learn a variance beside every weight; in the end those of the lowest alpha, variance / w^2, of all layers stay.

    The divergence's weight grows until the share of high rates is the target's, so that any sparsity can be asked for.
    """
    train = task.training("variational-dropout")
    pressure = PRESSURE
    with gated(task, lambda weight: Gate(weight, task.generator)) as gates:
        weights = {name: task.model.get_submodule(name.rpartition(".")[0]).parametrizations.weight.original
                   for name in gates}  # fmt: skip

        def hook(step: int, total: int) -> None:
            nonlocal pressure
            alphas = [gate.log_alpha(weights[name]).detach().flatten() for name, gate in gates.items()]
            if step >= NOISE_PHASE * total:
                fix(gates, alphas, task.sparsity)
            else:
                gone = float((torch.cat(alphas) > DROPPED).float().mean())
                wanted = task.sparsity * min(1.0, step / (NOISE_PHASE / 2 * total))
                pressure *= math.exp(RESPONSE * max(-1, min(1, 10 * (wanted - gone))))
                for gate in gates.values():
                    gate.pressure = pressure
            task.progress("rates and training", step, total)

        train(task.model, hook)
        fix(gates, [gate.log_alpha(weights[name]).detach().flatten() for name, gate in gates.items()], task.sparsity)
    return {name: gate.chosen.clone() for name, gate in gates.items()}


def fix(gates: dict[str, Gate], alphas: list[torch.Tensor], sparsity: float) -> None:
    """Keep the weights of the lowest rates of all layers, if they are not chosen yet."""
    if any(gate.fixed for gate in gates.values()):
        return
    together = torch.cat(alphas)
    kept = largest(-together, round((1 - sparsity) * len(together)))
    for gate, part in zip(gates.values(), kept.split([len(part) for part in alphas]), strict=True):
        gate.chosen.copy_(part.view_as(gate.chosen))
        gate.fixed = True


class Gate(nn.Module):
    """The log of the variances of a weight."""

    chosen: torch.Tensor

    def __init__(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.full_like(weight, START))
        self.register_buffer("chosen", torch.ones_like(weight, dtype=torch.bool))
        self.pressure, self.fixed, self.generator = 0.0, False, generator

    def log_alpha(self, weight: torch.Tensor) -> torch.Tensor:
        """The log of the dropout rates (eq. 11), kept within the range where the approximation has slope."""
        return (self.log_variance - weight.square().clamp(min=1e-16).log()).clamp(-8.0, 8.0)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with noise in training, which brings the divergence's gradient, else its mean."""
        if self.fixed or not self.training:
            return weight * self.chosen
        noise = torch.randn(weight.shape, generator=self.generator)
        alpha = self.log_alpha(weight)
        divergence = -(K1 * torch.sigmoid(K2 + K3 * alpha) - 0.5 * torch.log1p(torch.exp(-alpha))).sum()
        return penalised(weight + torch.exp(self.log_variance / 2) * noise, self.pressure * divergence)
