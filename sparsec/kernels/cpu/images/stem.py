"""Dense convolution of a plain image with few channels, the first layer of a network, into the padded flat layout.

A band of input rows is dealt into phase planes in the cache, whatever stride and padding; a register block of output
channels x pixels then walks over channels and taps with loads at constant offsets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.graph.layout import PaddedFlat, PhasePlanes, round_up
from sparsec.graph.operators.epilogue import apply
from sparsec.kernels.cpu.images.padded import blank, clear_border, end_row, padded_rows, pixels, plain_rows, put
from sparsec.kernels.cpu.images.phase_split import split_image
from sparsec.kernels.cpu.images.window import Window
from sparsec.kernels.cpu.layer import Activations, CpuProduct
from sparsec.kernels.emit.activations import ACTIVATIONS
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import along, each, shared
from sparsec.kernels.emit.tir import (
    Buffer,
    Buffers,
    Expr,
    Kernel,
    add_to,
    kernel,
    load,
    prefetch,
    registers,
    splat,
    store,
)
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import Target

WRITTEN_OUT = 2048
"""Multiply-adds of a channel up to which every tap is written out; patches of 16 x 16 pixels and more are loops."""
LINE_FLOATS = 16  # of a cache line
FAR_SHARE = 0.5  # of the L2 cache: an output that takes more is no longer there when it is written again
BAND_BYTES = 128 * 1024  # of the phase planes of a band: they stay in the L2 cache beside the weights


@dataclass(frozen=True)
class StemParams:
    """A convolution of a plain input.

    Attributes:
        shape: (batch, channels, height, width) of the input.
        target: layout of the output.
        kernel: (kh, kw).
        block: (output channels, vectors of pixels) of the register block.
        strides: (sh, sw).
        begins: (top, left) padding.
        epilogue: what follows; no residual.
        far: the output lies beyond the L2 cache, so that the rows that are written next are asked for in time.

    """

    shape: tuple[int, int, int, int]
    target: PaddedFlat
    kernel: tuple[int, int]
    block: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    begins: tuple[int, int] = (0, 0)
    epilogue: Epilogue = field(default_factory=Epilogue)
    far: bool = False

    def band(self, isa: Isa) -> PhasePlanes:
        """The planes of one band of output rows; every thread gets equally many bands."""
        lanes, height, (sh, sw) = isa.lanes, self.target.height, self.strides
        stride = round_up(round_up(self.target.width, lanes) + (self.kernel[1] - 1) // sw, lanes)
        row_bytes = 4 * self.shape[1] * sh * sw * stride
        bands = round_up(-(-height * row_bytes // BAND_BYTES), isa.threads)
        width, rows = self.target.width, -(-height // bands)
        output = PaddedFlat(1, self.target.channels, rows, width, 0, stride, lanes, clean=False)
        return PhasePlanes(self.shape[1], self.kernel, self.strides, (1, 1), self.begins, output)

    @property
    def phases(self) -> list[range]:
        """The kernel's rows, by the phase of the input's rows that they meet."""
        return [range(a, self.kernel[0], self.strides[0]) for a in range(min(self.kernel[0], self.strides[0]))]


@dataclass(frozen=True, eq=False)
class StemProduct(CpuProduct):
    """A convolution of a plain image, of weight (outputs, channels * kh * kw); attributes as of `StemParams`.

    Attributes:
        pool: maxima that alone read the output, which a kernel may compute as well.
        joined: a kernel does, so that it writes their output.

    """

    shape: tuple[int, int, int, int]
    target: PaddedFlat
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    begins: tuple[int, int] = (0, 0)
    epilogue: Epilogue = field(default_factory=Epilogue)
    pool: Window | None = None
    joined: bool = False

    @property
    def inputs(self) -> tuple[Activations, ...]:
        """The image."""
        return (Activations(math.prod(self.shape)),)

    @property
    def output(self) -> Activations:
        """The image in its layout, or its maxima in theirs."""
        return Activations((self.pool.target if self.joined and self.pool else self.target).size)


def register_block(target: PaddedFlat, isa: Isa) -> tuple[int, int]:
    """(output channels, vectors of pixels) of the register block: the least cycles for a tap of all blocks."""
    vectors, outputs = -(-target.width // isa.lanes), target.channels

    def cycles(block: tuple[int, int]) -> float:
        rows, width = block
        # One multiply-add and one load a cycle, or two; four cycles of latency; some loads of pixels are unaligned.
        tap = max(rows * width, rows + 1.5 * width, 4) if isa.halves else (
            max(rows * width / 2, (rows + 2 * width) / 2, 4))
        return tap * -(-outputs // rows) * -(-vectors // width)

    blocks = [(rows, width) for width in range(1, vectors + 1) for rows in range(1, outputs + 1)
              if rows * width + rows + 1 <= isa.registers]  # sums, weights and a vector of pixels
    return min(blocks, key=cycles)


def candidates(layer: StemProduct, machine: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """The one way to run the convolution."""
    target, (rows, width) = layer.target, register_block(layer.target, isa)
    params = StemParams(layer.shape, target, layer.kernel, (rows, width), layer.strides, layer.begins, layer.epilogue,
                        4 * layer.target.size > FAR_SHARE * machine.l2_bytes)
    vectors = target.batch * target.height * -(-target.width // isa.lanes)
    products = vectors * layer.weight.size
    work = Work(products, products * (rows + 2 * width) / (rows * width), vectors * target.channels / (rows * width))
    yield Option("dense", "stem", f"R={rows} V={width}", params, layer.weight.nbytes, work, "f32")


def pack(weight: np.ndarray, params: StemParams) -> dict[str, np.ndarray]:
    """The kernel's `weight`, (block, channel, kernel row by phase, kw, output of the block)."""
    size, outputs = params.block[0], params.target.channels
    block = np.minimum(np.arange(0, outputs, size), outputs - size)[:, None] + np.arange(size)
    full = weight.reshape(outputs, params.shape[1], *params.kernel)
    by_phase = full[:, :, [row for phase in params.phases for row in phase]]
    return {"weight": np.ascontiguousarray(by_phase[block].transpose(0, 2, 3, 4, 1), np.float32).ravel()}


def build(params: StemParams, isa: Isa) -> Kernel:
    """The kernel: (weight, bias, x) -> y, x plain and flat."""
    target, source, planes, size = params.target, plain_rows(*params.shape), params.band(isa), params.block[0]
    height, blocks = planes.output.height, -(-target.channels // size)
    bands = -(-target.height // height)

    def body(b: Buffers) -> None:
        with shared(target.channels, isa) as o:
            clear_border(b["y"], target, o, isa.lanes)
        with shared(target.batch * bands, isa) as unit:
            n, first = T.Bind(unit // bands), T.Bind(unit % bands * height)
            scratch = T.alloc_buffer((planes.size,), "float32", scope="global")
            with T.serial(0, source.channels) as c:
                split_image(b["x"], source, (n, c), scratch, planes, c * planes.channel_stride,
                            params.begins[0] - first * params.strides[0], isa.lanes)
            with T.serial(0, T.min(height, target.height - first)) as row, T.serial(0, blocks) as block:
                _row(b, scratch, params, isa, n, first, row, block)

    taps = source.channels * params.kernel[0] * params.kernel[1]
    return kernel({"weight": (blocks * size * taps, "float32"), "bias": (target.channels, "float32"),
                   "x": (source.size, "float32"), "y": (target.size, "float32")}, body)


def _row(b: Buffers, scratch: Buffer, params: StemParams, isa: Isa, n: Expr, first: Expr, row: Expr,
         block: Expr) -> None:
    """Row `row` of the band that starts at row `first` of image `n`, for a block of output channels."""
    target, lanes, (outputs, width), e = params.target, isa.lanes, params.block, params.epilogue
    o, vectors = T.Bind(T.min(block * outputs, target.channels - outputs)), -(-target.width // lanes)
    starts = [padded_rows(target).start(n, o + r, first + row) for r in range(outputs)]

    def tile(index: Expr) -> None:
        count = min(width, vectors - index * width) if isinstance(index, int) else width
        for start in starts if params.far else ():
            for v in range(0, count * lanes, LINE_FLOATS):
                prefetch(b["y"], start + target.row_stride + index * width * lanes + v, 2, write=True)
        sums = _tile(b, scratch, params, isa, row, block, index * width, count)
        for r, start in enumerate(starts):
            for v in range(count):
                total = load(sums, (r * count + v) * lanes, lanes) + splat(b["bias"][o + r], lanes)
                value = ACTIVATIONS[e.activation](total, lanes, e.alpha, e.beta)
                put(b["y"], target, start, (index * width + v) * lanes, value)

    along(-(-vectors // width), 0, target.width // (width * lanes), tile, unroll=1)
    for start in starts:
        end_row(b["y"], target, start, lanes)


def _tile(b: Buffers, scratch: Buffer, params: StemParams, isa: Isa, row: Expr, block: Expr, first: Expr,
          count: int) -> Expr:
    """The sums of a register block, (output channel, vector), from vector `first` of the row on."""
    planes, lanes, outputs, channels = params.band(isa), isa.lanes, params.block[0], params.shape[1]
    (rows, columns), stride, across = params.kernel, params.strides[1], len(planes.phases[1])
    written_out = len(params.phases) * columns * outputs * count <= WRITTEN_OUT
    sums = registers(outputs * count, lanes)
    for i in range(outputs * count):
        store(sums, i * lanes, splat(0.0, lanes))

    def tap(weights: Expr, pixels: Expr) -> None:
        for v in range(count):
            pixel = load(scratch, pixels + v * lanes, lanes)
            for r in range(outputs):
                add_to(sums, (r * count + v) * lanes, splat(b["weight"][weights + r], lanes) * pixel)

    with T.serial(0, channels) as c:
        for first_phase, phases, length, done in _runs(rows, params.strides[0]):
            def phase(a: Expr, base: int = first_phase, length: int = length, done: int = done) -> None:
                with T.serial(0, length) as i:
                    taps = T.Bind(((block * channels + c) * rows + done + a * length + i) * (columns * outputs))
                    pixels = T.Bind(c * planes.channel_stride + (row + i) * planes.output.row_stride + first * lanes)
                    for m in range(-(-columns // stride)):
                        def column(n: Expr, m: int = m) -> None:
                            tap(taps + (m * stride + n) * outputs,
                                pixels + ((base + a) * across + n) * planes.plane_stride + m)

                        each(0, min(stride, columns - m * stride), column, stride * written_out)

            each(0, phases, phase, phases * written_out)
    return sums


def _runs(rows: int, stride: int) -> list[tuple[int, int, int, int]]:
    """Phases of the kernel's rows with equally many of them: the first, their number, those rows, and rows before."""
    phases, length = min(rows, stride), rows // stride
    longer = rows % stride if rows > stride else 0
    runs = [(0, longer, length + 1, 0), (longer, phases - longer, max(1, length), longer * (length + 1))]
    return [run for run in runs if run[1]]


def convolved(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, params: StemParams) -> np.ndarray:
    """The flat output of a plain input; positions that its layout leaves undefined are NaN."""
    (sh, sw), (top, left), rows, e = params.strides, params.begins, padded_rows(params.target), params.epilogue
    images = np.pad(x.reshape(params.shape), ((0, 0), (0, 0), (top, rows.height * sh + params.kernel[0]),
                                              (left, rows.width * sw + params.kernel[1])))
    total = np.zeros((rows.batch, rows.channels, rows.height, rows.width), np.float32)
    for i, j in np.ndindex(params.kernel):
        window = images[:, :, i::sh, j::sw][:, :, :rows.height, :rows.width]
        total += np.einsum("oc,nchw->nohw", weight[:, :, i, j], window)
    y = blank(params.target)
    pixels(y, rows)[...] = apply(total, bias[:, None, None], None, e.activation, e.alpha, e.beta)
    return y


FAMILY = Family("stem", StemProduct, ("dense",), "fp32", candidates, unstored(pack), build, float_product)
