"""Wanda: |w| times the norm of the input that it multiplies, compared within an output (Sun et al. 2024)."""

from __future__ import annotations

import numpy as np

from sparsec.oneshot.criteria.moments import Moments
from sparsec.oneshot.distribution.exact import whole_counts
from sparsec.oneshot.patterns.pattern import Pattern, ranked
from sparsec.oneshot.patterns.unstructured import Unstructured


def wanda(weight: np.ndarray, inputs: Moments, pattern: Pattern, sparsity: float) -> np.ndarray:
    """The matrix (outputs, inputs) with the weights of lowest |w_j| sqrt(H_jj) set to zero.

    Unstructured, every output loses the same share, as published, to a weight, one with more zeros none; blocks are
    compared in the whole matrix.
    """
    live = weight != 0
    scores = ranked(np.abs(weight) * np.sqrt(inputs.hessian.diagonal()).astype(np.float32), live)
    if not isinstance(pattern, Unstructured):
        return np.where(pattern.choose(scores, sparsity), weight, np.float32(0))
    ranks = scores.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    rows, columns = weight.shape
    removed = whole_counts(rows, columns, sparsity, columns - np.count_nonzero(live, axis=1))
    return np.where(ranks >= removed[:, np.newaxis], weight, np.float32(0))
