"""Bitmaps: the arrays of the bitmap kernels, a bit for every weight and the non-zeros one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.kernels.packing.recipe import Recipe, balanced
from sparsec.kernels.packing.values import encode


@dataclass(frozen=True)
class Bitmaps(Recipe):
    """The fields of `kernels.cpu.rows.bitmap_vector.BitmapParams` that decide the layout."""

    codec: str
    vectors: int
    lanes: int
    threads: int

    def elements(self, rows: int, columns: int) -> int:
        """The weight's, in whole blocks of rows."""
        return (rows + self.vectors * self.lanes) * columns + self.threads

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`starts`, `parts`, `bits` and `values`, see `kernels.cpu.rows.bitmap_vector.recipe`."""
        height = self.vectors * self.lanes
        rows = np.pad(weight, ((0, -len(weight) % height), (0, 0)))
        blocks = np.ascontiguousarray(rows.reshape(-1, height, weight.shape[1]).swapaxes(1, 2))
        present = blocks != 0  # (block, column, row of the block)
        starts = np.concatenate([[0], np.cumsum(present.sum(axis=(1, 2)))])
        bits = np.packbits(present.reshape(-1, self.lanes), axis=1, bitorder="little").view(f"uint{self.lanes}")
        values = np.append(blocks[present], np.zeros(self.lanes, weight.dtype))  # the last load goes beyond
        return {"starts": starts.astype(np.int32), "parts": balanced(starts, self.threads), "bits": bits.ravel(),
                "values": encode(values, self.codec)}
