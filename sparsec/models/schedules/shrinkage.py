"""Penalties that shrink weights while they train, and a threshold: L1, L2 and the group lasso.

The survey (Hoefler et al. 2021), section 3.6. The penalties act after every step of the training loop as their proximal
operators do, so that L1 and the group lasso give exact zeros under any optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from sparsec.models.masks import Masks, apply_masks
from sparsec.models.schedules.task import Task

PENALTY_PHASE = 0.7
"""Of the training; then the threshold is applied, and what is left is trained without penalty."""
START, RESPONSE = 1e-5, 0.2
"""The first strength of a penalty, and how fast it follows what is missing to the target."""
STRONGEST = 1e-2
RIDGE = 1e-3

Prox = Callable[[torch.Tensor, float], torch.Tensor]


def lasso(task: Task) -> Masks:
    """L1: weights go towards zero by equal steps (Tibshirani 1996; soft threshold)."""
    return shrink(task, "lasso", lambda w, strength: w.sign() * (w.abs() - strength).clamp(min=0))


def ridge(task: Task) -> Masks:
    """L2: weights shrink in proportion; none becomes zero, and the threshold alone decides."""
    return shrink(task, "ridge", lambda w, strength: w / (1 + max(strength, RIDGE)))


def group_lasso(task: Task) -> Masks:
    """The weights of an output go together: those of small norm first (Yuan & Lin 2006; Wen et al. 2016)."""
    def prox(w: torch.Tensor, strength: float) -> torch.Tensor:
        rows = w.flatten(1)
        norm = rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return (rows * (1 - strength * math.sqrt(rows.shape[1]) / norm).clamp(min=0)).reshape(w.shape)

    return shrink(task, "group-lasso", prox)


def shrink(task: Task, name: str, prox: Prox) -> Masks:
    """Train under a penalty whose strength follows the share of zeros, then prune to the target and train on."""
    train = task.training(name)
    masks: Masks | None = None
    strength = START

    def hook(step: int, total: int) -> None:
        nonlocal masks, strength
        if masks is None and step < PENALTY_PHASE * total:
            wanted = task.sparsity * min(1.0, step / (PENALTY_PHASE / 2 * total))
            strength = min(STRONGEST, strength * math.exp(RESPONSE * max(-1, min(1, 10 * (wanted - _zeros(task))))))
            with torch.no_grad():
                for layer in task.masks:
                    weight = task.model.get_parameter(layer)
                    weight.copy_(prox(weight, strength))
        elif masks is None:
            masks = task.choose(task.masks, task.sparsity, last=True)
        if masks is not None:
            apply_masks(task.model, masks)
        task.progress("penalty and training", step, total)

    train(task.model, hook)
    return task.choose(task.masks, task.sparsity, last=True) if masks is None else masks


def _zeros(task: Task) -> float:
    """The share of zeros among the weights that may go."""
    weights = [task.model.get_parameter(layer) for layer in task.masks]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(int(weight.numel()) for weight in weights)
