"""Windowed ELL ("WELL"): groups of rows, one per lane, walk the columns in shared windows of two vectors.

A slot of a group names one aligned window of 2 * lanes columns, and for every lane the place in the window of one of
the row's non-zeros. Slots are packed greedily from the left: the window starts at the vector that holds the leftmost
non-zero still to be stored, and every row whose next non-zero lies in the window spends it. Lanes without one store a
zero. Slots hold 2 places per non-zero at 5 % density, 1.6 at 10 %, 1.2 at 30 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparsec.formats.bits import Symbols, differences, pack, unpack, width
from sparsec.formats.storage import Format, Streams

DENSITIES, PLACES = (0.0, 0.05, 0.1, 0.3, 1.0), (8.0, 2.0, 1.58, 1.19, 1.0)  # per non-zero, measured


@dataclass(frozen=True)
class Well(Format):
    """Streams "ends" of every group's slots, "windows" of every slot in vectors, and "places" of every lane."""

    lanes: int = 16

    @property
    def name(self) -> str:
        """Its key in `FORMATS`, with the parameters behind it where it has any."""
        return "well"

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """The slots' windows and places, and their codes."""
        matrix = whole_groups(codes, self.lanes)
        row, column = np.nonzero(matrix)
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(matrix, axis=1))])
        bases, step = pack_slots(starts, column, codes.shape[1], self.lanes)
        ends = np.cumsum((bases >= 0).sum(axis=1))
        group, lane = np.divmod(row, self.lanes)
        slot = np.append(0, ends)[group] + step
        total = int(ends[-1]) if len(ends) else 0
        places, stored = np.zeros((total, self.lanes), np.uint8), np.zeros((total, self.lanes), codes.dtype)
        places[slot, lane], stored[slot, lane] = column - bases[group, step], matrix[row, column]
        streams = {"ends": pack(ends, width(total + 1)),
                   "windows": pack(bases[bases >= 0] // self.lanes, width(-(-codes.shape[1] // self.lanes))),
                   "places": pack(places.ravel(), width(2 * self.lanes))}
        return streams, stored.ravel()

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        counts = differences(streams["ends"])
        real = np.flatnonzero(stored)
        slot, lane = np.divmod(real, self.lanes)
        row = np.repeat(np.arange(len(counts)), counts)[slot] * self.lanes + lane
        column = unpack(streams["windows"])[slot].astype(np.int64) * self.lanes + unpack(streams["places"])[real]
        codes = np.zeros(shape, stored.dtype)
        codes[row, column] = stored[real]
        return codes

    def entries(self, m: int, shape: tuple[int, int]) -> float:
        """The expected slots: non-zeros, and what pads the groups to vectors."""
        n = math.prod(shape)
        return m * float(np.interp(m / n, DENSITIES, PLACES)) if n else 0.0

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:
        """Bits: m (k + ceil(log2 (2 lanes))), m counting the padding; slots and groups as columns and rows of CSR."""
        count, groups, vectors = m / self.lanes, -(-shape[0] // self.lanes), -(-shape[1] // self.lanes)
        return m * (k + width(2 * self.lanes)) + count * width(vectors) + groups * width(round(count) + 1)


def whole_groups(matrix: np.ndarray, lanes: int) -> np.ndarray:
    """A matrix whose rows are completed to groups of `lanes` by empty ones; itself where they are."""
    return np.pad(matrix, ((0, -len(matrix) % lanes), (0, 0))) if len(matrix) % lanes else matrix


def pack_slots(starts: np.ndarray, columns: np.ndarray, inputs: int, lanes: int, unit: int = 0, each: int = 1,
               ) -> tuple[np.ndarray, np.ndarray]:
    """The greedy packing of whole groups of rows.

    Args:
        starts: the first non-zero of every row, and the end of the last.
        columns: the column of every non-zero, in row order.
        inputs: columns of the matrix.
        lanes: rows of a group.
        unit: half a window, and what its start is a multiple of; `lanes` if not given.
        each: non-zeros of a row that a slot holds.

    Returns:
        Window starts (groups, steps), -1 behind a group's last; and every non-zero's step.

    """
    ended, real = _row_ends(starts, columns)
    step_of = np.empty(len(ended), np.int32)
    bases = list[np.ndarray]()
    for base, places in _steps(starts, ended, inputs, lanes, unit or lanes, each):
        step_of[places] = len(bases)
        bases.append(base)
    return np.array(bases, np.int64).reshape(len(bases), (len(starts) - 1) // lanes).T, step_of[real]


def count_slots(starts: np.ndarray, columns: np.ndarray, inputs: int, lanes: int) -> np.ndarray:
    """How many slots `pack_slots` makes of each group of rows."""
    ended, _ = _row_ends(starts, columns)
    slots = np.zeros((len(starts) - 1) // lanes, np.int64)
    for base, _ in _steps(starts, ended, inputs, lanes, lanes, 1):
        slots += base >= 0
    return slots


_END = np.int32(1 << 30)
"""The column behind a row's last non-zero."""


def _row_ends(starts: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns with `_END` behind every row, and which of them are those of non-zeros."""
    real = np.ones(len(columns) + len(starts) - 1, bool)
    real[starts[1:] + np.arange(len(starts) - 1)] = False
    ended = np.full(len(real), _END)
    ended[real] = columns
    return ended, real


def _steps(starts: np.ndarray, ended: np.ndarray, inputs: int, lanes: int, unit: int, each: int,
           ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Step by step the window start of every group, -1 behind its last, and where the non-zeros lie that are spent."""
    last_window = np.int32(max(0, -(-inputs // unit) * unit - 2 * unit))
    place = starts[:-1] + np.arange(len(starts) - 1)
    while True:
        following = ended[place].reshape(-1, lanes)
        leftmost = following.min(axis=1)
        if leftmost.min(initial=_END) == _END:
            return
        base = np.minimum(leftmost // unit * unit, last_window)
        limit = (base + 2 * unit)[:, None]
        spent = []
        for turn in range(each):
            following = ended[place].reshape(-1, lanes) if turn else following
            taken = (following < limit).ravel()
            spent.append(place[taken])
            place += taken
        yield np.where(leftmost < _END, base, -1), spent[0] if each == 1 else np.concatenate(spent)
