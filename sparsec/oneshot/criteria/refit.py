"""Least squares on the weights that are kept: the best that a mask allows for the samples."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

MOST_WORK = 1e11
"""Multiply-adds that a layer may take; larger ones keep what the sweep has left."""


def refit(pruned: np.ndarray, weight: np.ndarray, hessian: np.ndarray, damping: float) -> np.ndarray:
    """The kept weights of every output w that minimise (w - v)^T (H + damping) (w - v), v the dense weights.

    Args:
        pruned: (outputs, inputs); its non-zeros say what is kept.
        weight: the dense weight.
        hessian: the mean of x x^T.
        damping: added to the diagonal of the Hessian, as a share of its mean.

    """
    counts = np.count_nonzero(pruned, axis=1).astype(np.float64)
    if (counts**3 / 3 + counts * weight.shape[1]).sum() > MOST_WORK:
        return pruned
    damped = hessian + damping * max(float(hessian.diagonal().mean()), 1e-30) * np.eye(len(hessian))
    wanted = weight.astype(np.float64) @ damped  # (outputs, inputs)
    result = np.zeros_like(pruned)
    for row, target, before in zip(result, wanted, pruned, strict=True):
        kept = np.flatnonzero(before)
        if len(kept):
            _, solution, failed = lapack.dposv(damped[np.ix_(kept, kept)], target[kept], lower=1)
            row[kept] = before[kept] if failed else np.ravel(solution)
    return result
