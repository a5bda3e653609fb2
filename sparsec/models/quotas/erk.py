"""Erdos-Renyi-Kernel (Mocanu et al. 2018; Evci et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def erk(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Density proportional to (w + h + in + out) / (w h in out); what exceeds 1 is shared among the other layers."""
    sizes = [math.prod(shape) for shape in shapes]
    return shared(sizes, [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)], sparsity)


def shared(sizes: Sequence[int], ratios: Sequence[float], sparsity: float) -> list[float]:
    """Sparsities of layers of some sizes whose densities have these ratios; those that exceed 1 are dense."""
    dense: set[int] = set()
    while True:
        free = [i for i in range(len(sizes)) if i not in dense]
        budget = (1 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        scale = budget / sum(sizes[i] * ratios[i] for i in free) if free else 0.0
        excess = {i for i in free if scale * ratios[i] > 1}
        if not excess:
            return [0.0 if i in dense else 1 - scale * ratio for i, ratio in enumerate(ratios)]
        dense |= excess
