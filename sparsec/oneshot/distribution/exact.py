"""Sparsities that make up exactly what was asked of all weights together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 60
"""Halvings, after which numbers are as exact as they can be."""


def exact(shares: Sequence[float], sizes: Sequence[int], sparsity: float, most: float,
          least: Sequence[float] | np.ndarray | None = None) -> list[float]:
    """The shares moved by the one amount with which the weights have a sparsity together.

    None comes below what is the least of it, or above `most` or what it was if that is more. Weights that are dense
    stay so where the others had too many zeros.

    Args:
        shares: the sparsity of every weight.
        sizes: their elements.
        sparsity: of all together; one that `most` does not allow is come near to.
        most: the largest of a weight.
        least: of every weight the share that it has anyway, 0 if not given; together they may have more than asked.

    """
    start, weights = np.asarray(shares, np.float64), np.asarray(sizes, np.float64) / sum(sizes)
    floor = np.zeros(len(start)) if least is None else np.asarray(least, np.float64)
    ceiling = np.maximum(np.maximum(start, most), floor)
    low, high = -1.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if float((start + middle).clip(floor, ceiling) @ weights) < sparsity:
            low = middle
        else:
            high = middle
    return [float(share) for share in (start + high).clip(floor, ceiling)]


def whole_counts(parts: int, size: int, sparsity: float, least: np.ndarray) -> np.ndarray:
    """How many elements go from each of `parts` parts of one size, as many as the sparsity asks of all together.

    From each at least as many as `least` (parts,) says, from the others the same share.
    """
    shares = exact([sparsity] * parts, [size] * parts, sparsity, 1.0, least / size)
    return np.asarray(np.diff(np.floor(np.cumsum(shares) * size + 0.5), prepend=0), np.int64)
