"""Dense convolution with the output channels on the lanes, for images whose rows do not fill whole vectors.

`dense.py` puts pixels on the lanes and so computes the junk between rows as well: 30 % of a 7 x 7 image. Here a
register block is `rows` x `pixels` neighbours of an image times `vectors` vectors of output channels, and every
multiply-add broadcasts one input. A panel of channels is computed for all pixels, chunk of inputs by chunk, into a
scratch [position, channel]; at its end the scratch is transposed back into rows of pixels, where bias, residual and
activation follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.locality import ramp
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.cpu.products.tilings import FAR_SHARE, L1_SHARES, balanced
from sparsec.kernels.cpu.products.walk import clear_border, finish_vector, finishing_kernel
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.registers import transpose
from sparsec.kernels.emit.tir import (
    Buffer,
    Buffers,
    Expr,
    Kernel,
    add_to,
    load,
    prefetch,
    registers,
    splat,
    store,
)
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.blocks import PaddedBlocks
from sparsec.target import Target

MIN_STEPS = 64  # inner steps that a K-chunk has at least, to be worth its partial sums
LOST = (1.5, 2.5)  # inputs, as a multiple of the L2 cache, of which the next panel finds all and none there
AWAITED = 4.0  # bytes of a stream that come in the time of one that is waited for: a row at a time, pages apart
SUMS_SHARE = 0.25  # of the L2 cache that the sums of a panel may take, to stay there beside weights and inputs


@dataclass(frozen=True)
class DenseOutputsParams:
    """A kernel.

    Attributes:
        stencil: the geometry; its outputs are whole vectors.
        epilogue: what follows the product.
        target: layout of the output.
        rows: rows of an image in a register block; the image's height is a multiple.
        pixels: neighbours of each row in a register block; the image's width is a multiple.
        vectors: vectors of output channels in a register block, and in a panel.
        chunk: channels of a K-chunk.
        band: rows of an image whose sums wait in the scratch at a time; fewer than all begin with a vector.
        far: the inputs come from beyond the L2 cache, so that those of the next rows are asked for in time.

    """

    stencil: Stencil
    epilogue: Epilogue
    target: PaddedFlat
    rows: int
    pixels: int
    vectors: int
    chunk: int
    band: int
    far: bool = False

    @property
    def panel(self) -> int:
        """Output channels of a panel."""
        return self.vectors * self.stencil.lanes

    @property
    def panels(self) -> int:
        """Panels; the last may hold channels that do not exist."""
        return -(-self.stencil.outputs // self.panel)

    @property
    def chunks(self) -> int:
        """K-chunks."""
        return -(-self.stencil.channels // self.chunk)

    @property
    def row_blocks(self) -> int:
        """Register blocks side by side in an image."""
        return self.target.width // self.pixels

    @property
    def blocks(self) -> int:
        """Register blocks of a panel."""
        return self.target.batch * (self.target.height // self.rows) * self.row_blocks

    @property
    def bands(self) -> int:
        """Bands of an image."""
        return -(-self.target.height // self.band)

    @property
    def band_vectors(self) -> int:
        """Vectors of positions of a band."""
        return self.stencil.vectors if self.bands == 1 else self.band * self.target.row_stride // self.stencil.lanes

    @property
    def positions(self) -> list[int]:
        """Floats from a register block's first pixel to each."""
        return [row * self.target.row_stride + pixel for row in range(self.rows) for pixel in range(self.pixels)]


def blockings(target: PaddedFlat, isa: Isa) -> list[tuple[int, int, int]]:
    """(rows, pixels, vectors) of the register blocks that divide an image and fit the registers."""
    areas = [(r, p) for r in range(1, 5) for p in range(2, 9)
             if r * p <= 8 and target.height % r == 0 and target.width % p == 0]
    return [(r, p, v) for r, p in areas for v in range(1, 7)
            if isa.registers - 12 <= (r * p + 1) * v <= isa.registers - 3]


def band_rows(stencil: Stencil, target: PaddedFlat, rows: int, panel: int, l2_bytes: int) -> int:
    """The `band` of a kernel: all rows, or as many as the L2 cache keeps the sums of, whole vectors and blocks."""
    line = 4 * panel * target.row_stride
    limit = SUMS_SHARE * l2_bytes
    if target.batch > 1 or line * target.height <= limit:
        return target.height
    unit = lcm(lcm(target.row_stride, stencil.lanes) // target.row_stride, rows)
    return min(target.height, max(1, int(limit // (unit * line))) * unit)


def reject(layer: StencilProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if layer.target is None:
        return "it computes images only"
    if layer.stencil.outputs % isa.lanes or layer.stencil.segments > 1:
        return f"{layer.stencil.outputs} output channels do not fill whole vectors"
    fits = blockings(layer.target, isa)
    return None if fits else f"no register block divides an image of {layer.target.height} x {layer.target.width}"


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every blocking worth pricing."""
    s = layer.stencil
    assert layer.target is not None  # see `reject`
    for rows, pixels, vectors in blockings(layer.target, isa):
        column = 4 * (s.x_channel_stride + len(s.taps) * vectors * s.lanes)  # a channel's inputs and weights
        least = -(-MIN_STEPS // len(s.taps))
        band = band_rows(s, layer.target, rows, vectors * s.lanes, target.l2_bytes)
        for chunk in {balanced(s.channels, max(int(share * target.l1_bytes) // column, least)) for share in L1_SHARES}:
            far = 4 * s.x_size > FAR_SHARE * target.l2_bytes
            params = DenseOutputsParams(s, layer.epilogue, layer.target, rows, pixels, vectors, chunk, band, far)
            yield Option("dense", "gemm/outputs", f"P={rows}x{pixels} V={vectors} chunk={chunk}", params,
                         layer.weight.nbytes, work(params, target.l1_bytes, target.l2_bytes), "f32")


def recipe(params: DenseOutputsParams) -> PaddedBlocks:
    """What the kernel reads: `values`, (panel, channels * taps, channel)."""
    return PaddedBlocks(params.panels * params.panel, params.panel)


def work(params: DenseOutputsParams, l1_bytes: int, l2_bytes: int) -> Work:
    """What one run does, for the cost model to price."""
    p, s = params, params.stencil
    blocks = p.blocks * p.panels
    steps, pixels = blocks * s.inner, p.rows * p.pixels
    partial = blocks * pixels * p.vectors * p.chunks
    stored = s.vectors * s.outputs
    stays = 4 * p.chunk * len(s.taps) * p.panel <= l1_bytes
    weights = 4 * s.inner * p.panel * p.panels
    again = 0 if stays else weights * (p.blocks - 1)
    memory = weights + 4 * (s.x_size + s.y_size * (2 if p.epilogue.residual and not p.epilogue.in_place else 1))
    lost = ramp(4 * s.x_size / l2_bytes, *LOST)
    return Work(fmas=steps * pixels * p.vectors, loads=steps * (pixels + p.vectors) + 2 * partial + 8 * stored,
                groups=blocks * p.chunks, l2_bytes=again + 4 * s.lanes * (partial + stored), memory_bytes=memory,
                l3_bytes=AWAITED / p.rows * lost * 4 * s.x_size * p.panels, kernel="gemm/outputs", pixels=s.pixels)


def build(params: DenseOutputsParams, isa: Isa) -> Kernel:
    """The kernel: (values, bias, [mask], x, [residual]) -> y."""
    s = params.stencil
    values = {"values": (params.panels * params.panel * s.inner, "float32")}
    return finishing_kernel(values, s, params.epilogue, lambda b: _emit(b, params, isa))


def _emit(b: Buffers, p: DenseOutputsParams, isa: Isa) -> None:
    if isa.threads == 1:
        _panels(b, p, 0, p.panels, (0, 1))
        return
    with T.parallel(0, isa.threads) as thread:
        low, high = thread * p.panels // isa.threads, (thread + 1) * p.panels // isa.threads
        _panels(b, p, low, high, (thread, isa.threads))


def _panels(b: Buffers, p: DenseOutputsParams, low: Expr, high: Expr, thread: tuple[Expr, int]) -> None:
    s, target = p.stencil, p.target
    if s.masked:
        clear_border(b, s, *thread)
    sums = T.alloc_buffer((p.band_vectors * s.lanes * p.panel,), "float32")
    rows, blocks = target.height // p.rows, p.band // p.rows
    with T.serial(low, high) as panel, T.serial(0, p.bands) as band:
        first = T.Bind(band * (p.band_vectors * s.lanes))
        with (T.serial(0, p.chunks) as chunk, T.serial(0, target.batch) as image,
              T.serial(0, T.min(blocks, rows - band * blocks)) as row, T.serial(0, p.row_blocks) as block):
            position = T.Bind((image * target.pitch + row * p.rows) * target.row_stride + block * p.pixels)
            ordinal = T.Bind((image * rows + band * blocks + row) * p.row_blocks + block)
            last = row == T.min(blocks, rows - band * blocks) - 1
            below = p.rows * target.row_stride
            following = T.Bind(T.Select(last, p.chunk * s.x_channel_stride - row * below, below)) if p.far else None
            _register_block(b, p, sums, T.Bind(panel), chunk, position, first, ordinal, following)
        _write_panel(b, p, sums, panel, band)


def _register_block(b: Buffers, p: DenseOutputsParams, sums: Buffer, panel: Expr, chunk: Expr, position: Expr,
                    first: Expr, ordinal: Expr, following: Expr | None) -> None:
    """The products of a chunk for the ordinal-th block of a panel, `position` behind its band's `first`, added up.

    Of inputs that are far, those `following` by so many floats are asked for: the rows below, or the next chunk's.
    """
    s, lanes, target = p.stencil, p.stencil.lanes, p.target
    pixels = list(enumerate(p.positions))
    acc = registers(len(pixels) * p.vectors, lanes)
    for register in range(len(pixels) * p.vectors):
        store(acc, register * lanes, splat(0.0, lanes))
    weights = T.Bind((panel * s.inner + chunk * (p.chunk * len(s.taps))) * p.panel)
    x = T.Bind(s.x_origin + chunk * (p.chunk * s.x_channel_stride) + first + position)
    # Weights come from memory: every register block of a chunk asks for a share of the next chunk's.
    share = -(-p.vectors // p.blocks)
    next_chunk = p.chunk * len(s.taps) * p.panel
    ahead = [T.Bind(next_chunk + T.floormod(ordinal * share + i, p.vectors) * lanes) for i in range(share)]
    with T.serial(0, T.min(p.chunk, s.channels - chunk * p.chunk)) as channel:
        for row in range(p.rows) if following is not None else ():
            away = max(s.taps) + row * target.row_stride + p.pixels - 1
            prefetch(b["x"], x + channel * s.x_channel_stride + following + away)
        for tap, offset in enumerate(s.taps):
            at = weights + (channel * len(s.taps) + tap) * p.panel
            for line in ahead:
                prefetch(b["values"], at + line)
            values = [T.Bind(load(b["values"], at + v * lanes, lanes)) for v in range(p.vectors)]
            for pixel, away in pixels:
                source = splat(b["x"][x + channel * s.x_channel_stride + offset + away], lanes)
                for v in range(p.vectors):
                    add_to(acc, (pixel * p.vectors + v) * lanes, values[v] * source)

    def write(*, more: bool) -> None:
        for pixel, away in pixels:
            for v in range(p.vectors):
                at = (position + away) * p.panel + v * lanes
                total = load(acc, (pixel * p.vectors + v) * lanes, lanes)
                store(sums, at, total + load(sums, at, lanes) if more else total)

    if p.chunks == 1:
        write(more=False)
        return
    with T.If(chunk == 0):
        with T.Then():
            write(more=False)
        with T.Else():
            write(more=True)


def _write_panel(b: Buffers, p: DenseOutputsParams, sums: Buffer, panel: Expr, band: Expr) -> None:
    """Transpose the scratch into a band of the panel's rows of pixels, through the epilogue."""
    s, lanes = p.stencil, p.stencil.lanes
    existing = T.min(p.vectors, s.outputs // lanes - panel * p.vectors)
    vectors = T.min(p.band_vectors, s.vectors - band * p.band_vectors)
    with T.serial(0, existing) as group, T.serial(0, vectors) as vector:
        start = T.Bind((band * p.band_vectors + vector) * lanes)
        columns = [load(sums, (vector * lanes + i) * p.panel + group * lanes, lanes) for i in range(lanes)]
        mask = load(b["mask"], start, lanes) if s.masked else None
        for i, values in enumerate(transpose(columns, lanes)):
            row = (panel * p.vectors + group) * lanes + i
            at = s.y_origin + row * s.y_row_stride + start
            store(b["y"], at, finish_vector(b, p.epilogue, values + splat(b["bias"][row], lanes), at, mask))


FAMILY = Family("gemm/outputs", StencilProduct, ("dense",), "fp32", candidates, recipe, build, float_product, reject)
