"""Dense convolution of codes with the output channels on the lanes, for images that do not fill vectors of codes.

`dense.py` computes 64 pixels at a time, which leaves a quarter of a 14 x 14 or 7 x 7 image's lanes to junk. Here a
register block is one of `products.dense_outputs`: neighbours of an image times vectors of output channels. Every four
channels of the whole input are interleaved once, a word for each position, so that a tap is an offset of words. Sums
wait in a scratch [position, channel] and are transposed into the order of `emit.codes`, where the requantisation
follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.codes import finish
from sparsec.kernels.cpu.codes.finish import Finish, Place
from sparsec.kernels.cpu.codes.layer import CodesProduct, integer_product
from sparsec.kernels.cpu.codes.tilings import L1_SHARES, balanced
from sparsec.kernels.cpu.codes.walk import clear_border, mask_arguments
from sparsec.kernels.cpu.products.dense_outputs import MIN_STEPS, blockings
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit.codes import FOUR, dot, interleaved, llvm_codes, natural, splat_codes
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.registers import transpose
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, parallel, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import Target

FINISHED = 60  # cycles until the sums of a vector of codes have been turned, requantised and stored
INPUT_SHARE = 0.5  # of the L2 cache that the interleaved input may fill


@dataclass(frozen=True)
class DenseOutputsParams:
    """A kernel.

    Attributes:
        stencil: the geometry in codes; its outputs are whole vectors of integers.
        finish: what follows the sums: codes.
        target: layout of the output.
        rows, pixels, vectors: the register block, as in `products.dense_outputs`; `vectors` of integers.
        chunk: fours of channels of a K-chunk.

    """

    stencil: Stencil
    finish: Finish
    target: PaddedFlat
    rows: int
    pixels: int
    vectors: int
    chunk: int

    @property
    def words(self) -> int:
        """Lanes of a vector of integers."""
        return self.stencil.lanes // FOUR

    @property
    def panel(self) -> int:
        """Output channels of a panel."""
        return self.vectors * self.words

    @property
    def panels(self) -> int:
        """Panels; the last may hold channels that do not exist."""
        return -(-self.stencil.outputs // self.panel)

    @property
    def fours(self) -> int:
        """Fours of input channels; the last may hold some that do not exist."""
        return -(-self.stencil.channels // FOUR)

    @property
    def chunks(self) -> int:
        """K-chunks."""
        return -(-self.fours // self.chunk)

    @property
    def blocks(self) -> int:
        """Register blocks of a panel."""
        return self.target.batch * (self.target.height // self.rows) * (self.target.width // self.pixels)

    @property
    def positions(self) -> list[int]:
        """Positions from a register block's first pixel to each."""
        return [row * self.target.row_stride + pixel for row in range(self.rows) for pixel in range(self.pixels)]


def reject(layer: CodesProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    s = layer.stencil
    if layer.target is None or layer.finish.real:
        return "it computes images of codes only"
    if not isa.vnni:
        return "products of bytes take more than an instruction"
    if s.outputs % isa.lanes or s.segments > 1 or s.x_channel_stride % s.lanes:
        return f"{s.outputs} output channels do not fill whole vectors"
    fits = blockings(layer.target, isa)
    return None if fits else f"no register block divides an image of {layer.target.height} x {layer.target.width}"


def candidates(layer: CodesProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every blocking worth pricing, of inputs that the L2 cache keeps."""
    s, taps = layer.stencil, len(layer.stencil.taps)
    assert layer.target is not None  # see `reject`
    if s.x_size > INPUT_SHARE * target.l2_bytes:
        return
    for rows, pixels, vectors in blockings(layer.target, isa):
        column = FOUR * (s.x_channel_stride + taps * vectors * isa.lanes)  # the inputs and weights of four channels
        fours, least = -(-s.channels // FOUR), -(-MIN_STEPS // taps)
        for chunk in {balanced(fours, max(int(share * target.l1_bytes) // column, least)) for share in L1_SHARES}:
            params = DenseOutputsParams(s, layer.finish, layer.target, rows, pixels, vectors, chunk)
            yield Option("dense", "qgemm/outputs", f"P={rows}x{pixels} V={vectors} chunk={chunk}", params,
                         layer.weight.size, work(params))


def pack(weight: np.ndarray, params: DenseOutputsParams) -> dict[str, np.ndarray]:
    """The kernel's `values` (int32: the bytes of four channels), (panel, four, tap, output of the panel)."""
    p, taps = params, len(params.stencil.taps)
    full = np.zeros((p.panels * p.panel, p.fours * FOUR, taps), np.int8)
    full[:len(weight), :p.stencil.channels] = weight.reshape(len(weight), p.stencil.channels, taps)
    words = full.reshape(p.panels, p.panel, p.fours, FOUR, taps).transpose(0, 2, 4, 1, 3)
    return {"values": np.ascontiguousarray(words).reshape(-1).view(np.int32)}


def work(params: DenseOutputsParams) -> Work:
    """What a run costs."""
    p, s = params, params.stencil
    pixels, steps = p.rows * p.pixels, p.blocks * p.panels * p.fours * len(s.taps)
    partial = p.blocks * p.panels * pixels * p.vectors * p.chunks
    interleaved_vectors = p.fours * FOUR * s.x_channel_stride / s.lanes
    stored = s.vectors * s.outputs * (1.5 if p.finish.residual else 1)
    return Work(fmas=steps * pixels * p.vectors + 6 * interleaved_vectors + FINISHED * stored,
                loads=steps * (pixels + p.vectors) + 3 * partial + 3 * interleaved_vectors + 8 * stored,
                groups=p.blocks * p.panels * p.chunks, l2_bytes=FOUR * s.lanes * stored,
                memory_bytes=s.outputs * s.inner + s.x_size + s.y_size * (2 if p.finish.residual else 1),
                kernel="qgemm/outputs", pixels=s.pixels)


def build(params: DenseOutputsParams, isa: Isa) -> Kernel:
    """The kernel: (values, *Finish, [keep, fill, border], x, …) -> y."""
    p, s, f = params, params.stencil, params.finish
    count = p.panels * p.panel * p.fours * len(s.taps)
    arguments = {"values": (count, "int32"), **f.arguments(s.outputs)}
    if s.masked:
        arguments |= mask_arguments(s.vectors * s.lanes)
    arguments |= {**f.inputs(s.x_size, s.y_size), "y": (s.y_size, f.dtype)}

    def body(b: Buffers) -> None:
        parallel(isa.threads, lambda thread: _share(b, p, thread, isa.threads))

    return kernel(arguments, body, llvm_codes(isa))


def _share(b: Buffers, p: DenseOutputsParams, thread: Expr, threads: int) -> None:
    """The share of a thread: some of the panels, of an input that it interleaves itself."""
    s, target = p.stencil, p.target
    if s.masked:
        with T.serial(thread * s.outputs // threads, (thread + 1) * s.outputs // threads) as row:
            clear_border(b, s, row)
    source = T.alloc_buffer((p.fours * FOUR * s.x_channel_stride,), "uint8")
    _interleave(b, p, source)
    sums = T.alloc_buffer((s.vectors * s.lanes * p.panel,), "int32")
    with T.serial(thread * p.panels // threads, (thread + 1) * p.panels // threads) as panel:
        with (T.serial(0, p.chunks) as chunk, T.serial(0, target.batch) as image,
              T.serial(0, target.height // p.rows) as row, T.serial(0, target.width // p.pixels) as block):
            position = T.Bind((image * target.pitch + row * p.rows) * target.row_stride + block * p.pixels)
            _register_block(b, p, (source, sums), T.Bind(panel), chunk, position)
        _write_panel(b, p, sums, panel)


def _interleave(b: Buffers, p: DenseOutputsParams, source: Buffer) -> None:
    """Every four channels of the input as words, in the order of the positions."""
    s = p.stencil
    with T.serial(0, p.fours) as four, T.serial(0, s.x_channel_stride // s.lanes) as vector:
        # The last channel stands for those beyond it, whose weights are zero.
        rows = [T.Bind(load(b["x"], T.min(four * FOUR + i, s.channels - 1) * s.x_channel_stride + vector * s.lanes,
                            s.lanes)) for i in range(FOUR)]
        parts = [T.Bind(T.reinterpret(f"float32x{p.words}", interleaved(rows, part))) for part in range(FOUR)]
        for part in range(FOUR):
            at = FOUR * (four * s.x_channel_stride + vector * s.lanes) + part * s.lanes
            store(source, at, T.reinterpret(f"uint8x{s.lanes}", natural(parts, part)))


def _register_block(b: Buffers, p: DenseOutputsParams, scratch: tuple[Buffer, Buffer], panel: Expr, chunk: Expr,
                    position: Expr) -> None:
    """The products of a chunk for a register block of a panel, added to the sums."""
    s, words, taps, (source, sums) = p.stencil, p.words, p.stencil.taps, scratch
    pixels = list(enumerate(p.positions))
    acc = registers(len(pixels) * p.vectors, words, "int32")
    for register in range(len(pixels) * p.vectors):
        store(acc, register * words, splat(T.int32(0), words))
    weights = T.Bind((panel * p.fours + chunk * p.chunk) * (len(taps) * p.panel))
    x = T.Bind(FOUR * (s.x_origin + chunk * (p.chunk * s.x_channel_stride) + position))
    with T.serial(0, T.min(p.chunk, p.fours - chunk * p.chunk)) as four:
        for tap, offset in enumerate(taps):
            at = weights + (four * len(taps) + tap) * p.panel
            values = [T.Bind(T.reinterpret(f"uint8x{s.lanes}", load(b["values"], at + v * words, words)))
                      for v in range(p.vectors)]
            for pixel, away in pixels:
                codes = T.Bind(splat_codes(source, x + FOUR * (four * s.x_channel_stride + offset + away), words))
                for v in range(p.vectors):
                    place = (pixel * p.vectors + v) * words
                    store(acc, place, dot(load(acc, place, words), codes, values[v]))

    def write(*, more: bool) -> None:
        for pixel, away in pixels:
            for v in range(p.vectors):
                at = (position + away) * p.panel + v * words
                total = load(acc, (pixel * p.vectors + v) * words, words)
                store(sums, at, total + load(sums, at, words) if more else total)

    with T.If(chunk == 0):
        with T.Then():
            write(more=False)
        with T.Else():
            write(more=True)


def _write_panel(b: Buffers, p: DenseOutputsParams, sums: Buffer, panel: Expr) -> None:
    """The sums of a panel, row by row in the order of `emit.codes`, through what follows them."""
    s, words = p.stencil, p.words
    turned = T.alloc_buffer((words * s.lanes,), "int32")  # [channel, part, word]
    existing = T.min(p.vectors, s.outputs // words - panel * p.vectors)
    with T.serial(0, existing) as group, T.serial(0, s.vectors) as vector:
        start = T.Bind(vector * s.lanes)
        for part in range(FOUR):
            places = [FOUR * FOUR * (i // FOUR) + FOUR * part + i % FOUR for i in range(words)]
            columns = [load(sums, (start + place) * p.panel + group * words, words) for place in places]
            for i, values in enumerate(transpose(columns, words)):
                store(turned, i * s.lanes + part * words, values)
        mask = tuple(T.Bind(load(b[each], start, s.lanes)) for each in ("keep", "fill")) if s.masked else None
        with T.serial(0, words) as i:
            row = T.Bind((panel * p.vectors + group) * words + i)
            opening = T.Bind(splat(finish.begin(b, p.finish, row), words))
            results = [load(turned, i * s.lanes + part * words, words) + opening for part in range(FOUR)]
            at = T.Bind(s.y_origin + row * s.y_row_stride + start)
            finish.put(b, p.finish, results, row, Place(at, mask, T.int32(0)))


FAMILY = Family("qgemm/outputs", CodesProduct, ("dense",), "", candidates, unstored(pack), build, integer_product,
                reject)
