"""The parameters of `winograd`'s kernels, and how tiles of pixels lie in blocks."""

from __future__ import annotations

from dataclasses import dataclass

from sparsec.graph.layout import PaddedFlat, round_up
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.packing.winograd import POINTS


@dataclass(frozen=True)
class WinogradParams:
    """A kernel.

    Attributes:
        stencil: the geometry; its taps are those of a 3 x 3 window.
        epilogue: what follows the product.
        target: layout of the output, a single image.
        vectors: vectors of tiles in a block.
        block: output channels of a register block; no more than there are.
        dilation: pixels from one tap to the next, down and across.
        wide: blocks of tiles that meet a point of the weights in turn; it divides the blocks.
        parts: shares of the output channels, or of the groups, for threads that there are no blocks of tiles for.
        groups: blocks on the diagonal of the weight, each of which multiplies channels of its own.

    """

    stencil: Stencil
    epilogue: Epilogue
    target: PaddedFlat
    vectors: int
    block: int
    dilation: tuple[int, int] = (1, 1)
    wide: int = 1
    parts: int = 1
    groups: int = 1

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return self.stencil.channels // self.groups

    @property
    def outputs(self) -> int:
        """Output channels of a group."""
        return self.stencil.outputs // self.groups

    @property
    def tile_rows(self) -> int:
        """Rows of tiles."""
        return _tiles(self.target.height, self.dilation[0])

    @property
    def slots(self) -> int:
        """Lanes that a row of tiles takes: whole vectors, or a power of two."""
        tiles, lanes = _tiles(self.target.width, self.dilation[1]), self.stencil.lanes
        return round_up(tiles, lanes) if tiles > lanes else max(self.dilation[1], 1 << (tiles - 1).bit_length())

    @property
    def columns(self) -> int:
        """Lanes that a block takes of a row of tiles."""
        return min(self.slots, self.vectors * self.stencil.lanes)

    @property
    def rows(self) -> int:
        """Rows of tiles in a block."""
        return self.vectors * self.stencil.lanes // self.columns

    @property
    def across(self) -> int:
        """Blocks side by side; there are as many as have tiles."""
        return -(-_tiles(self.target.width, self.dilation[1]) // self.columns)

    @property
    def blocks(self) -> int:
        """Blocks of tiles."""
        return -(-self.tile_rows // self.rows) * self.across

    @property
    def row_blocks(self) -> int:
        """Register blocks of a group's output channels."""
        return -(-self.outputs // self.block)

    @property
    def line(self) -> int:
        """Pixels of a row of tiles in a block."""
        return 2 * self.columns

    @property
    def lines(self) -> int:
        """Floats of the pixels of all rows of tiles in a block, each of which is written by whole vectors."""
        return self.rows * self.line + self.stencil.lanes

    @property
    def tile(self) -> int:
        """Tiles of a block."""
        return self.vectors * self.stencil.lanes

    @property
    def fits(self) -> bool:
        """Whether blocks are whole rows of tiles, or rows whole blocks."""
        return self.tile % self.slots == 0 or self.slots % self.tile == 0

    @property
    def points(self) -> int:
        """Floats of the points of a block of tiles, and of a group."""
        return POINTS * self.channels * self.tile

    @property
    def products(self) -> int:
        """Floats of the products of a block of tiles and one of output channels."""
        return POINTS * self.block * self.tile


def _tiles(pixels: int, dilation: int) -> int:
    """Tiles along a side: each takes a pixel and the next of the same phase."""
    return pixels // (2 * dilation) * dilation + min(dilation, pixels % (2 * dilation))
