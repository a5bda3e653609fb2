"""Wanda: |w| times the norm of the input that it multiplies, compared within an output (Sun et al. 2024)."""

from __future__ import annotations

import numpy as np

from sparsec.oneshot.criteria.moments import Moments
from sparsec.oneshot.patterns.balanced import Balanced
from sparsec.oneshot.patterns.pattern import Pattern
from sparsec.oneshot.patterns.unstructured import Unstructured


def wanda(weight: np.ndarray, inputs: Moments, pattern: Pattern, sparsity: float) -> np.ndarray:
    """The matrix (outputs, inputs) with the weights of lowest |w_j| sqrt(H_jj) set to zero.

    Unstructured, every output loses the same share, as published; blocks are compared in the whole matrix.
    """
    scores = np.abs(weight) * np.sqrt(inputs.hessian.diagonal()).astype(np.float32)
    form = Balanced() if isinstance(pattern, Unstructured) else pattern
    kept = form.choose(scores, sparsity)
    return np.where(kept, weight, np.float32(0))
