"""Bitmaps of pairs: the arrays of `kernels.cpu.rows.bitmap_bf16`, a bit for every weight and the non-zeros in order."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from sparsec.kernels.packing.recipe import Recipe, balanced

PAIR = 2
"""Inputs that a dot product of bf16 takes at once."""


@dataclass(frozen=True)
class BitmapPairs(Recipe):
    """The fields of `kernels.cpu.rows.bitmap_bf16.BitmapBf16Params` that decide the layout."""

    vectors: int
    lanes: int
    threads: int

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`starts`, `parts`, `bits` and `values`, see `kernels.cpu.rows.bitmap_bf16.recipe`."""
        height = self.vectors * self.lanes
        padded = np.pad(weight, ((0, -len(weight) % height), (0, -weight.shape[1] % PAIR)))
        rounded = padded.astype(ml_dtypes.bfloat16).view(np.int16).reshape(-1, self.vectors, self.lanes,
                                                                           padded.shape[1] // PAIR, PAIR)
        blocks = np.ascontiguousarray(rounded.transpose(0, 3, 1, 2, 4)).reshape(len(padded) // height, -1)
        present = blocks << 1 != 0  # neither zero has a bit but its sign
        starts = np.append(0, np.cumsum(present.sum(axis=1)))
        bits = np.packbits(present.reshape(-1, PAIR * self.lanes), axis=1, bitorder="little").view(np.uint32)
        values = np.append(blocks[present], np.zeros(PAIR * self.lanes, np.int16))  # the last load goes beyond
        return {"starts": starts.astype(np.int32), "parts": balanced(starts, self.threads), "bits": bits.ravel(),
                "values": values}
