"""Gradual pruning during one training (Zhu & Gupta 2018)."""

from __future__ import annotations

from sparsec.models.masks import Masks, apply_masks
from sparsec.models.schedules.task import Task

UPDATES = 100
PRUNING_PHASE = 0.7  # of the training; the rest trains what is left


def gradual(task: Task) -> Masks:
    """Sparsity s (1 - (1 - t)^3) over the pruning phase, t from 0 to 1, in `rounds` updates."""
    train = task.training("gradual")
    updates = task.rounds or UPDATES
    masks, done = task.masks, 0

    def hook(step: int, total: int) -> None:
        nonlocal masks, done
        due = min(updates, int(updates * step / (PRUNING_PHASE * total)))
        if due > done:
            done = due
            masks = task.choose(masks, task.sparsity * (1 - (1 - due / updates) ** 3), last=due == updates)
        apply_masks(task.model, masks)
        task.progress("pruning and training", step, total)

    train(task.model, hook)
    return masks
