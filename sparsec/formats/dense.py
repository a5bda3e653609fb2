"""Dense: every value, in row order."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsec.formats.bits import Symbols
from sparsec.formats.storage import Format, Streams


@dataclass(frozen=True)
class Dense(Format):
    """A matrix as it is: no position streams, every code in row order."""

    @property
    def name(self) -> str:
        """Its key in `FORMATS`, with the parameters behind it where it has any."""
        return "dense"

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """No positions, and all codes in row order."""
        return {}, codes.ravel()

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:  # noqa: ARG002 - no positions
        """The matrix (rows, columns) of codes."""
        return stored.reshape(shape)

    def entries(self, m: int, shape: tuple[int, int]) -> float:  # noqa: ARG002 - whatever is zero
        """All elements (rows x columns), whatever is zero."""
        return math.prod(shape)

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:  # noqa: ARG002 - no positions
        """Bits: m k, for m elements."""
        return m * k
