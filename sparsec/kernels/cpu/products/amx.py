"""What dense products by AMX's tiles share, on codes and in bf16: blocks of tiles, their registers, who takes which.

A block is `tall` tiles of 16 outputs by `wide` tiles of 16 pixels, whose sums stay in registers. Columns of the product
are copied as words of 32 bits, once for a band of pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit import tiles
from sparsec.kernels.emit.tir import Expr

BLOCKS = ((2, 2), (1, 4))
BAND_SHARE = 0.4  # of the L2 cache, which the copied columns of a band may fill
WORD_BYTES = 4


@dataclass(frozen=True)
class AmxParams(ABC):
    """How tiles go through a product.

    Attributes:
        stencil: the geometry.
        mode: "im2col", which copies columns for every tap, or "taps", where a tap is an offset in the copy.
        tall, wide: tiles of a block: 16 outputs each, 16 pixels each.
        band: pixels whose columns are copied at once, in the kernel's units.
        shared: what threads share, "pixels" or "outputs".

    """

    stencil: Stencil
    mode: str
    tall: int
    wide: int
    band: int
    shared: str

    @property
    @abstractmethod
    def words(self) -> int:
        """Words of columns that are copied; the last may hold columns that do not exist."""

    @property
    @abstractmethod
    def columns(self) -> int:
        """Tiles of 16 pixels of a run."""

    @property
    def vectors(self) -> int:
        """Vectors of pixels of all segments."""
        return self.stencil.segments * self.stencil.vectors

    @property
    def block(self) -> int:
        """Outputs of a block."""
        return self.tall * tiles.ROWS

    @property
    def blocks(self) -> int:
        """Blocks of outputs; the last may hold some that do not exist."""
        return -(-self.stencil.outputs // self.block)

    @property
    def repeats(self) -> int:
        """How often the columns of a copy are multiplied: once for every tap that is an offset."""
        return len(self.stencil.taps) if self.mode == "taps" else 1

    @property
    def steps(self) -> int:
        """Tiles that the columns of a copy take."""
        return -(-self.words // tiles.WORDS)

    @property
    def depth(self) -> int:
        """Words of a tile."""
        return -(-self.words // self.steps)

    @property
    def weights(self) -> int:
        """Words of the packed weight, with those that do not exist."""
        return self.blocks * self.block * self.repeats * self.steps * self.depth

    @property
    def products(self) -> int:
        """Products of tiles of a run."""
        return self.blocks * self.tall * self.columns * self.repeats * self.steps

    @property
    def left(self) -> range:
        """Registers of weights, behind those of the sums."""
        return range(self.tall * self.wide, self.tall * self.wide + self.tall)

    @property
    def right(self) -> range:
        """Registers of pixels."""
        return range(self.left.stop, tiles.TILES)

    @property
    def roles(self) -> tiles.Roles:
        """What the registers hold."""
        return tiles.Roles(self.left, self.right, self.depth)

    def l2_bytes(self, l1_bytes: int) -> float:
        """What products wait for of the L2 cache."""
        # Rows at the offset of a tap cross cache lines; a block's weights stay in the L1 cache if there is room.
        pixels = (2 if self.mode == "taps" else 1) / self.tall
        weights = 1 / self.wide if WORD_BYTES * self.weights / self.blocks > l1_bytes / 2 else 0
        return self.products * tiles.ROWS * tiles.ROW_BYTES * (pixels + weights)

    def share(self, pixels: int, thread: Expr, threads: int) -> tuple[tuple[Expr, Expr], tuple[Expr, Expr]]:
        """From where to where a thread goes in units of pixels, and in blocks of outputs."""
        def part(count: int) -> tuple[Expr, Expr]:
            return T.Bind(thread * count // threads), T.Bind((thread + 1) * count // threads)

        return (part(pixels), (0, self.blocks)) if self.shared == "pixels" else ((0, pixels), part(self.blocks))
