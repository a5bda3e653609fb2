"""Magnitude: the smallest weights go (Han et al. 2015)."""

from __future__ import annotations

import numpy as np

from sparsec.oneshot.criteria.moments import Moments
from sparsec.oneshot.patterns.pattern import Pattern, ranked


def magnitude(weight: np.ndarray, inputs: Moments, pattern: Pattern, sparsity: float) -> np.ndarray:  # noqa: ARG001 - a criterion
    """The matrix (outputs, inputs) with the weights of lowest |w| set to zero."""
    return np.where(pattern.choose(ranked(np.abs(weight), weight != 0), sparsity), weight, np.float32(0))
