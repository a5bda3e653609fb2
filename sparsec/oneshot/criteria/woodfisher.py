"""Optimal Brain Surgeon by blocks of the network's Fisher matrix (WoodFisher, Singh & Alistarh 2020, section 3 and 4).

A block holds up to `BLOCK` neighbouring inputs of one output, and is the mean of g g^T over runs with some damping.
Weights go by w^2 / [F^-1]_ww; what stays of a block minimises (w - v)^T F (w - v), v the dense weights.
"""

from __future__ import annotations

import numpy as np

from sparsec.errors import PruningError
from sparsec.oneshot.criteria.moments import DAMPING, Gradients, Moments
from sparsec.oneshot.criteria.taylor import rows_at_once
from sparsec.oneshot.patterns.pattern import Pattern, ranked

BLOCK = 64


def woodfisher(weight: np.ndarray, inputs: Moments, pattern: Pattern, sparsity: float) -> np.ndarray:
    """The matrix (outputs, inputs) pruned, with the weights that remain moved within their blocks.

    The damping is 1 % of the mean of the whole weight's diagonal.

    Raises:
        PruningError: gradients are not finite.

    """
    assert inputs.slopes is not None  # it is one of `GRADED`
    rows, columns = weight.shape
    width = min(max(BLOCK // pattern.columns, 1) * pattern.columns, columns)
    padded = np.pad(weight.astype(np.float64), [(0, 0), (0, -columns % width)])
    blocks = padded.reshape(rows, -1, width)  # (outputs, blocks, width)
    step = max(rows_at_once(weight) // max(width * width // 256, 1), 1)
    parts = [(first, min(first + step, rows)) for first in range(0, rows, step)]
    added = DAMPING * _diagonal(inputs.slopes, parts, weight.size)
    scores = np.empty_like(blocks)
    for first, last in parts:
        inverse = np.linalg.inv(_fisher(inputs.slopes, first, last, width, added))
        scores[first:last] = np.square(blocks[first:last]) / np.diagonal(inverse, axis1=2, axis2=3)
    live = inputs.live_of(weight)
    kept = pattern.choose(ranked(scores.reshape(rows, -1)[:, :columns].astype(np.float32), live), sparsity) & live
    mask = np.pad(kept, [(0, 0), (0, -columns % width)]).reshape(blocks.shape).astype(np.float64)
    for first, last in parts:
        fisher, own = _fisher(inputs.slopes, first, last, width, added), mask[first:last]
        target = (fisher @ blocks[first:last, :, :, np.newaxis])[..., 0] * own
        among = fisher * own[:, :, :, np.newaxis] * own[:, :, np.newaxis] + np.eye(width) * (1 - own)[:, :, np.newaxis]
        blocks[first:last] = np.linalg.solve(among, target[..., np.newaxis])[..., 0] * own
    return np.where(kept, padded[:, :columns].astype(weight.dtype), weight.dtype.type(0))


def _diagonal(slopes: Gradients, parts: list[tuple[int, int]], size: int) -> float:
    """The mean of the Fisher matrix's diagonal; 1 where all gradients are zero."""
    found = sum(float(np.square(slopes.gradients(*part), dtype=np.float64).mean(axis=0).sum()) for part in parts) / size
    if not np.isfinite(found):
        raise PruningError("gradients are NaN or infinite; leave out samples with very large values, or give "
                           "--criterion obs")
    return found or 1.0


def _fisher(slopes: Gradients, first: int, last: int, width: int, added: float) -> np.ndarray:
    """The blocks of some outputs, (outputs, blocks, width, width) in float64, with damping."""
    slope = slopes.gradients(first, last).astype(np.float64)  # (runs, outputs, inputs)
    runs, rows, columns = slope.shape
    slope = np.pad(slope, [(0, 0), (0, 0), (0, -columns % width)]).reshape(runs, rows, -1, width)
    slope = np.moveaxis(slope, 0, 2)  # (outputs, blocks, runs, width)
    return np.asarray(np.swapaxes(slope, 2, 3) @ slope / runs + added * np.eye(width))
