"""How products of float32 activations are cut into pieces.

Four ways to reach the inputs (`mode`):
    direct   offsets point into X itself; the first choice where a tap is contiguous and aligned;
    halo     the chunk's tile is copied with its halo into a scratch;
    im2col   every tap of the chunk's tile is copied, so that each load is aligned;
    mec      the tile is copied with its halo once for all taps near each other that lie whole vectors apart, as those
             of a column do where rows are whole vectors: aligned as well, in fewer copies (Cho and Brand 2017, "MEC:
             Memory-efficient Convolution for Deep Neural Network", section 3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from sparsec.cost.option import Work
from sparsec.kernels.cpu.products.separable import Bands
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.cpu.products.tiles import Tiles
from sparsec.kernels.emit.epilogue import Epilogue

MODES = ("direct", "halo", "im2col", "mec")


@dataclass(frozen=True)
class Tiling(Tiles):
    """How a product is cut into pieces.

    Attributes:
        stencil: the geometry.
        epilogue: what follows the product.
        mode: how the inputs are reached, one of MODES.
        vectors: SIMD vectors of pixels in a tile.
        chunk: channels of a K-chunk.
        parts: equal shares of work that the rows of the weight are dealt into, so that threads can split a tile.
        bands: cache blocks of rows: bands that the parts are gone through in, each for all tiles, so that a band's
            weights stay in the L2 cache; parts are a multiple.
        far: the activations come from beyond the L2 cache, so that those of the next tile are asked for in time.
        cold: as `far`, where one tile is all or the next one lies behind it: those of the next chunk are asked for in
            time, and the outputs before they are written first.
        half: the last vector of the last tile has half the lanes, behind which no pixel lies.
        ends: the last tile has only the vectors that the others leave; else it overlaps its neighbour where they do not
            come out even. Where tiles are copied, they have one tap.
        step: floats from a channel to the next of a copied tile, where those are not as many as are copied of it.
        sections: of a grouped convolution, see `Tiles`; every section has as many rows and as many chunks.
        joined: bands in which a depthwise convolution behind is computed, too: Y's rows are those of its scratch then,
            and Y's size is that of its output.

    """

    stencil: Stencil
    epilogue: Epilogue
    mode: str
    vectors: int
    chunk: int
    parts: int = 1
    bands: int = 1
    far: bool = False
    cold: bool = False
    half: bool = False
    sections: int = 1
    joined: Bands | None = None
    ends: bool = False
    step: int = 0

    @property
    def last(self) -> Tiling | None:
        """The last tile, where it has fewer vectors than others."""
        if not self.ends:
            return None
        rest = self.stencil.vectors - (self.tiles - 1) * self.vectors
        return replace(self, vectors=rest, ends=False, step=self.copied)

    @property
    def overlaps(self) -> bool:
        """Whether the last tile computes some of its neighbour's pixels again."""
        return self.stencil.vectors % self.vectors != 0 and not self.ends

    @property
    def widths(self) -> tuple[int, ...]:
        """Lanes of the vectors of a tile."""
        lanes = self.stencil.lanes
        return (*(lanes,) * (self.vectors - 1), lanes // 2 if self.half and not self.ends else lanes)

    @property
    def busy_vectors(self) -> float:
        """Vectors of a tile by the time that they take, on average."""
        if self.ends:
            return (self.stencil.vectors - self.half / 2) / self.tiles
        return self.widest

    @property
    def widest(self) -> float:
        """Vectors of every tile but the last."""
        return sum(self.widths) / self.stencil.lanes

    @property
    def in_place(self) -> bool:
        """Whether the result takes the residual's place: no tile is computed twice, and no partial sums wait there."""
        return self.epilogue.in_place and self.turns == 1 and not self.overlaps

    @property
    def copies(self) -> tuple[tuple[int, int], ...]:
        """What is copied of a channel, one behind the other in the scratch: the offset of each copy, and its floats."""
        taps, lanes = self.stencil.taps, self.stencil.lanes
        if self.mode == "im2col":
            return tuple((tap, self.tile) for tap in taps)
        if self.mode == "mec":
            runs: list[list[int]] = []  # of taps whole vectors apart whose tiles meet
            for tap in sorted(taps, key=lambda tap: (tap % lanes, tap)):
                if runs and (tap - runs[-1][-1]) % lanes == 0 and tap - runs[-1][-1] <= self.tile:
                    runs[-1].append(tap)
                else:
                    runs.append([tap])
            return tuple((run[0], self.tile + run[-1] - run[0]) for run in runs)
        return ((min(taps), self.halo_stride),) if self.mode == "halo" else ()

    @property
    def copied(self) -> int:
        """Floats that are copied of a channel."""
        return sum(length for _, length in self.copies)

    @property
    def reads(self) -> str:
        """The mode by which the product's loads are priced: of copies it does not matter which taps share one."""
        return "im2col" if self.mode == "mec" else self.mode

    @property
    def scratch(self) -> int:
        """Floats of the copied tile."""
        return self.chunk * (self.step or self.copied)

    @property
    def channel_step(self) -> int:
        """Floats from a channel to the next where the product reads them."""
        return self.step or self.copied or self.stencil.x_channel_stride

    @property
    def tap_offsets(self) -> tuple[int, ...]:
        """Floats from a channel's first read position to each tap."""
        if self.mode in ("direct", "halo"):
            return super().tap_offsets
        starts = list(accumulate((length for _, length in self.copies), initial=0))
        return tuple(next(start + tap - first for start, (first, length) in zip(starts, self.copies, strict=False)
                          if 0 <= tap - first <= length - self.tile and (tap - first) % self.stencil.lanes == 0)
                     for tap in self.stencil.taps)

    def traffic(self) -> Work:
        """What bringing the inputs to the product and its outputs to memory costs."""
        s = self.stencil
        memory = 4 * (s.x_size + s.y_size * (2 if self.epilogue.residual and not self.in_place else 1))
        if self.mode == "direct":
            return Work(0, 0, memory_bytes=memory)
        reads = s.segments * self.tiles * s.channels
        rows = self.copied / s.lanes - len(self.copies) * (self.vectors - self.busy_vectors)
        crossing = sum(tap % s.lanes != 0 for tap in s.taps) / len(s.taps)
        return Work(0, reads * rows * (2 + crossing), memory_bytes=memory)
