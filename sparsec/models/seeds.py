"""Random weights that take no more than a seed to store: signed constants, drawn by integer arithmetic.

Ramanujan et al. 2020 (section 3.3) find the best networks within random weights when these are signs times the standard
deviation of He's initialisation. The codec "seed" finds the signs' seed in an artifact (Wimmer et al. 2023, eq. 21).
"""

from __future__ import annotations

import torch
from torch import nn

from sparsec.formats.draws import SEEDS, signs
from sparsec.models.masks import prunable

LAYERS = 1 << 8
"""Seeds that a network takes at most, one a layer."""


def draw(model: nn.Module, seed: int) -> None:
    """Give every weight that can be pruned sqrt(2 / inputs) times signs that follow from the seed and its number."""
    with torch.no_grad():
        for number, weight in enumerate(prunable(model).values()):
            own = (seed * LAYERS + number) % SEEDS
            weight.copy_(torch.from_numpy(signs(own, tuple(weight.shape))) * (2 / weight[0].numel()) ** 0.5)
