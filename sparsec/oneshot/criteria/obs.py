"""Layer-wise Optimal Brain Surgeon, blocked as SparseGPT (Frantar & Alistarh 2023, algorithm 1).

The error of a layer y = W x is quadratic in W with the Hessian H = mean of x x^T. Columns are decided on from the
left; removing w_q moves the columns that follow by -w_q / U_qq U_q:, with H^-1 = U^T U. How much each slab of columns
loses follows from the scores of the whole matrix; which weights those are is decided when the sweep comes there.
"""

from __future__ import annotations

import numpy as np

from sparsec.oneshot.criteria.moments import DAMPING, Grid, Moments
from sparsec.oneshot.criteria.refit import refit
from sparsec.oneshot.patterns.balanced import Balanced
from sparsec.oneshot.patterns.pattern import Pattern, ranked

SLAB, BLOCK = 32, 128
"""Columns that are chosen among at once, and those between updates of the rest of the matrix."""


def obs(weight: np.ndarray, inputs: Moments, pattern: Pattern, sparsity: float, *, block: int = BLOCK) -> np.ndarray:
    """The matrix (outputs, inputs) pruned, with the weights that remain moved to make up for the others.

    Quantised weights are rounded in the same sweep, and those that follow make up for that, too (Frantar et al. 2022,
    Optimal Brain Compression), or after it, where the layer loses less by that.
    """
    live = inputs.live_of(weight)
    swept = sweep(weight, live, inputs.factor, pattern, sparsity, block)
    free = swept if inputs.rough else refit(swept, weight, inputs.hessian, DAMPING)
    if inputs.grid is None:
        return free
    after = np.stack([inputs.grid.nearest(column) for column in free.T], axis=1).astype(weight.dtype)
    within = sweep(weight, live, inputs.factor, pattern, sparsity, block, inputs.grid)
    return min((within, after), key=lambda each: loss(each, weight, inputs.hessian))


def loss(pruned: np.ndarray, weight: np.ndarray, hessian: np.ndarray) -> float:
    """What the outputs of a layer lose by its weights: the mean of their squared changes, summed over outputs."""
    change = pruned - weight
    return float(np.vdot(change @ hessian, change))


def sweep(weight: np.ndarray, live: np.ndarray, upper: np.ndarray, pattern: Pattern, sparsity: float, block: int,
          grid: Grid | None = None) -> np.ndarray:
    """Prune from the first column to the last; the result has the type of the weight.

    Args:
        weight: (outputs, inputs).
        live: those of its elements that may be other than zero afterwards.
        upper: `Moments.factor`.
        pattern: where zeros may lie.
        sparsity: the share of zeros.
        block: columns whose removal moves the rest at once; the result depends on it by rounding alone.
        grid: what the weights that stay may be, None for anything.

    """
    columns = weight.shape[1]
    width = max(SLAB // pattern.columns, 1) * pattern.columns
    block = max(block // width, 1) * width
    first = pattern.choose(ranked(_scores(weight, upper.diagonal()), live), sparsity)
    decided = isinstance(pattern, Balanced) and not live.all()  # zeros of a row may all lie in one slab
    upper = upper.astype(weight.dtype)
    rest = np.array(weight.T, order="C")  # (inputs, outputs): a column lies together
    asked, gone = np.cumsum(np.count_nonzero(~first[::pattern.rows], axis=0)), 0  # a row of every block
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = np.zeros((stop - start, len(weight)), weight.dtype)
        for left in range(start, stop, width):
            right = min(left + width, stop)
            size = (right - left) * -(-len(weight) // pattern.rows)
            due = int(asked[right - 1]) - gone  # what earlier slabs could not take in whole counts, too
            share = min(max(due / size, 0.0), 1.0)
            own = live[:, left:right]
            kept = (first[:, left:right] if decided else pattern.choose(
                ranked(_scores(rest[left:right].T, upper.diagonal()[left:right]), own), share)).T
            gone += size - int(np.count_nonzero(kept[:, ::pattern.rows]))
            slab = errors[left - start:right - start]
            _settle(rest[left:right], kept & own.T, upper[left:right, left:right], slab, grid)
            rest[right:stop] -= upper[left:right, right:stop].T @ slab
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    return np.ascontiguousarray(rest.T)


def _settle(columns: np.ndarray, kept: np.ndarray, upper: np.ndarray, errors: np.ndarray, grid: Grid | None) -> None:
    """Give some columns (inputs, outputs) the values that they end with, in place and one after the other.

    What is not kept becomes zero, the rest what the grid has. `errors` gets by how much each went too far.
    """
    for place in range(len(columns)):
        wanted = columns[place] if grid is None else grid.nearest(columns[place])
        final = np.where(kept[place], wanted, 0)
        errors[place] = (columns[place] - final) / upper[place, place]
        columns[place:] -= np.outer(upper[place, place:], errors[place])
        columns[place] = final


def _scores(weight: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """What removing each weight costs (outputs, inputs)."""
    scores: np.ndarray = np.square(weight / diagonal.astype(weight.dtype))
    return scores
