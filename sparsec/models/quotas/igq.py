"""Ideal gas quotas (Vysogorets & Kempe 2023, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq


def igq(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Sparsities 1 - 1 / (F size + 1) with the force F that meets the target: large layers give more.

    Valid and monotone in every layer for every target.
    """
    if sparsity in {0, 1}:
        return [float(sparsity)] * len(shapes)
    sizes = np.array([np.prod(shape) for shape in shapes], float)

    def sparsities(force: float) -> NDArray[np.float64]:
        return force * sizes / (force * sizes + 1)  # 1 - 1 / (F size + 1) without its cancellation

    def excess(force: float) -> float:
        return float(np.dot(sparsities(force), sizes) - sparsity * sizes.sum())

    lowest = sparsity / (1 - sparsity) / sizes.max()  # the force if every layer were as large as the largest,
    highest = sparsity / (1 - sparsity) / sizes.min()  # and as small as the smallest
    force = brentq(excess, lowest / 2, highest * 2, xtol=1e-300, rtol=1e-14)
    return [float(s) for s in sparsities(force)]
