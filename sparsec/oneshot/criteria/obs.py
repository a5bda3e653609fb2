"""Layer-wise Optimal Brain Surgeon, blocked as SparseGPT (Frantar & Alistarh 2023, algorithm 1).

The error of a layer y = W x is quadratic in W with the Hessian H = mean of x x^T. Columns are decided on from the
left; removing w_q moves the columns that follow by -w_q / U_qq U_q:, with H^-1 = U^T U. How much each slab of columns
loses follows from the scores of the whole matrix; which weights those are is decided when the sweep comes there.
"""

from __future__ import annotations

import numpy as np

from sparsec.oneshot.criteria.moments import DAMPING, Moments
from sparsec.oneshot.criteria.refit import refit
from sparsec.oneshot.patterns.pattern import Pattern

SLAB, BLOCK = 32, 128
"""Columns that are chosen among at once, and those between updates of the rest of the matrix."""


def obs(weight: np.ndarray, inputs: Moments, pattern: Pattern, sparsity: float, *, block: int = BLOCK) -> np.ndarray:
    """The matrix (outputs, inputs) pruned, with the weights that remain moved to make up for the others."""
    dead = inputs.hessian.diagonal() == 0
    swept = sweep(np.where(dead, 0, weight).astype(weight.dtype), inputs.factor, pattern, sparsity, block)
    return refit(swept, weight, inputs.hessian, DAMPING)


def sweep(weight: np.ndarray, upper: np.ndarray, pattern: Pattern, sparsity: float, block: int) -> np.ndarray:
    """Prune from the first column to the last; the result has the type of the weight.

    Args:
        weight: (outputs, inputs).
        upper: `Moments.factor`.
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
            slab = errors[left - start:right - start]
            _remove(rest[left:right], kept, upper[left:right, left:right], slab)
            rest[right:stop] -= upper[left:right, right:stop].T @ slab
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    return np.ascontiguousarray(rest.T)


def _remove(columns: np.ndarray, kept: np.ndarray, upper: np.ndarray, errors: np.ndarray) -> None:
    """Set what is not kept of some columns (inputs, outputs) to zero in place, one after the other, and the error."""
    for place in range(len(columns)):
        errors[place] = np.where(kept[place], 0, columns[place] / upper[place, place])
        columns[place:] -= np.outer(upper[place, place:], errors[place])
        columns[place][~kept[place]] = 0


def _scores(weight: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """What removing each weight costs (outputs, inputs)."""
    scores: np.ndarray = np.square(weight / diagonal.astype(weight.dtype))
    return scores
