"""The order in which a warp's lanes hold the tensor cores' left operand, so that a lane loads 16 bytes at once.

A fragment is 16 rows x 32 bytes of columns: 16 half-precision values or 32 int8. Lane 4g + t holds, for rows g and
g + 8 and for both 16-byte halves of the columns, the t-th 4 bytes (PTX ISA, mma.m16n8k16 and mma.m16n8k32). With 2:4
sparsity the columns are those of the compressed matrix.
"""

from __future__ import annotations

import numpy as np

ROWS = 16
COLUMN_BYTES = 32
FRAGMENT_BYTES = ROWS * COLUMN_BYTES


def columns(itemsize: int) -> int:
    """Columns of a fragment."""
    return COLUMN_BYTES // itemsize


def pack(matrix: np.ndarray) -> np.ndarray:
    """Values (M, C), multiples of the fragment's shape -> (M / 16, C / columns, 32 lanes, values of 16 bytes)."""
    rows, width = matrix.shape
    words = np.ascontiguousarray(matrix).view(np.uint32)
    parts = words.reshape(rows // ROWS, 2, 8, width // columns(matrix.itemsize), 2, 4)
    lanes = np.ascontiguousarray(parts.transpose(0, 3, 2, 5, 4, 1))  # block, step, g, t, half, row half
    return lanes.view(matrix.dtype).reshape(rows // ROWS, -1, 32, 16 // matrix.itemsize)


def unpack(fragments: np.ndarray) -> np.ndarray:
    """The inverse of `pack`."""
    blocks, steps, _, values = fragments.shape
    parts = fragments.reshape(blocks, steps, 8, 4, 2, 2, values // 4).transpose(0, 5, 2, 1, 4, 3, 6)
    return np.ascontiguousarray(parts).reshape(blocks * ROWS, steps * columns(fragments.itemsize))
