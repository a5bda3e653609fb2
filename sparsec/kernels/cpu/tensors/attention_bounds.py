"""Which keys a constant mask shows to the queries of a block at all: causal masks, sliding windows, blocks."""

from __future__ import annotations

import numpy as np

from sparsec.kernels.hidden_keys import WORTH, ordinary, seen


def bounds_of(mask: np.ndarray, block: int, chunk: int) -> np.ndarray | None:
    """The first chunk of keys, and the end of the last, that each block of queries sees: int32 (blocks, 2).

    Args:
        mask: (batch, heads, queries, keys), added to the scores.
        block: queries of a block.
        chunk: keys of a chunk.

    Returns:
        None where a query sees no key, or few are hidden from whole blocks.

    """
    if not ordinary(mask.max(axis=-1)).all():
        return None
    shown: np.ndarray = np.logical_or.reduce(seen(mask), axis=(0, 1))  # (queries, keys)
    blocks = [shown[first:first + block].any(axis=0) for first in range(0, len(shown), block)]
    found = np.array([(np.flatnonzero(each)[0] // chunk, np.flatnonzero(each)[-1] // chunk + 1) for each in blocks],
                     np.int32)
    chunks = -(-shown.shape[1] // chunk)
    return found if (found[:, 1] - found[:, 0]).sum() <= WORTH * chunks * len(found) else None
