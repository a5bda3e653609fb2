"""A 1x1 convolution and the depthwise one behind it in one kernel, band by band of image rows (Alwani et al. 2016).

What lies between the two never leaves the L2 cache: the product writes the rows of a band into a scratch, behind the
last rows of the band before; the depthwise convolution reads them there, and lags behind by the rows that its window
reaches down. Rows of zeros stand above the first band and below the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat, round_up
from sparsec.kernels.cpu.images.depthwise import DepthwiseParams, sums
from sparsec.kernels.cpu.images.padded import clear_border, end_row, fill, junk_fits, padded_rows, put
from sparsec.kernels.cpu.images.window import MOST_ROWS, Tile, Window
from sparsec.kernels.emit.activations import finished
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import along
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, load, splat, store

WRITTEN = 25
"""Taps of a window that are written out."""


@dataclass(frozen=True)
class Bands:
    """How a product's image is cut into bands of rows.

    Attributes:
        behind: the depthwise convolution; its source is the image between the two.
        tile_rows: rows of the image between that a tile of the product computes.
        rows: rows of the output of a band.

    """

    behind: DepthwiseParams
    tile_rows: int
    rows: int

    @property
    def between(self) -> int:
        """Rows of the image between that a band adds."""
        return self.rows * self.behind.window.strides[0]

    @property
    def count(self) -> int:
        """Bands."""
        return self.behind.window.target.height // self.rows

    @property
    def lag(self) -> int:
        """Rows of the output that wait for the next band."""
        w = self.behind.window
        return -(-max(0, w.reach[0] - w.begins[0] - (w.strides[0] - 1)) // w.strides[0])

    @property
    def kept(self) -> int:
        """Rows of the image between that are kept of the band before, whole tiles."""
        w = self.behind.window
        return round_up(self.lag * w.strides[0] + w.begins[0], self.tile_rows)

    @property
    def below(self) -> int:
        """Rows of zeros below the image."""
        w = self.behind.window
        return max(0, (w.target.height - 1) * w.strides[0] - w.begins[0] + w.reach[0] + 1 - w.source.height)

    @property
    def block(self) -> int:
        """Rows of the output that are computed at a time: as few rows between as possible are loaded."""
        w = self.behind.window
        return min(range(1, min(MOST_ROWS, self.rows - self.lag) + 1),
                   key=lambda rows: -(-self.rows // rows) * ((rows - 1) * w.strides[0] + w.reach[0] + 1))

    @property
    def scratch(self) -> PaddedFlat:
        """The layout of the rows between that are held."""
        source = self.behind.window.source
        return replace(source, height=self.kept + self.between + self.below)

    @property
    def window(self) -> Window:
        """The depthwise convolution over the scratch, with rows of the output counted from the band's first."""
        w = self.behind.window
        return replace(w, source=self.scratch, begins=(w.begins[0] - self.kept, w.begins[1]))


def reject(p: DepthwiseParams, vectors: int) -> str | None:
    """Why tiles of so many vectors cannot be computed in bands, or None."""
    w, source = p.window, p.window.source
    if source.batch != 1 or source.row_stride != source.width or source.row_pad:
        return "rows of the image between stand apart"
    if w.target.height * w.strides[0] != source.height or w.begins[0] > w.reach[0]:
        return "the depthwise convolution is padded otherwise"
    if w.kernel[0] * w.kernel[1] > WRITTEN or p.epilogue.residual:
        return "the depthwise convolution has a large window or a residual"
    if not junk_fits(w.target):
        return "a thread that clears a channel's border would clear rows of another's"
    return None if vectors * source.lanes % source.width == 0 else "tiles are no whole rows"


def bands_of(p: DepthwiseParams, vectors: int, threads: int, nbytes: int) -> list[Bands]:
    """The ways to cut an image into bands of at most so many bytes, the largest first."""
    if reject(p, vectors) is not None:
        return []
    source, height, stride = p.window.source, p.window.target.height, p.window.strides[0]
    tile_rows = vectors * source.lanes // source.width
    found = [Bands(p, tile_rows, rows) for rows in range(height, 0, -1)
             if height % rows == 0 and rows * stride % tile_rows == 0 and height // rows % threads == 0]
    return [each for each in found if each.rows > each.lag and 4 * each.scratch.size <= nbytes
            and (threads == 1 or each.count // threads * each.between >= each.kept)]  # a thread computes those again


def arguments(p: DepthwiseParams) -> dict[str, tuple[int | None, str]]:
    """The depthwise convolution's arrays, as arguments of a kernel."""
    channels, (kh, kw) = p.window.target.channels, p.window.kernel
    return {"behind": (channels * kh * kw, "float32"), "behind_bias": (channels, "float32")}


ComputeTile = Callable[[Expr, Expr], None]
"""Emits a tile of the product: from its first pixel to where that lies in a channel of the scratch."""


def emit(b: Buffers, bands: Bands, isa: Isa, scratch: Buffer, thread: Expr, compute: ComputeTile) -> None:
    """Emit a thread's bands."""
    w, held, each = bands.behind.window, padded_rows(bands.scratch), bands.between // bands.tile_rows
    low, high = thread * bands.count // isa.threads, (thread + 1) * bands.count // isa.threads
    channels, again = w.target.channels, bands.kept // bands.tile_rows
    with T.serial(thread * channels // isa.threads, (thread + 1) * channels // isa.threads) as c:
        clear_border(b["y"], w.target, c, isa.lanes)
    with T.serial(low, high) as band:
        first = T.Bind(T.Select(band == low, T.min(band, 1) * again, 0)) if isa.threads > 1 else 0
        _rows_of_zeros(scratch, bands, band == 0, 0, bands.kept)
        with T.serial(0, each + first) as index:
            row = T.Bind((index - first) * bands.tile_rows)
            compute(T.Bind((band * bands.between + row) * w.source.width), T.Bind((bands.kept + row) * w.source.width))
        _rows_of_zeros(scratch, bands, band == bands.count - 1, bands.kept + bands.between, bands.below)
        with T.serial(0, channels) as c:
            _convolve(b, bands, scratch, band, c)
            keep, source = bands.kept * held.row_stride, held.start(0, c, bands.between)
            along(keep // isa.lanes, 0, keep // isa.lanes, lambda v: store(
                scratch, held.start(0, c, 0) + v * isa.lanes, load(scratch, source + v * isa.lanes, isa.lanes)))


def _rows_of_zeros(scratch: Buffer, bands: Bands, where: Expr, first: int, count: int) -> None:
    held = padded_rows(bands.scratch)
    if count:
        with T.If(where), T.Then(), T.serial(0, held.channels) as c:
            fill(scratch, held.start(0, c, first), count * held.row_stride, bands.scratch.lanes)


def _convolve(b: Buffers, bands: Bands, scratch: Buffer, band: Expr, c: Expr) -> None:
    """The rows of a band's output for one channel: those that waited for it, too."""
    p, w, block = bands.behind, bands.window, bands.block
    size, target, lanes = w.kernel[0] * w.kernel[1], padded_rows(w.target), w.target.lanes
    weights = [T.Bind(splat(b["behind"][c * size + tap], lanes)) for tap in range(size)]
    bias = T.Bind(splat(b["behind_bias"][c], lanes))
    low = T.Bind(T.Select(band == 0, 0, -bands.lag))
    high = T.Bind(T.Select(band == bands.count - 1, bands.rows, bands.rows - bands.lag))
    with T.serial(0, T.floordiv(high - low + (block - 1), block)) as index:
        row = T.Bind(T.min(low + index * block, high - block))
        starts = [target.start(0, c, band * bands.rows + row + i) for i in range(block)]

        def vector(t: Expr) -> None:
            for start, total in zip(starts, sums(scratch, w, Tile(0, c, row, t, lanes), weights, bias, block),
                                    strict=True):
                put(b["y"], w.target, start, t * lanes, finished(p.epilogue, total, lanes, None))

        along(-(-w.target.width // lanes), *w.inner_vectors(0, lanes), vector, unroll=1)
        for start in starts:
            end_row(b["y"], w.target, start, lanes)
