"""What structure the zeros of a weight have: empty rows, columns and channels, dense blocks, N:M groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

from sparsec.formats.nm import group_counts
from sparsec.formats.storage import as_matrix

BLOCK_SIDES = (1, 2, 4, 8, 16)
GROUPS = (4, 8, 16)
FULL = 0.95  # share of non-zeros from which on blocks, or the N places of a group, count as used


@dataclass(frozen=True)
class Structure:
    """The zeros of a weight, as a matrix of one row per output.

    Attributes:
        sparsity: share of zeros.
        empty_rows, empty_columns: rows and columns of the matrix without a non-zero.
        empty_channels: inputs without a non-zero, all taps together.
        block: the largest R x C blocks that are non-zero as a whole, or None.
        nm: the N and M of N:M groups along a row, or None.

    """

    sparsity: float
    empty_rows: int
    empty_columns: int
    empty_channels: int
    block: tuple[int, int] | None
    nm: tuple[int, int] | None

    def __str__(self) -> str:
        """A few words, such as "4x1 blocks"."""
        if self.sparsity == 0:
            return "dense"
        if self.nm is not None:
            return f"{self.nm[0]}:{self.nm[1]}"
        return "unstructured" if self.block is None else f"{self.block[0]}x{self.block[1]} blocks"


def find(weight: np.ndarray) -> Structure:
    """The structure of a weight (outputs, inputs, taps…)."""
    matrix = as_matrix(weight) != 0
    if not matrix.size:
        return Structure(0.0, 0, 0, 0, None, None)
    used = matrix.any(axis=0)
    channels = used.reshape(weight.shape[1] if weight.ndim > 1 else 1, -1).any(axis=1)
    nonzeros = int(np.count_nonzero(matrix))
    zeros = 0 < nonzeros < matrix.size
    rows, columns, inputs = (int((~each).sum()) for each in (matrix.any(axis=1), used, channels))
    return Structure(1 - nonzeros / matrix.size, rows, columns, inputs,
                     _block(matrix, nonzeros) if zeros else None, _nm(matrix, nonzeros) if zeros else None)


def _block(matrix: np.ndarray, nonzeros: int) -> tuple[int, int] | None:
    """The largest blocks that are `FULL`; where blocks are not, larger ones that consist of them are not, either."""
    height, width = matrix.shape
    if nonzeros > FULL * matrix.size:
        return None  # nearly dense: every block is full
    best = (1, 1)
    for rows in (r for r in BLOCK_SIDES if height % r == 0):
        tall = np.asarray(matrix.reshape(-1, rows, width).any(axis=1))
        if nonzeros < FULL * np.count_nonzero(tall) * rows:
            break
        for columns in (c for c in BLOCK_SIDES if width % c == 0):
            used = _in_use(tall, columns)
            if nonzeros < FULL * used * rows * columns:
                break
            if rows * columns > best[0] * best[1]:
                best = rows, columns
    return best if best != (1, 1) else None


def _in_use(matrix: np.ndarray, columns: int) -> int:
    """How many groups of so many elements of a row have a non-zero: as whole words, faster than along a short axis."""
    words = np.ascontiguousarray(matrix).reshape(-1).view(f"u{min(columns, 8)}").reshape(-1, max(1, columns // 8))
    return int(np.count_nonzero(reduce(np.bitwise_or, words.T)))


def _nm(matrix: np.ndarray, nonzeros: int) -> tuple[int, int] | None:
    """The smallest groups whose N places are used."""
    for size in (s for s in GROUPS if matrix.shape[1] % s == 0):
        fullest = int(group_counts(matrix, size).max(initial=0))
        if fullest < size and nonzeros >= FULL * fullest * matrix.size / size:
            return fullest, size
    return None
