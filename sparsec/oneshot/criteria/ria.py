"""RIA: a weight's share of its row and of its column, times a power of its input's norm (Zhang et al. 2024, eq. 4)."""

from __future__ import annotations

import numpy as np

from sparsec.oneshot.criteria.moments import Moments
from sparsec.oneshot.patterns.pattern import Pattern, ranked

POWER = 0.5
"""Of the norm of the input, as published."""
SMALLEST = np.float32(1e-30)


def ria(weight: np.ndarray, inputs: Moments, pattern: Pattern, sparsity: float) -> np.ndarray:
    """The matrix (outputs, inputs) with the weights of lowest relative importance set to zero.

    The score is (|w_ij| / sum_j |w_ij| + |w_ij| / sum_i |w_ij|) H_jj^(1/4), compared in the whole matrix.
    """
    size = np.abs(weight)
    relative = size / np.maximum(size.sum(1, keepdims=True), SMALLEST)
    relative += size / np.maximum(size.sum(0, keepdims=True), SMALLEST)
    norms = np.sqrt(inputs.hessian.diagonal()).astype(np.float32)
    kept = pattern.choose(ranked(relative * norms**POWER, weight != 0), sparsity)
    return np.where(kept, weight, np.float32(0))
