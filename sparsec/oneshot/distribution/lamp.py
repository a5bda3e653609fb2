"""LAMP: one bound on layer-adaptive magnitudes in all layers (Lee et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.oneshot.distribution.asked import Asked
from sparsec.oneshot.distribution.global_magnitude import lowest


def lamp(weights: Sequence[Asked], sparsity: float) -> list[float]:
    """The share of every weight that the lowest scores of all together make up.

    The score of an element is its square over the sum of the squares of all elements of its weight that are not
    smaller; within a weight the order is that of the magnitude, so that the shares say everything.
    """
    return lowest([_scores(weight.values) for weight in weights], sparsity)


def _scores(values: np.ndarray) -> np.ndarray:
    squares = np.sort(np.square(values, dtype=np.float64).reshape(-1))
    later = np.cumsum(squares[::-1])[::-1]
    return np.asarray(squares / np.maximum(later, np.finfo(np.float64).tiny))
