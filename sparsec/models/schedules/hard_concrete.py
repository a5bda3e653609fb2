"""L0 regularisation by hard concrete gates (Louizos et al. 2018)."""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

from sparsec.models.masks import Masks
from sparsec.models.schedules.gates import gated
from sparsec.models.schedules.task import Task

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Beta, gamma and zeta of the paper's section 4."""
OPEN = 2.0
"""Log alpha at the start: gates are open with a probability of about 0.97."""
PRESSURE, RESPONSE = 1e-6, 0.2
"""The first weight of the penalty, and how fast it follows what is missing to the target."""
GATE_PHASE = 0.7
"""Of the training; then the gates stand still, and what is left is trained."""


def hard_concrete(task: Task) -> Masks:
    """Learn a gate for every weight, with a penalty on the expected number of open ones.

    The penalty's weight grows until that number is the target's, as a Lagrange multiplier does (Gallego-Posada et al.
    2022), so that any sparsity can be asked for. In the end the weights of the highest log alpha stay, over all layers.
    """
    train = task.training("l0")
    pressure = PRESSURE
    with gated(task, functools.partial(HardConcrete, generator=task.generator)) as gates:
        def hook(step: int, total: int) -> None:
            nonlocal pressure
            if step >= GATE_PHASE * total:
                fix(gates, task.sparsity)
            else:
                density = float(torch.cat([gate.probability().flatten() for gate in gates.values()]).mean())
                wanted = 1 - task.sparsity * min(1.0, step / (GATE_PHASE / 2 * total))
                pressure *= math.exp(RESPONSE * max(min(10 * (density - wanted), 1), -1))
                for gate in gates.values():
                    gate.pressure = pressure
            task.progress("gates and training", step, total)

        train(task.model, hook)
        fix(gates, task.sparsity)
    return {name: gate.chosen.clone() for name, gate in gates.items()}


def fix(gates: dict[str, HardConcrete], sparsity: float) -> None:
    """Let the gates of the highest log alpha of all layers stand open and the others closed, if none do yet."""
    if any(gate.fixed for gate in gates.values()):
        return
    together = torch.cat([gate.log_alpha.detach().flatten() for gate in gates.values()])
    removed = round(sparsity * len(together))
    kept = torch.ones_like(together, dtype=torch.bool)
    kept[together.argsort(stable=True)[:removed]] = False
    for gate, part in zip(gates.values(), kept.split([gate.log_alpha.numel() for gate in gates.values()]), strict=True):
        gate.chosen.copy_(part.view_as(gate.chosen))
        gate.fixed = True


class HardConcrete(nn.Module):
    """Gates of a weight: z = min(1, max(0, s (zeta - gamma) + gamma)), s a concrete random number (eq. 10 and 11)."""

    chosen: torch.Tensor

    def __init__(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full_like(weight, OPEN))
        self.register_buffer("chosen", torch.ones_like(weight, dtype=torch.bool))
        self.pressure, self.fixed, self.generator = 0.0, False, generator
        self.log_alpha.register_hook(self._penalised)

    def probability(self) -> torch.Tensor:
        """That of every gate to be open (eq. 12)."""
        return torch.sigmoid(self.log_alpha.detach() - TEMPERATURE * math.log(-LOW / HIGH))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight times gates: random ones in training, else their expected place (eq. 13)."""
        if self.fixed:
            return weight * self.chosen
        noise: torch.Tensor | float = 0.0
        scale = 1.0
        if self.training:
            uniform = torch.rand(weight.shape, generator=self.generator).clamp(1e-6, 1 - 1e-6)
            noise, scale = uniform.logit(), TEMPERATURE
        gate = torch.sigmoid((noise + self.log_alpha) / scale) * (HIGH - LOW) + LOW
        return weight * gate.clamp(0, 1)

    def _penalised(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of a log alpha with that of the penalty."""
        open_ = self.probability()
        return gradient + self.pressure * open_ * (1 - open_)
