"""Sparse training that moves the connections: SET (Mocanu et al. 2018) and RigL (Evci et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from sparsec.models.masks import Masks, apply_masks
from sparsec.models.schedules.task import Task

UPDATES = 30
MOVING_PHASE = 0.75  # of the training
MOVED = 0.3  # of the weights of a layer at the first update; falls to zero along a cosine

Grow = Callable[[nn.Parameter, torch.Generator], torch.Tensor]


def set_(task: Task) -> Masks:
    """Drop the smallest weights and grow at random."""
    return _move(task, "set", lambda weight, generator: torch.rand(weight.shape, generator=generator))


def rigl(task: Task) -> Masks:
    """Drop the smallest weights and grow where the gradient is largest."""
    return _move(task, "rigl", lambda weight, _: weight.grad.abs())


def _move(task: Task, schedule: str, grow: Grow) -> Masks:
    """Prune at once, then drop and grow the same number in every layer `rounds` times while training."""
    train = task.training(schedule)
    masks = task.choose(task.masks, task.sparsity, last=True)
    updates = task.rounds or UPDATES
    done = 0

    def hook(step: int, total: int) -> None:
        nonlocal done
        due = min(updates, int(updates * step / (MOVING_PHASE * total)))
        if due > done:
            done = due
            fraction = MOVED / 2 * (1 + math.cos(math.pi * (due - 1) / updates))
            for name, mask in masks.items():
                masks[name] = _moved(task.model.get_parameter(name), mask, fraction, grow, task.generator)
        apply_masks(task.model, masks)
        task.progress("training", step, total)

    train(task.model, hook)
    return masks


def _moved(
    weight: nn.Parameter, mask: torch.Tensor, fraction: float, grow: Grow, generator: torch.Generator
) -> torch.Tensor:
    """The mask after dropping the smallest `fraction` of the kept weights and growing as many others."""
    count = int(fraction * int(mask.sum()))
    smallest = weight.detach().abs().masked_fill(~mask, torch.inf).flatten().topk(count, largest=False).indices
    remaining = mask.flatten().clone()
    remaining[smallest] = False
    score = grow(weight, generator).flatten().masked_fill(remaining, -torch.inf)
    remaining[score.topk(count).indices] = True
    return remaining.reshape(mask.shape)
