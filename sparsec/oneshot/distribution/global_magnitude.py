"""One bound on |w| for the weights of all layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.oneshot.distribution.asked import Asked

MOST = 0.995
"""Of a layer, so that none is cut through."""


def global_magnitude(weights: Sequence[Asked], sparsity: float) -> list[float]:
    """The share of every weight that the smallest elements of all together make up."""
    return lowest([np.abs(weight.values).reshape(-1) for weight in weights], sparsity)


def lowest(scores: Sequence[np.ndarray], sparsity: float) -> list[float]:
    """The share of the scores (elements) of every weight that are among the lowest of all, `MOST` at most."""
    together = np.concatenate(scores)
    removed = round(sparsity * together.size)
    if not removed:
        return [0.0] * len(scores)
    bound = np.partition(together, removed - 1)[removed - 1]
    return [min(float((each <= bound).mean()), MOST) for each in scores]
