"""Groups: the arrays of the N:M kernels, a fixed number of places for every row in every window of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.formats.nm import split_groups
from sparsec.kernels.packing.recipe import Recipe
from sparsec.kernels.packing.values import encode

PLACE_BITS = 4
WORD_PLACES = 32 // PLACE_BITS


@dataclass(frozen=True)
class Groups(Recipe):
    """The fields of `kernels.cpu.rows.nm_vector.NmParams` that decide the layout."""

    codec: str
    slots: int
    lanes: int

    def elements(self, rows: int, columns: int) -> int:
        """The places, in whole groups of rows and windows of columns."""
        windows = -(-columns // self.lanes)
        return (rows + self.lanes) * max(columns + self.lanes, windows * (self.slots + WORD_PLACES))

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`places` and `values`, see `kernels.cpu.rows.nm_vector.recipe`."""
        padded = np.pad(weight, [(0, -size % self.lanes) for size in weight.shape])
        shape = (len(padded) // self.lanes, self.lanes, padded.shape[1] // self.lanes, self.slots)
        places, values = (each.reshape(shape).transpose(0, 2, 3, 1)  # group, window, slot, lane
                          for each in split_groups(padded, self.slots, self.lanes))
        words = -(-self.slots // WORD_PLACES)
        filled = np.zeros((*places.shape[:2], words * WORD_PLACES, self.lanes), np.uint32)
        filled[:, :, :self.slots] = places
        by_word = filled.reshape(*places.shape[:2], words, WORD_PLACES, self.lanes)
        shifts = (PLACE_BITS * np.arange(WORD_PLACES, dtype=np.uint32))[:, None]
        joined = np.bitwise_or.reduce(by_word << shifts, axis=3)
        return {"places": joined.ravel().view(np.int32), "values": encode(values.ravel(), self.codec)}
