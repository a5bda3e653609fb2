"""Erdos-Renyi-Kernel (Mocanu et al. 2018; Evci et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from sparsec.analysis.densities import shared
from sparsec.oneshot.distribution.asked import Asked


def erk(weights: Sequence[Asked], sparsity: float) -> list[float]:
    """Density proportional to the sum of a weight's sizes over its elements; at most 1, the others share the rest."""
    sizes = [weight.values.size for weight in weights]
    return shared(sizes, [sum(weight.shape) / size for weight, size in zip(weights, sizes, strict=True)], sparsity)
