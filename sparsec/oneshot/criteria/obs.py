"""Layer-wise Optimal Brain Surgeon, blocked as SparseGPT (Frantar & Alistarh 2023, algorithm 1).

The error of a layer y = W x is quadratic in W with the Hessian H = mean of x x^T. Columns are decided on from the
left; removing w_q moves the columns that follow by -w_q / U_qq U_q:, with H^-1 = U^T U. How much each slab of columns
loses follows from the scores of the whole matrix; which weights those are is decided when the sweep comes there.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from sparsec.errors import PruningError
from sparsec.oneshot.criteria.refit import refit
from sparsec.oneshot.patterns.pattern import Pattern

DAMPING = 0.01
"""Added to the diagonal of the Hessian, as a share of its mean."""
TRIES = 4
"""Each with ten times the damping of the one before."""
SLAB, BLOCK = 32, 128
"""Columns that are chosen among at once, and those between updates of the rest of the matrix."""


def obs(weight: np.ndarray, hessian: np.ndarray, pattern: Pattern, sparsity: float, *, block: int = BLOCK,
        ) -> np.ndarray:
    """The matrix (outputs, inputs) pruned, with the weights that remain moved to make up for the others."""
    dead = hessian.diagonal() == 0
    swept = sweep(np.where(dead, 0, weight).astype(weight.dtype), factor(hessian), pattern, sparsity, block)
    return refit(swept, weight, hessian, DAMPING)


def factor(hessian: np.ndarray) -> np.ndarray:
    """The upper triangular U with U^T U = (H + damping)^-1, in float64.

    H = R R^T with R upper triangular is a Cholesky decomposition from the last column, and U its inverse.

    Raises:
        PruningError: the Hessian is not positive semi-definite.

    """
    diagonal = np.arange(len(hessian))
    mean = max(float(hessian.diagonal().mean()), np.finfo(np.float64).tiny ** 0.5)
    for attempt in range(TRIES):
        damped = np.array(hessian[::-1, ::-1], np.float64, order="F")
        damped[diagonal, diagonal] += mean * DAMPING * 10**attempt
        lower, failed = lapack.dpotrf(damped, lower=1, clean=1, overwrite_a=1)
        if not failed:
            inverse, failed = lapack.dtrtri(lower, lower=1, overwrite_c=1)
            return np.asarray(inverse[::-1, ::-1])
    raise PruningError("the second moments of a layer's inputs have no Cholesky decomposition; leave out samples with "
                       "very large values, or use --criterion magnitude")


def sweep(weight: np.ndarray, upper: np.ndarray, pattern: Pattern, sparsity: float, block: int) -> np.ndarray:
    """Prune from the first column to the last; the result has the type of the weight.

    Args:
        weight: (outputs, inputs).
        upper: of `factor`.
        pattern: where zeros may lie.
        sparsity: the share of zeros.
        block: columns whose removal moves the rest at once; the result depends on it by rounding alone.

    """
    columns = weight.shape[1]
    width = max(SLAB // pattern.columns, 1) * pattern.columns
    block = max(block // width, 1) * width
    first = pattern.choose(_scores(weight, upper.diagonal()), sparsity)
    upper = upper.astype(weight.dtype)
    rest = np.ascontiguousarray(weight.T)  # (inputs, outputs): a column lies together
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = np.zeros((stop - start, len(weight)), weight.dtype)
        for left in range(start, stop, width):
            right = min(left + width, stop)
            share = 1 - float(first[:, left:right].mean())
            kept = pattern.choose(_scores(rest[left:right].T, upper.diagonal()[left:right]), share).T
            for column in range(left, right):
                error = np.where(kept[column - left], 0, rest[column] / upper[column, column])
                rest[column:stop] -= np.outer(upper[column, column:stop], error)
                errors[column - start] = error
                rest[column][~kept[column - left]] = 0
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    return np.ascontiguousarray(rest.T)


def _scores(weight: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """What removing each weight costs (outputs, inputs)."""
    scores: np.ndarray = np.square(weight / diagonal.astype(weight.dtype))
    return scores
