"""Blocks of R outputs by C inputs that are zero as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.oneshot.patterns.pattern import highest


@dataclass(frozen=True)
class Blocks:
    """Aligned blocks; those at the end of the outputs may have fewer rows, those at the end of the inputs columns."""

    rows: int
    columns: int
    fixed: float | None = None

    def reject(self, inputs: int, innermost: int) -> str | None:  # noqa: ARG002 - takes any
        """Nothing is rejected."""
        return None

    def choose(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """The blocks with the highest sums."""
        rows, columns = scores.shape
        kept = highest(self._blocks(scores).sum(axis=(1, 3)), sparsity)
        return np.repeat(np.repeat(kept, self.rows, 0), self.columns, 1)[:rows, :columns]

    def sparsity_of(self, live: np.ndarray) -> float:
        """The share of the blocks without any."""
        return 1 - float(self._blocks(live).any(axis=(1, 3)).mean())

    def _blocks(self, matrix: np.ndarray) -> np.ndarray:
        """Padded with zeros, as (blocks, rows of one, blocks, columns of one)."""
        padded = np.pad(matrix, [(0, -matrix.shape[0] % self.rows), (0, -matrix.shape[1] % self.columns)])
        return padded.reshape(padded.shape[0] // self.rows, self.rows, -1, self.columns)
