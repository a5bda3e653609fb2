"""Weight sharing (Deep Compression, Han et al., ICLR 2016, section 3): a weight is an index into a few shared values.

Entry 0 of a codebook is zero and stands for pruned weights only: no non-zero weight is stored as code 0. The other
entries ascend; those that nothing uses repeat the last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.errors import FormatError

Floats = NDArray[np.float32]


def cluster(values: Floats, size: int) -> Floats:
    """A codebook of `size` entries, zero and the k-means centres of the non-zero values, ascending.

    The centres start equally spaced (section 3.2: this keeps the rare large weights, which matter most) and move until
    no value changes its cluster. Where there are no more distinct values than centres, the codebook is exact.

    Raises:
        FormatError: fewer than two entries, or values that are not finite.

    """
    if size < 2:
        raise FormatError(f"codebook: {size} entries; zero and one shared value need two")
    if not np.isfinite(values).all():
        raise FormatError("codebook: NaN or infinite values have no mean; remove them from the weights")
    values = np.sort(values[values != 0])
    exact = np.unique(values)
    if len(exact) < size:
        return _codebook(exact, size)
    sums = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    centres = np.linspace(values[0], values[-1], size - 1)
    edges = np.zeros(0, np.int64)
    while True:
        between = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        if np.array_equal(between, edges):
            return _codebook(centres, size)
        edges = between
        bounds = np.concatenate(([0], edges, [len(values)]))
        members = np.diff(bounds)
        centres = np.where(members > 0, np.diff(sums[bounds]) / np.maximum(members, 1), centres)


def keep(values: Floats, size: int) -> Floats:
    """The codebook that the values already have.

    Raises:
        FormatError: they have more distinct non-zero values than the codebook has room for.

    """
    exact = np.unique(values[values != 0])
    if len(exact) >= size:
        raise FormatError(f"codebook: {len(exact)} distinct non-zero values do not fit {size} entries with zero")
    return _codebook(exact, size)


def _codebook(centres: NDArray[np.floating[Any]], size: int) -> Floats:
    """Zero and the centres, the last repeated to fill the size."""
    book = np.zeros(size, np.float32)
    book[1 : 1 + len(centres)] = centres
    book[1 + len(centres) :] = centres[-1] if len(centres) else 0
    return book


def assign(values: Floats, book: Floats) -> NDArray[np.unsignedinteger[Any]]:
    """The code of each value in a codebook of `cluster` or `keep`: 0 for zeros, else the nearest other entry."""
    codes = 1 + np.searchsorted((book[2:] + book[1:-1]) / 2, values)
    return np.where(values == 0, 0, codes).astype(np.uint8 if len(book) <= 256 else np.uint16)
