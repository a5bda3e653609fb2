"""Sparsities that make up exactly what was asked of all weights together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 60
"""Halvings, after which numbers are as exact as they can be."""


def exact(shares: Sequence[float], sizes: Sequence[int], sparsity: float, most: float) -> list[float]:
    """The shares moved by the one amount with which the weights have a sparsity together.

    None comes below 0 or above `most`, or what it was if that is more. Weights that are dense stay so where the others
    had too many zeros.

    Args:
        shares: the sparsity of every weight.
        sizes: their elements.
        sparsity: of all together; one that `most` does not allow is come near to.
        most: the largest of a weight.

    """
    start, weights = np.asarray(shares, np.float64), np.asarray(sizes, np.float64) / sum(sizes)
    ceiling = np.maximum(start, most)
    low, high = -1.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if float((start + middle).clip(0, ceiling) @ weights) < sparsity:
            low = middle
        else:
            high = middle
    return [float(share) for share in (start + high).clip(0, ceiling)]


def whole_counts(parts: int, size: int, sparsity: float) -> np.ndarray:
    """How many elements go from each of `parts` parts of one size, as many as the sparsity asks of all together."""
    return np.asarray(np.diff(np.rint(np.arange(parts + 1) * (sparsity * size))), np.int64)
