"""Compressed sparse columns: CSR of the transposed matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.formats.bits import Symbols
from sparsec.formats.csr import Csr
from sparsec.formats.storage import Streams


@dataclass(frozen=True)
class Csc(Csr):
    """Streams "columns", a row per non-zero, and "ends", where each column ends."""

    @property
    def name(self) -> str:
        """Its key in `FORMATS`, with the parameters behind it where it has any."""
        return "csc"

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """Rows, column ends and the non-zeros, column by column."""
        return super().split(np.ascontiguousarray(codes.T))

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        return np.ascontiguousarray(super().join(streams, stored, shape[::-1]).T)

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:
        """Bits: m (k + ceil(log2 n_r)) + n_c ceil(log2 (m + 1))."""
        return super().analytic_bits(m, shape[::-1], k)
