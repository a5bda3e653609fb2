"""Erdos-Renyi-Kernel (Mocanu et al. 2018; Evci et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from sparsec.oneshot.distribution.asked import Asked


def erk(weights: Sequence[Asked], sparsity: float) -> list[float]:
    """Density proportional to the sum of a weight's sizes over its elements; at most 1, the others share the rest."""
    sizes = [weight.values.size for weight in weights]
    ratios = [sum(weight.shape) / size for weight, size in zip(weights, sizes, strict=True)]
    full: set[int] = set()
    while True:
        free = set(range(len(weights))) - full
        budget = (1 - sparsity) * sum(sizes) - sum(sizes[i] for i in full)
        scale = budget / sum(sizes[i] * ratios[i] for i in free) if free else 0.0
        if not (excess := {i for i in free if scale * ratios[i] > 1}):
            return [0.0 if i in full else 1 - scale * ratio for i, ratio in enumerate(ratios)]
        full |= excess
