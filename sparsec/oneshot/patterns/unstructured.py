"""Zeros anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.oneshot.patterns.pattern import highest


@dataclass(frozen=True)
class Unstructured:
    """Every weight by itself."""

    columns: int = 1
    rows: int = 1
    fixed: float | None = None

    def reject(self, inputs: int, innermost: int) -> str | None:  # noqa: ARG002 - takes any
        """Nothing is rejected."""
        return None

    def choose(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """The highest scores of the whole matrix."""
        return highest(scores, sparsity)

    def sparsity_of(self, live: np.ndarray) -> float:
        """The share of the others."""
        return 1 - np.count_nonzero(live) / live.size
