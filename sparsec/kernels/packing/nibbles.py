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

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`parts`, `scales` and `values`, see `kernels.cpu.rows.gemv_int4.recipe`."""
        height = self.vectors * self.lanes
        count = -(-len(weight) // height)
        signed, scales = blocks_of(np.pad(weight, ((0, count * height - len(weight)), (0, 0))))
        codes, shape = (signed + ZERO).astype(np.uint8), (count, self.vectors, self.lanes, scales.shape[1])
        # block of rows, block of inputs, vector, pair of groups, group of the pair, row, input of the group
        pairs = codes.reshape(*shape, BLOCK // GROUP // 2, 2, GROUP).transpose(0, 3, 1, 4, 5, 2, 6)
        return {"parts": balanced(np.arange(count + 1), self.threads),
                "scales": np.ascontiguousarray(scales.reshape(shape).transpose(0, 3, 1, 2)).ravel(),
                "values": np.ascontiguousarray(pairs[:, :, :, :, 0] | pairs[:, :, :, :, 1] << 4).ravel()}
