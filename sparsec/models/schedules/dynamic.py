"""Sparse training that moves connections within every layer: SET, RigL and ITOP.

SET is Mocanu et al. 2018, RigL Evci et al. 2020, ITOP Liu et al. 2021. All start from random connections; new ones
start at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sparsec.models.masks import Masks, apply_masks
from sparsec.models.schedules.task import Task

Grow = Callable[[nn.Parameter, torch.Generator], torch.Tensor]
"""The worth of a connection that is not there yet, for all places of a weight."""


@dataclass(frozen=True)
class Moves:
    """How connections move.

    Attributes:
        updates: how often.
        phase: the share of the training within which they do.
        fraction: of the update's number and that of all, the share of a layer's weights that goes.
        grow: which come.

    """

    updates: int
    phase: float
    fraction: Callable[[int, int], float]
    grow: Grow


def at_random(weight: nn.Parameter, generator: torch.Generator) -> torch.Tensor:
    """Any connection as well as any other."""
    return torch.rand(weight.shape, generator=generator)


def by_gradient(weight: nn.Parameter, _: torch.Generator) -> torch.Tensor:
    """Where the gradient is largest."""
    return torch.zeros_like(weight) if weight.grad is None else weight.grad.abs()


SET = Moves(30, 30 / 31, lambda _number, _updates: 0.3, at_random)
RIGL = Moves(30, 0.75, lambda number, updates: 0.15 * (1 + math.cos(math.pi * (number - 1) / updates)), by_gradient)
ITOP = Moves(60, 0.9, lambda _number, _updates: 0.5, at_random)


def set_(task: Task) -> Masks:
    """Drop the smallest 30 % of every layer and grow as many at random, until the last of 31 parts of the training."""
    return move(task, "set", SET)


def rigl(task: Task) -> Masks:
    """Drop the smallest weights, 30 % at first and fewer along a cosine, and grow where the gradient is largest."""
    return move(task, "rigl", RIGL)


def itop(task: Task) -> Masks:
    """SET that explores: half of the weights move, sixty times, so that many have been tried in the end."""
    return move(task, "itop", ITOP)


def move(task: Task, name: str, moves: Moves) -> Masks:
    """Prune at once, then drop and grow the same number in every layer `rounds` times while training."""
    train = task.training(name)
    masks = task.choose(task.masks, task.sparsity, last=True)
    updates = task.rounds or moves.updates
    done = 0

    def hook(step: int, total: int) -> None:
        nonlocal done
        due = min(updates, int(updates * step / (moves.phase * total)))
        if due > done:
            done = due
            for layer, mask in masks.items():
                weight = task.model.get_parameter(layer)
                count = int(moves.fraction(due, updates) * int(mask.sum()))
                masks[layer] = grown(dropped(weight, mask, count), moves.grow(weight, task.generator), count)
        apply_masks(task.model, masks)
        task.progress("training", step, total)

    train(task.model, hook)
    return masks


def dropped(weight: nn.Parameter, mask: torch.Tensor, count: int) -> torch.Tensor:
    """The mask without the `count` smallest kept weights, which become zero."""
    magnitude = weight.detach().abs().masked_fill(~mask, torch.inf).flatten()
    left = mask.flatten().clone()
    left[magnitude.topk(count, largest=False).indices] = False
    left = left.reshape(mask.shape)
    with torch.no_grad():
        weight.masked_fill_(~left, 0.0)
    return left


def grown(mask: torch.Tensor, score: torch.Tensor, count: int) -> torch.Tensor:
    """The mask with the `count` best of the places that it leaves out."""
    more = mask.flatten().clone()
    more[score.flatten().masked_fill(more, -torch.inf).topk(count).indices] = True
    return more.reshape(mask.shape)
