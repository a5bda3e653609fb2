"""Coordinate offsets: every non-zero with its place in row order; for hyper-sparse weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsec.formats.bits import Symbols, pack, unpack, width
from sparsec.formats.storage import Format, Streams, flat_positions, scatter


@dataclass(frozen=True)
class Coo(Format):
    """Stream "offsets": a place in row order per non-zero."""

    @property
    def name(self) -> str:
        """Its key in `FORMATS`, with the parameters behind it where it has any."""
        return "coo"

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """The offsets and the non-zeros."""
        places = flat_positions(codes)
        return {"offsets": pack(places, width(codes.size))}, codes.ravel()[places]

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        return scatter(unpack(streams["offsets"]), stored, shape)

    def entries(self, m: int, shape: tuple[int, int]) -> float:  # noqa: ARG002 - non-zeros only
        """m: the non-zeros are stored and nothing else."""
        return m

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:
        """Bits: m (k + ceil(log2 n))."""
        return m * (k + width(math.prod(shape)))
