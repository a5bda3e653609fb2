"""Schedules that prune between trainings."""

from __future__ import annotations

import copy
from typing import Any

from sparsec.models.masks import Masks, apply_masks
from sparsec.models.schedules.task import Task, exponential

ROUNDS = 10


def one_shot(task: Task) -> Masks:
    """Prune to the target, in as many evaluations as the criterion wants, then train what is left."""
    masks = task.masks
    steps = exponential(task.sparsity, task.rounds or task.evaluations)
    for number, sparsity in enumerate(steps, start=1):
        masks = task.choose(masks, sparsity, last=number == len(steps))
        task.progress("pruning", number, len(steps))
    if task.train is not None:
        _train(task, masks, "training")
    return masks


def iterative(task: Task) -> Masks:
    """Prune a little and train what is left, in turn (Han et al. 2015).

    Every round runs the whole learning rate again: with `trainer`, this is learning rate rewinding (Renda et al. 2020).
    """
    task.training("iterative")
    masks = task.masks
    steps = exponential(task.sparsity, task.rounds or ROUNDS)
    for number, sparsity in enumerate(steps, start=1):
        masks = task.choose(masks, sparsity, last=number == len(steps))
        _train(task, masks, f"round {number} of {len(steps)}")
    return masks


def imp(task: Task) -> Masks:
    """Train, prune, rewind to the weights of early training, and again (Frankle & Carbin 2019; Frankle et al. 2020)."""
    train = task.training("imp")
    masks = task.masks
    early: dict[str, Any] = {} if task.rewind else copy.deepcopy(task.model.state_dict())

    def remember(step: int, total: int) -> None:
        if not early and step >= task.rewind * total:
            early.update(copy.deepcopy(task.model.state_dict()))
        task.progress("first training", step, total)

    train(task.model, remember)
    steps = exponential(task.sparsity, task.rounds or ROUNDS)
    for number, sparsity in enumerate(steps, start=1):
        masks = task.choose(masks, sparsity, last=number == len(steps))
        task.model.load_state_dict(early)
        apply_masks(task.model, masks)
        _train(task, masks, f"round {number} of {len(steps)}")
    return masks


def _train(task: Task, masks: Masks, what: str) -> None:
    def hook(step: int, total: int) -> None:
        apply_masks(task.model, masks)
        task.progress(what, step, total)

    if task.train is not None:
        task.train(task.model, hook)
