"""Zero-padded delta code: runs of zeros in few bits; longer runs are broken by stored zeros (Deep Compression, ESE)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsec.errors import FormatError
from sparsec.formats import eie
from sparsec.formats.bits import Symbols, pack, unpack
from sparsec.formats.storage import Format, Streams


@dataclass(frozen=True)
class DeltaPadded(Format):
    """Stream "runs": the zeros before every entry. An entry of code 0 and the longest run advances 2**run_bits."""

    run_bits: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.run_bits <= 8:
            raise FormatError(f"delta-padded: runs of {self.run_bits} bits; 1 to 8 are possible")

    @property
    def name(self) -> str:
        """The name with the bits of a run."""
        return f"delta-padded {self.run_bits}"

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """The runs and the entries' codes."""
        column = eie.encode(codes.reshape(-1, 1), index_bits=self.run_bits)
        return {"runs": pack(column.runs, self.run_bits)}, column.codes

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        runs = unpack(streams["runs"])
        pointers = np.array([[0, len(runs)]])
        return eie.decode(eie.InterleavedColumns((math.prod(shape), 1), self.run_bits, stored, runs, pointers)
                          ).reshape(shape)

    def entries(self, m: int, shape: tuple[int, int]) -> float:
        """Non-zeros and padding: a run of 2**run_bits zeros costs an entry."""
        n = math.prod(shape)
        broken = (1 - m / n) ** (1 << self.run_bits) if 0 < m < n else 0.0
        return m / (1 - broken)

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:  # noqa: ARG002 - no larger position
        """Bits: m (k + run_bits), m counting the padding."""
        return m * (k + self.run_bits)
