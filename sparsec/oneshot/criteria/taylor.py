"""First-order Taylor: what the loss changes when a weight goes, squared (Molchanov et al. 2019, eq. 8)."""

from __future__ import annotations

import numpy as np

from sparsec.oneshot.criteria.moments import Moments
from sparsec.oneshot.patterns.pattern import Pattern, ranked

ROWS = 1 << 24
"""Numbers of gradients that are made at once."""


def taylor(weight: np.ndarray, inputs: Moments, pattern: Pattern, sparsity: float) -> np.ndarray:
    """The matrix (outputs, inputs) with the weights of lowest mean of (g w)^2 over runs set to zero.

    That is w^2 times the diagonal of the network's Fisher matrix.
    """
    assert inputs.slopes is not None  # it is one of `GRADED`
    scores, step = np.empty_like(weight), rows_at_once(weight)
    for first in range(0, len(weight), step):
        part = slice(first, min(first + step, len(weight)))
        scores[part] = np.square(inputs.slopes.gradients(part.start, part.stop)).mean(axis=0) * np.square(weight[part])
    return np.where(pattern.choose(ranked(scores, weight != 0), sparsity), weight, np.float32(0))


def rows_at_once(weight: np.ndarray) -> int:
    """Outputs whose gradients fit in memory together, for 256 runs."""
    return max(ROWS // (256 * int(weight.shape[1])), 1)
