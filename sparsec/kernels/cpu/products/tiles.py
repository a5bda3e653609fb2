"""The tiles of pixels that products of floats and of codes walk over alike: their sizes, and the loops.

A product computes a tile of `vectors` SIMD vectors of pixels at a time, and walks the inputs in chunks of channels.
Within a chunk its rows are dealt into parts, so that threads can share a tile.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Expr

LoadTile = Callable[[Expr, Expr], tuple[Buffer, Expr]]
"""Emits what makes a chunk's inputs of a tile ready, from (chunk, x): the buffer that the product reads, and where."""
Part = Callable[[Expr], None]
"""Emits the product of one part of the rows."""
Enter = Callable[[Expr, Expr, Expr, Expr], Part]
"""Emits what begins a chunk of a tile, from (chunk, x, y, start): where the tile begins in X and in Y, and its first
pixel."""
Begin = Callable[[Expr, int], tuple[Enter, Enter]]
"""Emits what a thread does first, from (its number, threads), and gives what begins a chunk of a tile, and of the last
one where that has fewer vectors."""


class Tiles:
    """What tilings have in common; the attributes are those of the subclasses, frozen dataclasses.

    Attributes:
        stencil: the geometry.
        mode: how the inputs are reached: "direct" where they lie, else by copies.
        vectors: SIMD vectors of pixels in a tile.
        chunk: channels of a K-chunk.
        parts: equal shares of work that the rows of the weight are dealt into.
        sections: runs of whole groups of channels; the rows of one read no other's channels, and no chunk lies in two.
        ends: the last tile of a segment has fewer vectors, else it overlaps its neighbour.

    """

    stencil: Stencil
    mode: str
    vectors: int
    chunk: int
    parts: int
    sections: int = 1
    ends: bool = False

    @property
    def tile(self) -> int:
        """Pixels of a tile."""
        return self.vectors * self.stencil.lanes

    @property
    def chunks(self) -> int:
        """K-chunks."""
        return -(-self.stencil.channels // self.chunk)

    @property
    def turns(self) -> int:
        """K-chunks that a row reads."""
        return self.chunks // self.sections

    @property
    def tiles(self) -> int:
        """Tiles of one segment."""
        return -(-self.stencil.vectors // self.vectors)

    @property
    def halo_stride(self) -> int:
        """Elements of a channel in the halo scratch."""
        return round_up(self.tile + self.stencil.reach, self.stencil.lanes)

    @property
    def channel_step(self) -> int:
        """Elements from a channel to the next where the product reads them."""
        return self.stencil.x_channel_stride if self.mode == "direct" else self.halo_stride

    @property
    def tap_offsets(self) -> tuple[int, ...]:
        """Elements from a channel's first read position to each tap."""
        return tuple(tap - min(self.stencil.taps) for tap in self.stencil.taps)

    @property
    def crossing(self) -> float:
        """Share of the product's loads that cross a cache line, because their tap is no whole vector away."""
        base = self.stencil.x_origin + min(self.stencil.taps) if self.mode == "direct" else 0
        return sum((base + tap) % self.stencil.lanes != 0 for tap in self.tap_offsets) / len(self.tap_offsets)


def walk(t: Tiles, isa: Isa, begin: Begin, bands: int = 1) -> None:
    """Emit the loops over tiles, chunks and parts; threads share the units of work, the parts of all tiles, evenly.

    With `bands` the parts are gone through in so many bands, each for all tiles; parts are a multiple.
    """
    units = t.stencil.segments * t.tiles * (t.parts // bands)
    if isa.threads == 1:
        _share(t, 0, units, begin(0, 1), bands)
        return
    with T.parallel(0, isa.threads) as thread:
        low, high = thread * units // isa.threads, (thread + 1) * units // isa.threads
        _share(t, low, high, begin(thread, isa.threads), bands)


def _share(t: Tiles, low: Expr, high: Expr, enters: tuple[Enter, Enter], bands: int) -> None:
    """Units [low, high) of every band; a tile has one unit for each of the band's parts."""
    s, parts = t.stencil, t.parts // bands
    with (T.serial(0, bands) as band,
          T.serial(T.floordiv(low, parts), T.floordiv(high + (parts - 1), parts)) as tile):
        segment = T.floordiv(tile, t.tiles)
        first = T.floormod(tile, t.tiles) * t.vectors
        start = T.Bind((first if t.ends else T.min(first, s.vectors - t.vectors)) * s.lanes)
        x = T.Bind(s.x_origin + segment * s.x_segment_stride + start)
        y = T.Bind(s.y_origin + segment * s.y_segment_stride + start)
        begin = T.Bind(T.max(low - tile * parts, 0))
        end = T.Bind(T.min(high - tile * parts, parts))

        def multiply(enter: Enter) -> None:
            with T.serial(0, t.chunks) as chunk:
                product = enter(chunk, x, y, start)
                with T.serial(0, end - begin) as unit:
                    product(T.Bind(band * parts + begin + unit))

        every, last = enters
        if not t.ends:
            multiply(every)
            return
        with T.If(T.floormod(tile, t.tiles) == t.tiles - 1):
            with T.Then():
                multiply(last)
            with T.Else():
                multiply(every)
