"""Block compressed sparse rows: CSR of R x C blocks, each stored whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsec.errors import FormatError
from sparsec.formats.bits import Symbols
from sparsec.formats.csr import Csr
from sparsec.formats.storage import Format, Streams, flat_positions


@dataclass(frozen=True)
class Bcsr(Format):
    """The streams of CSR, of blocks instead of elements; a block's codes in row order."""

    rows: int = 4
    columns: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise FormatError(f"{self.name}: a block has at least one row and one column")

    @property
    def name(self) -> str:
        """The name with the block's size."""
        return f"bcsr {self.rows}x{self.columns}"

    def reject(self, weight: np.ndarray) -> str | None:
        """The block must divide the matrix."""
        height, width = weight.shape
        if height % self.rows or width % self.columns:
            return f"blocks of {self.rows}x{self.columns} do not divide {height}x{width}"
        return None

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """The blocks' columns, the ends of the rows of blocks, and the blocks."""
        grid = self._grid(codes.shape)
        blocks = codes.reshape(grid[0], self.rows, grid[1], self.columns).swapaxes(1, 2).reshape(
            math.prod(grid), self.rows * self.columns)
        used = (blocks != 0).any(axis=1)
        streams, _ = Csr().split(used.reshape(grid).astype(np.uint8))
        return streams, blocks[used].ravel()

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        grid = self._grid(shape)
        used = Csr().join(streams, np.ones(streams["columns"].count, np.uint8), grid)
        blocks = np.zeros((math.prod(grid), self.rows * self.columns), stored.dtype)
        blocks[flat_positions(used)] = stored.reshape(-1, self.rows * self.columns)
        return blocks.reshape(*grid, self.rows, self.columns).swapaxes(1, 2).reshape(shape)

    def entries(self, m: int, shape: tuple[int, int]) -> float:
        """The elements of blocks that are not all zero."""
        n = math.prod(shape)
        return n * (1 - (1 - m / n) ** (self.rows * self.columns)) if n else 0.0

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:
        """Bits: m k and CSR's positions of m / (R C) blocks."""
        return m * k + Csr().analytic_bits(m / (self.rows * self.columns), self._grid(shape), 0)

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return shape[0] // self.rows, shape[1] // self.columns
