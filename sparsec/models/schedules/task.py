"""What a pruning schedule is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from sparsec.errors import PruningError
from sparsec.models.masks import Masks
from sparsec.models.training import Data, Loss, Train

REWIND = 0.05
"""Of the first training: where rewinding goes back to if nothing else is asked for (Frankle et al. 2020)."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many steps of how many are."""


class Choose(Protocol):
    """Prunes the model to a sparsity, zeroes what goes, and returns the masks, which are subsets of those given."""

    def __call__(self, masks: Masks, sparsity: float, *, last: bool = False) -> Masks:
        """`last` marks the call that must meet the target."""


@dataclass(frozen=True)
class Task:
    """A model, the masks so far, the target and how to get there.

    Attributes:
        rounds: how many steps the way to the target has; None for the schedule's own number.
        evaluations: how many steps the criterion wants when nothing is trained in between.
        train: trains the model; None where no training was asked for.
        rewind: the share of the first training that rewinding goes back to.
        data, loss: for schedules that look at gradients themselves.

    """

    model: nn.Module
    masks: Masks
    sparsity: float
    choose: Choose
    rounds: int | None
    evaluations: int
    train: Train | None
    generator: torch.Generator
    progress: Progress
    rewind: float = REWIND
    data: Data = ()
    loss: Loss = F.cross_entropy

    def training(self, schedule: str) -> Train:
        """The training loop. Raises PruningError where there is none."""
        if self.train is None:
            raise PruningError(f"schedule '{schedule}' trains the model: pass `train`, or --data to `sparsec prune`")
        return self.train


def exponential(sparsity: float, rounds: int) -> list[float]:
    """Sparsities of every round: the density falls by the same factor each time (Tanaka et al. 2020)."""
    return [1 - (1 - sparsity) ** (number / rounds) for number in range(1, rounds)] + [sparsity]
