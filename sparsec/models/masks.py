"""The weights that pruning may remove, and the masks that say which of them remain."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

import torch
from torch import nn

Masks = dict[str, torch.Tensor]
"""By parameter name, True where the weight remains."""

LAYERS = nn.Linear | nn.Conv1d | nn.Conv2d
"""The modules whose weights are pruned."""


def prunable(model: nn.Module, keep: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The weights of every fully connected layer and convolution by parameter name, in the order of definition.

    Biases, normalisation and embeddings are never pruned (Vysogorets & Kempe 2023, section 3). `keep` holds shell
    patterns of parameter names that stay dense too.
    """
    weights = {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
    }
    return {name: w for name, w in weights.items() if not any(fnmatch(name, pattern) for pattern in keep)}


def dense_masks(weights: dict[str, nn.Parameter]) -> Masks:
    """Masks that keep everything."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Zero the weights outside `masks` in place; call it after every optimiser step of a training loop of your own."""
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).masked_fill_(~mask, 0.0)


def kept(masks: Masks) -> int:
    """Number of weights that the masks keep."""
    return sum(int(mask.sum()) for mask in masks.values())


def size(masks: Masks) -> int:
    """Number of weights under the masks."""
    return sum(mask.numel() for mask in masks.values())
