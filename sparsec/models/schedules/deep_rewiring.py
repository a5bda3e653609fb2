"""Deep rewiring: weights that keep their signs, and are rewired where they would cross zero (Bellec et al. 2018)."""

from __future__ import annotations

import torch

from sparsec.models.masks import Masks, apply_masks, kept
from sparsec.models.schedules.task import Task

SHRINK = 1e-5
"""What the L1 term takes from every weight at a step: the paper's learning rate times alpha."""
NOISE = 1e-5
"""Standard deviation of the random walk of a step, the paper's sqrt(2 learning rate times temperature)."""


def deep_rewiring(task: Task) -> Masks:
    """Train under algorithm 1: a weight whose sign would change goes, and any that is not there comes in its place.

    Every connection has a sign, drawn at random where it is not there at the start. Gradient steps are the training
    loop's; the L1 term and the random walk are added after each.
    """
    train = task.training("deepr")
    masks = task.choose(task.masks, task.sparsity, last=True)
    wanted = kept(masks)
    signs = {layer: _signs(task, layer, mask) for layer, mask in masks.items()}

    def hook(step: int, total: int) -> None:
        with torch.no_grad():
            for layer, mask in masks.items():
                weight = task.model.get_parameter(layer)
                walk = NOISE * torch.randn(weight.shape, generator=task.generator)
                weight.add_((walk - SHRINK * signs[layer]) * mask)
                masks[layer] = mask & (weight * signs[layer] >= 0)
        apply_masks(task.model, masks)
        masks.update(_rewired(masks, wanted - kept(masks), task.generator))
        task.progress("training", step, total)

    train(task.model, hook)
    return masks


def _signs(task: Task, layer: str, mask: torch.Tensor) -> torch.Tensor:
    """Those of the weights that are there, random ones of the others."""
    drawn = torch.randint(0, 2, mask.shape, generator=task.generator) * 2.0 - 1.0
    return torch.where(mask, task.model.get_parameter(layer).detach().sign(), drawn)


def _rewired(masks: Masks, count: int, generator: torch.Generator) -> Masks:
    """The masks with `count` more connections, any of those in no mask."""
    together = torch.cat([mask.flatten() for mask in masks.values()])
    places = (~together).nonzero().flatten()
    together[places[torch.randperm(len(places), generator=generator)[:count]]] = True
    parts = together.split([mask.numel() for mask in masks.values()])
    return {layer: part.reshape(mask.shape) for (layer, mask), part in zip(masks.items(), parts, strict=True)}
