"""Blocks of 4-bit codes of which only the non-zeros are stored: the arrays of `kernels.cpu.rows.bitmap_int4`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.formats.codecs.int4 import BLOCK, blocks_of
from sparsec.kernels.packing.nibbles import ZERO
from sparsec.kernels.packing.recipe import Recipe, balanced
from sparsec.kernels.packing.vnni import GROUP


@dataclass(frozen=True)
class NibbleBitmaps(Recipe):
    """The fields of `kernels.cpu.rows.bitmap_int4.BitmapInt4Params` that decide the layout."""

    vectors: int
    lanes: int
    threads: int

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`starts`, `parts`, `scales`, `bits` and `values`, see `kernels.cpu.rows.bitmap_int4.recipe`."""
        height, width = self.vectors * self.lanes, GROUP * self.lanes
        count = -(-len(weight) // height)
        signed, scales = blocks_of(np.pad(weight, ((0, count * height - len(weight)), (0, 0))))
        shape = (count, self.vectors, self.lanes, scales.shape[1])
        # block of rows, block of inputs, vector, pair of groups, group of the pair, row, input of the group
        groups = signed.reshape(*shape, BLOCK // GROUP // 2, 2, GROUP).transpose(0, 3, 1, 4, 5, 2, 6)
        places = np.ascontiguousarray(groups).reshape(-1, 2, width)
        present = places != 0
        taken = present.sum(axis=2).max(axis=1, initial=0)  # bytes of every pair of groups
        ends = np.cumsum(taken, dtype=np.int64)
        values = np.zeros(int(ends[-1]) + width, np.uint8)  # the last load goes beyond
        for half in range(2):
            pair, place = np.nonzero(present[:, half])
            rank = np.cumsum(present[:, half], axis=1)[pair, place] - 1
            values[(ends - taken)[pair] + rank] |= (places[pair, half, place] + ZERO).astype(np.uint8) << (4 * half)
        starts = np.append(0, ends.reshape(count, -1)[:, -1])
        return {"starts": starts.astype(np.int32), "parts": balanced(starts, self.threads),
                "scales": np.ascontiguousarray(scales.reshape(shape).transpose(0, 3, 1, 2)).ravel(),
                "bits": np.packbits(present.reshape(-1, width), axis=1, bitorder="little").view(np.uint64).ravel(),
                "values": values}
