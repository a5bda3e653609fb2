"""Delta or run-length code: every non-zero with its distance from the one before, in row order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsec.formats.bits import Symbols, pack, unpack, width
from sparsec.formats.storage import Format, Streams, flat_positions, scatter


@dataclass(frozen=True)
class Delta(Format):
    """Stream "distances": the distance less one, in the bits that the weight's largest distance needs.

    Attributes:
        largest: the largest distance that the analytic size assumes; None for what is expected of random places.

    """

    largest: int | None = None

    @property
    def name(self) -> str:
        """Its key in `FORMATS`, with the parameters behind it where it has any."""
        return "delta" if self.largest is None else f"delta {self.largest}"

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """The distances and the non-zeros."""
        places = flat_positions(codes)
        distances = np.diff(places, prepend=-1) - 1
        return {"distances": pack(distances, width(int(distances.max(initial=0)) + 1))}, codes.ravel()[places]

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        places = np.cumsum(unpack(streams["distances"]).astype(np.int64) + 1) - 1
        return scatter(places, stored, shape)

    def entries(self, m: int, shape: tuple[int, int]) -> float:  # noqa: ARG002 - non-zeros only
        """m: the non-zeros are stored and nothing else."""
        return m

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:
        """Bits: m (k + ceil(log2 d)), d the largest distance."""
        return m * (k + width(self.largest or _expected_largest(m, math.prod(shape))))


def _expected_largest(m: float, n: int) -> int:
    """The largest of m geometrically distributed distances."""
    return 1 if not 0 < m < n else min(n, math.ceil(1 - math.log(m) / math.log1p(-m / n)))
