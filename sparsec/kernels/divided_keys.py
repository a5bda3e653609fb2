"""How a GPU's kernels of attention divide keys and list hidden ones, as the compiler and sessions reckon with it."""

from __future__ import annotations

SPLITS = (1, 2, 4, 8, 16, 32, 64)
"""Among how many blocks the keys of a query may be divided."""
FASTER = 0.9
"""What divided keys have to take of the time of whole ones."""
STATISTICS = 2
"""Numbers of a row that a share of keys leaves beside values: the largest score and the sum of weights."""
PLANES = 2
"""Of what is found in a mask of a row and stage: the largest element, and the largest distance from 0."""
MOST = (1 << 31) - (1 << 10)
"""Elements of a tensor that kernels number in 32 bits: threads of their last block are numbered beyond."""


def partial_length(rows: int, width: int, shares: int) -> int:
    """Elements that all shares leave of heads of a width."""
    return shares * rows * (width + STATISTICS)
