"""Blocks of 4-bit codes: the arrays of the kernels for few rows on 4-bit weights, see `formats.codecs.int4`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.formats.codecs.int4 import BLOCK, LEAST, blocks_of, values_of
from sparsec.kernels.packing.recipe import Recipe, balanced
from sparsec.kernels.packing.vnni import GROUP

ZERO = -LEAST
"""What is added to codes, so that they are unsigned."""


def dequantized(weight: np.ndarray) -> np.ndarray:
    """The weight that the codes of a weight stand for."""
    codes, scales = blocks_of(weight)
    return np.asarray(values_of(codes, scales).reshape(len(weight), codes.shape[1] * BLOCK)[:, :weight.shape[1]])


@dataclass(frozen=True)
class Nibbles(Recipe):
    """The fields of `kernels.cpu.rows.gemv_int4.GemvInt4Params` that decide the layout."""

    vectors: int
    lanes: int
    threads: int
    bitmap: bool = False

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`parts`, `scales`, `starts`, `bits` and `values`, see `kernels.cpu.rows.gemv_int4.recipe`."""
        height = self.vectors * self.lanes
        count = -(-len(weight) // height)
        signed, scales = blocks_of(np.pad(weight, ((0, count * height - len(weight)), (0, 0))))
        shape = (count, self.vectors, self.lanes, scales.shape[1])
        codes = (signed + ZERO).astype(np.uint8)
        # block of rows, block of inputs, vector, pair of groups, group of the pair, row, input of the group
        groups = codes.reshape(*shape, BLOCK // GROUP // 2, 2, GROUP).transpose(0, 3, 1, 4, 5, 2, 6)
        pairs = np.ascontiguousarray(groups).reshape(-1, 2, GROUP * self.lanes)
        arrays = {"scales": np.ascontiguousarray(scales.reshape(shape).transpose(0, 3, 1, 2)).ravel()}
        if self.bitmap:
            starts, bits, values = _non_zeros(pairs, count)
            return {"parts": balanced(starts, self.threads), **arrays, "starts": starts.astype(np.int32), "bits": bits,
                    "values": values}
        return {"parts": balanced(np.arange(count + 1), self.threads), **arrays,
                "values": (pairs[:, 0] | pairs[:, 1] << 4).ravel()}


def _non_zeros(pairs: np.ndarray, blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first byte of every block of rows, where codes are not zero, and these codes, of (pairs, 2, width) codes."""
    present = pairs != ZERO
    taken = present.sum(axis=2).max(axis=1, initial=0)  # bytes of every pair of groups
    ends = np.cumsum(taken, dtype=np.int64)
    values = np.zeros(int(ends[-1]) + pairs.shape[2], np.uint8)  # the last load goes beyond
    for half in range(2):
        pair, place = np.nonzero(present[:, half])
        rank = np.cumsum(present[:, half], axis=1)[pair, place] - 1
        values[(ends - taken)[pair] + rank] |= pairs[pair, half, place] << (4 * half)
    bits = np.packbits(present.reshape(-1, pairs.shape[2]), axis=1, bitorder="little").view(np.uint64)
    return np.append(0, ends.reshape(blocks, -1)[:, -1]), bits.ravel(), values
