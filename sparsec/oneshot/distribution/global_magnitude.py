"""One bound on |w| for the weights of all layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.oneshot.distribution.asked import Asked

MOST = 0.995
"""Of a layer, so that none is cut through."""


def global_magnitude(weights: Sequence[Asked], sparsity: float) -> list[float]:
    """The share of every weight that the smallest elements of all together make up."""
    together = np.concatenate([np.abs(weight.values).reshape(-1) for weight in weights])
    removed = round(sparsity * together.size)
    if not removed:
        return [0.0] * len(weights)
    bound = np.partition(together, removed - 1)[removed - 1]
    return [min(float((np.abs(weight.values) <= bound).mean()), MOST) for weight in weights]
