"""Column gaps: every row's non-zeros in whole chunks, each with its distance from the one before in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.errors import FormatError
from sparsec.formats.bits import Symbols, differences, pack, unpack
from sparsec.formats.storage import Format, Streams, flat_positions, scatter

LARGEST = 255
"""The widest gap; a wider one is broken by entries of code 0."""


@dataclass(frozen=True)
class Gaps(Format):
    """Streams "gaps", a byte per entry, and "ends", 32 bits a row: how many chunks there are up to its end.

    A row begins at column 0, so that its first gap is a column. An entry of code 0 only moves on; those behind a row's
    last non-zero fill its last chunk and have no gap.

    Attributes:
        chunk: entries of a chunk.

    """

    chunk: int = 8

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise FormatError("gaps: a chunk has at least one entry")

    @property
    def name(self) -> str:
        """The name with the entries of a chunk."""
        return f"gaps {self.chunk}"

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """The gaps, the row ends, and the entries' codes."""
        rows, columns = np.divmod(flat_positions(codes), max(1, codes.shape[1]))
        first = np.diff(rows, prepend=-1) != 0
        gaps = np.where(first, columns, np.diff(columns, prepend=0))
        entries = np.maximum(gaps - 1, 0) // LARGEST + 1  # of a non-zero: those that move on, and its own
        chunks = -(-np.bincount(rows, entries, len(codes)).astype(np.int64) // self.chunk)
        ends = np.cumsum(chunks)
        within = np.cumsum(entries)
        begins = (ends - chunks)[rows] * self.chunk - (within - entries)[np.flatnonzero(first)][np.cumsum(first) - 1]
        places = begins + within - 1
        stored = np.zeros(int(chunks.sum()) * self.chunk, codes.dtype)
        stored[places] = codes[rows, columns]
        distances = np.zeros(len(stored), np.uint8)
        moving = np.repeat(places - entries + 1, entries - 1) + _counted(entries - 1)
        distances[moving] = LARGEST
        distances[places] = gaps - LARGEST * (entries - 1)
        return {"gaps": pack(distances, 8), "ends": pack(ends, 32)}, stored

    def count(self, present: np.ndarray) -> int:
        """Chunks of a matrix whose non-zeros are those that are `present`, without storing it."""
        height, width = present.shape
        span = (LARGEST + 1) // 2  # a gap wider than LARGEST leaves an aligned stretch of these empty
        stretches = np.pad(present, ((0, 0), (0, -width % span))).reshape(height, -(-width // span), span)
        wide: np.ndarray = ~np.all(np.any(stretches, axis=2), axis=1)
        entries = np.count_nonzero(present[~wide], axis=1)
        _, stored = self.split(present[wide].view(np.uint8))
        return int((-(-entries // self.chunk)).sum()) + len(stored) // self.chunk

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        counts = differences(streams["ends"]) * self.chunk
        sums = np.cumsum(unpack(streams["gaps"]).astype(np.int64))
        before = np.concatenate([[0], sums])[np.cumsum(counts) - counts]  # of every row
        places = sums + np.repeat(np.arange(shape[0]) * shape[1] - before, counts)
        used = stored != 0
        return scatter(places[used], stored[used], shape)

    def entries(self, m: int, shape: tuple[int, int]) -> float:
        """Non-zeros, half a chunk a row, and those that break wide gaps."""
        rows = shape[0] if m else 0
        free = 1 - m / max(1, shape[0] * shape[1])
        broken = free**LARGEST if 0 < free < 1 else 0.0
        return m / (1 - broken) + rows * (self.chunk - 1) / 2

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:
        """Bits: m (k + 8) + 32 n_r, m counting what fills chunks and breaks gaps."""
        return m * (k + 8) + 32 * shape[0]


def _counted(counts: np.ndarray) -> np.ndarray:
    """0, 1, … up to each count, one after another."""
    ends = np.cumsum(counts)
    numbers: np.ndarray = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    return numbers
