"""Block-balanced: every block of a row stores the same number of elements, as many as the fullest has non-zeros."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsec.errors import FormatError
from sparsec.formats.bits import Symbols, pack, unpack, width
from sparsec.formats.nm import group_counts, join_groups, split_groups
from sparsec.formats.storage import Format, Streams


@dataclass(frozen=True)
class BlockBalanced(Format):
    """Stream "places" as of N:M, with blocks of `block` columns and N from the weight."""

    block: int = 32

    def __post_init__(self) -> None:
        if self.block < 1:
            raise FormatError(f"{self.name}: a block has at least one element")

    @property
    def name(self) -> str:
        """The name with the block's size."""
        return f"block-balanced {self.block}"

    def reject(self, weight: np.ndarray) -> str | None:
        """The block must divide the columns."""
        columns = weight.shape[1]
        return f"blocks of {self.block} do not divide {columns} columns" if columns % self.block else None

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """The places and the codes of every block."""
        fullest = int(group_counts(codes, self.block).max(initial=0))
        places, stored = split_groups(codes, fullest, self.block)
        return {"places": pack(places, width(self.block))}, stored

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        return join_groups(unpack(streams["places"]), stored, shape, self.block)

    def entries(self, m: int, shape: tuple[int, int]) -> float:
        """The fullest of all blocks, by the normal tail of its binomial count, times the blocks."""
        n = math.prod(shape)
        density = m / n if n else 0.0
        blocks = n / self.block
        spread = math.sqrt(2 * math.log(max(1.0, blocks)) * self.block * density * (1 - density))
        return blocks * min(self.block, math.ceil(self.block * density + spread))

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:  # noqa: ARG002 - places within blocks
        """Bits: m (k + ceil(log2 B)), m counting the padding."""
        return m * (k + width(self.block))
