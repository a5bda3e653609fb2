"""The accelerator's arithmetic: fixed point, rounded to nearest with ties up, saturating at ±(2**(bits - 1) - 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

ELEMENTS = 1 << 17  # of the accumulators that run side by side: they stay in the second-level cache


@dataclass(frozen=True)
class FixedPoint:
    """Numbers k / 2**fraction for integers k of `bits` bits."""

    bits: int
    fraction: int

    @property
    def limit(self) -> int:
        """The largest integer, and the negative of the smallest."""
        return (1 << (self.bits - 1)) - 1

    def quantize(self, values: NDArray[np.float32]) -> NDArray[np.int32]:
        """The integers nearest to values, saturated."""
        scaled = np.floor(np.ldexp(values.astype(np.float64), self.fraction) + 0.5)
        return np.clip(scaled, -self.limit, self.limit).astype(np.int32)

    def dequantize(self, integers: NDArray[np.int32]) -> NDArray[np.float32]:
        """The values of integers."""
        return np.ldexp(integers.astype(np.float64), -self.fraction).astype(np.float32)


def fitting(largest: float, bits: int) -> FixedPoint:
    """The finest format that holds magnitudes up to `largest` (any format where it is 0)."""
    exponent = int(np.frexp(largest)[1])  # largest <= 2**exponent
    return FixedPoint(bits, bits - 1 - exponent)


def rescale(products: NDArray[np.int32], shift: int) -> NDArray[np.int32]:
    """Products of two 16-bit numbers, over 2**shift and rounded; the shift is not negative."""
    if shift == 0:
        return products
    shift = min(shift, 31)  # beyond, they vanish: they are below 2**30
    return (products + np.int32(1 << (shift - 1))) >> np.int32(shift)


def multiply(codes: scipy.sparse.csc_array, codebook: NDArray[np.int32], x: NDArray[np.int32], shift: int, limit: int,
             ) -> tuple[NDArray[np.int32], int]:
    """Accumulate column after column, as the PEs do: every product is rescaled, every sum saturates.

    Args:
        codes: (rows, columns) with sorted indices; where nothing is stored, nothing is added.
        codebook: the shared weights.
        x: (columns, vectors) activations.
        shift: fraction bits of a product less those of the accumulators.
        limit: the accumulators' largest integer.

    Returns:
        (rows, vectors) accumulators, and how many additions saturated.

    """
    rows, (_, vectors) = codes.shape[0], x.shape
    y = np.zeros((rows, vectors), np.int32)
    saturated = 0
    chunk = max(1, ELEMENTS // max(1, rows))
    for first in range(0, vectors, chunk):
        part = np.ascontiguousarray(x[:, first : first + chunk])
        accumulators = np.zeros((rows, part.shape[1]), np.int32)
        for j in np.flatnonzero(part.any(axis=1)):
            stored = slice(codes.indptr[j], codes.indptr[j + 1])
            row = codes.indices[stored]
            weights = codebook[codes.data[stored]]
            total = accumulators[row] + rescale(weights[:, None] * part[j], shift)
            if total.size and max(total.max(), -total.min()) > limit:
                saturated += int(np.count_nonzero(np.abs(total) > limit))
                np.clip(total, -limit, limit, out=total)
            accumulators[row] = total
        y[:, first : first + chunk] = accumulators
    return y, saturated
