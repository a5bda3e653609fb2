"""Compressed sparse rows: every non-zero with its column, and where each row ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.formats.bits import Symbols, differences, pack, unpack, width
from sparsec.formats.storage import Format, Streams, flat_positions, scatter


@dataclass(frozen=True)
class Csr(Format):
    """Streams "columns", a column per non-zero, and "ends", how many non-zeros there are up to the end of each row."""

    @property
    def name(self) -> str:
        """Its key in `FORMATS`, with the parameters behind it where it has any."""
        return "csr"

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """Columns, row ends and the non-zeros."""
        places = flat_positions(codes)
        ends = np.cumsum(np.count_nonzero(codes, axis=1))
        streams = {"columns": pack(places % max(1, codes.shape[1]), width(codes.shape[1])),
                   "ends": pack(ends, width(len(places) + 1))}
        return streams, codes.ravel()[places]

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        counts = differences(streams["ends"])
        places = np.repeat(np.arange(shape[0]) * shape[1], counts) + unpack(streams["columns"])
        return scatter(places, stored, shape)

    def entries(self, m: int, shape: tuple[int, int]) -> float:  # noqa: ARG002 - non-zeros only
        """m: the non-zeros are stored and nothing else."""
        return m

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:
        """Bits: m (k + ceil(log2 n_c)) + n_r ceil(log2 (m + 1)); the survey has log2 m, though a row can end at m."""
        return m * (k + width(shape[1])) + shape[0] * width(round(m) + 1)
