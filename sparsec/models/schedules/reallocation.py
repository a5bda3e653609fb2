"""Sparse training that moves connections between layers: DSR and SNFS.

DSR is dynamic sparse reparameterisation (Mostafa & Wang 2019, algorithm 1), SNFS sparse networks from scratch, or
sparse momentum (Dettmers & Zettlemoyer 2019, section 3). New connections start at zero.
"""

from __future__ import annotations

import math

import torch

from sparsec.models.masks import Masks, apply_masks, kept
from sparsec.models.schedules.dynamic import dropped, grown
from sparsec.models.schedules.task import Task

UPDATES = 30
PHASE = 0.75  # of the training
GOING = 0.1  # of the weights at an update of DSR; it doubles or halves its threshold to get there
NEAR = 0.5  # how far from that share is near enough
PRUNING = 0.5  # of a layer's weights at the first update of SNFS; falls to zero along a cosine
MOMENTUM = 0.9


def dsr(task: Task) -> Masks:
    """Drop what is below one threshold for all layers, and grow at random, most where most is left."""
    train = task.training("dsr")
    masks = task.choose(task.masks, task.sparsity, last=True)
    wanted, updates, done = kept(masks), task.rounds or UPDATES, 0
    magnitudes = torch.cat([task.model.get_parameter(layer).detach().abs()[mask] for layer, mask in masks.items()])
    threshold = float(magnitudes.kthvalue(max(1, round(GOING * len(magnitudes)))).values)

    def hook(step: int, total: int) -> None:
        nonlocal done, threshold
        due = min(updates, int(updates * step / (PHASE * total)))
        if due > done:
            done = due
            for layer, mask in masks.items():
                weight = task.model.get_parameter(layer)
                small = int((mask & (weight.detach().abs() < threshold)).sum())
                masks[layer] = dropped(weight, mask, min(small, int(mask.sum()) - 1))
            gone = wanted - kept(masks)
            threshold *= 2.0 if gone < (1 - NEAR) * GOING * wanted else 0.5 if gone > (1 + NEAR) * GOING * wanted else 1
            shares = {layer: float(mask.sum()) for layer, mask in masks.items()}
            for layer, count in divided(gone, shares, masks).items():
                score = torch.rand(masks[layer].shape, generator=task.generator)
                masks[layer] = grown(masks[layer], score, count)
        apply_masks(task.model, masks)
        task.progress("training", step, total)

    train(task.model, hook)
    return masks


def snfs(task: Task) -> Masks:
    """Drop the smallest weights of every layer and grow by the gradients' momentum, most where its mean is largest.

    The mean is that of the weights which are there. Its momentum is kept here, whatever optimiser trains.
    """
    train = task.training("snfs")
    masks = task.choose(task.masks, task.sparsity, last=True)
    momentum = {layer: torch.zeros_like(mask, dtype=torch.float32) for layer, mask in masks.items()}
    updates, done = task.rounds or UPDATES, 0

    def hook(step: int, total: int) -> None:
        nonlocal done
        for layer, mean in momentum.items():
            gradient = task.model.get_parameter(layer).grad
            if gradient is not None:
                mean.mul_(MOMENTUM).add_(gradient, alpha=1 - MOMENTUM)
        due = min(updates, int(updates * step / (PHASE * total)))
        if due > done:
            done = due
            share = PRUNING / 2 * (1 + math.cos(math.pi * (due - 1) / updates))
            worth = {layer: float(momentum[layer][mask].abs().mean()) for layer, mask in masks.items()}
            before = kept(masks)
            for layer, mask in masks.items():
                masks[layer] = dropped(task.model.get_parameter(layer), mask, int(share * (int(mask.sum()) - 1)))
            for layer, count in divided(before - kept(masks), worth, masks).items():
                masks[layer] = grown(masks[layer], momentum[layer].abs(), count)
        apply_masks(task.model, masks)
        task.progress("training", step, total)

    train(task.model, hook)
    return masks


def divided(count: int, shares: dict[str, float], masks: Masks) -> dict[str, int]:
    """How many of `count` new connections every layer gets: by its share, as far as it has room, the rest to others."""
    room = {layer: int((~mask).sum()) for layer, mask in masks.items()}
    given = dict.fromkeys(masks, 0)
    while (left := count - sum(given.values())) > 0:
        total = sum(shares[layer] for layer in masks if room[layer] > given[layer])
        for layer in sorted(masks, key=lambda name: -shares[name]):
            part = math.ceil(left * shares[layer] / total) if total > 0 else left
            missing = count - sum(given.values())
            given[layer] += max(0, min(part, room[layer] - given[layer], missing))
    return given
