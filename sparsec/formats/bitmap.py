"""Bitmap: one bit per element, and the non-zeros in row order; best at moderate sparsity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsec.formats.bits import Stream, Symbols
from sparsec.formats.storage import Format, Streams, flat_positions, scatter


@dataclass(frozen=True)
class Bitmap(Format):
    """Stream "bitmap": a symbol of one bit per element."""

    @property
    def name(self) -> str:
        """Its key in `FORMATS`, with the parameters behind it where it has any."""
        return "bitmap"

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """The bitmap and the non-zeros."""
        flat = codes.ravel()
        mask = flat != 0
        return {"bitmap": Stream(np.packbits(mask, bitorder="little"), flat.size, 1)}, flat[mask]

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        mask = np.unpackbits(streams["bitmap"].data, count=math.prod(shape), bitorder="little")
        return scatter(flat_positions(mask), stored, shape)

    def entries(self, m: int, shape: tuple[int, int]) -> float:  # noqa: ARG002 - non-zeros only
        """m: the non-zeros are stored and nothing else."""
        return m

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:
        """Bits: m k + n."""
        return m * k + math.prod(shape)
