"""Balanced rows: every output keeps as many weights as every other, so that no processor waits for another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Balanced:
    """Every row by itself; where slabs of columns are chosen, every row has as many in each (Cao et al. 2019)."""

    columns: int = 1
    rows: int = 1
    fixed: float | None = None

    def reject(self, inputs: int, innermost: int) -> str | None:  # noqa: ARG002 - takes any
        """Nothing is rejected."""
        return None

    def choose(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """The highest of every row."""
        kept = np.ones(scores.shape, bool)
        if removed := round(sparsity * scores.shape[1]):
            lowest = np.argsort(scores, axis=1, kind="stable")[:, :removed]
            np.put_along_axis(kept, lowest, False, 1)
        return kept

    def sparsity_of(self, live: np.ndarray) -> float:
        """The share of the others in the row that has fewest of them."""
        return float(1 - np.count_nonzero(live, axis=1).max() / live.shape[1])
