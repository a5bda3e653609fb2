"""Which keys a constant mask shows to the queries of a block at all: causal masks, sliding windows, blocks."""

from __future__ import annotations

import numpy as np

HIDDEN = -1e4
"""What a mask adds to a score, beside the most that it adds in the row, so that no weight is left of it."""
WORTH = 0.85
"""The share of scores that have to be computed, up to which the others are left out."""


def bounds_of(mask: np.ndarray, block: int, chunk: int) -> np.ndarray | None:
    """The first chunk of keys, and the end of the last, that each block of queries sees: int32 (blocks, 2).

    Args:
        mask: (batch, heads, queries, keys), added to the scores.
        block: queries of a block.
        chunk: keys of a chunk.

    Returns:
        None where a query sees no key, or few are hidden from whole blocks.

    """
    most = mask.max(axis=-1, keepdims=True)
    if not np.isfinite(most).all() or (most <= HIDDEN).any():
        return None
    seen = ~(mask - most <= HIDDEN).all(axis=(0, 1))  # (queries, keys); what is no number is seen
    blocks = [seen[first:first + block].any(axis=0) for first in range(0, len(seen), block)]
    found = np.array([(np.flatnonzero(each)[0] // chunk, np.flatnonzero(each)[-1] // chunk + 1) for each in blocks],
                     np.int32)
    chunks = -(-seen.shape[1] // chunk)
    return found if (found[:, 1] - found[:, 0]).sum() <= WORTH * chunks * len(found) else None
