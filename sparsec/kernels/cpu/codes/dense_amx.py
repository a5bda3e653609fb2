"""Dense weight times codes by AMX: tiles of 16 outputs x 64 bytes of K times tiles of K x 16 pixels.

The codes of a band of pixels are interleaved once, four columns of the product a word, so that a tile of them is 16
rows of 16 words. Columns stand as (channel, tap), copied for every tap (`im2col`), or as (tap, channel), where a tap is
an offset in the interleaved image (`taps`). A block of outputs then goes through the band, 64 pixels at a time, whose
sums pass through a scratch in the L1 cache to what follows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.codes import finish
from sparsec.kernels.cpu.codes.finish import Finish, Place
from sparsec.kernels.cpu.codes.layer import CodesProduct, integer_product
from sparsec.kernels.cpu.codes.walk import clear_border, mask_arguments
from sparsec.kernels.cpu.products.amx import BAND_SHARE, BLOCKS, AmxParams
from sparsec.kernels.emit import tiles
from sparsec.kernels.emit.codes import FOUR, SIDES, interleaved, llvm_codes, reordered
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, parallel, prefetch, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import Target

FINISHED = 26  # vector instructions until the sums of a vector of codes have been requantised and stored
ADDED = 18  # more with a residual
AHEAD = 6  # steps that weights are asked for ahead of their use, where each step reads them for one tap alone
TURNED = {"im2col": 16, "taps": 24}  # what interleaving four vectors of codes takes, by one port of two


@dataclass(frozen=True)
class DenseAmxParams(AmxParams):
    """A kernel; `stencil` is the geometry in codes, `band` counts vectors of 64 pixels.

    Attributes:
        finish: what follows the sums.

    """

    finish: Finish

    @property
    def words(self) -> int:
        """Fours of columns that are interleaved; the last may hold some that do not exist."""
        return -(-self.stencil.inner // self.repeats // FOUR)

    @property
    def columns(self) -> int:
        """Tiles of 16 pixels of a run."""
        return FOUR * self.vectors

    @property
    def read(self) -> int:
        """Vectors that the taps of a band read."""
        s = self.stencil
        return self.band + 1 + -(-s.reach // s.lanes)

    @property
    def row(self) -> int:
        """Pixels of a row of words of the interleaved band: an odd number of cache lines."""
        return self.read * self.stencil.lanes + tiles.WORDS

    @property
    def scratch(self) -> int:
        """Bytes of the interleaved band."""
        rows = self.steps * self.depth
        return FOUR * rows * (self.row if self.mode == "taps" else self.band * self.stencil.lanes)


def reject(_layer: CodesProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    return None if isa.tiles else "no products of tiles of bytes"


def candidates(layer: CodesProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Both modes with every block, as large bands as the L2 cache keeps."""
    s = layer.stencil
    vectors = s.segments * s.vectors
    offsets = len(s.taps) > 1 and s.segments == 1 and not layer.finish.real and s.x_channel_stride % s.lanes == 0
    for mode in ("im2col", "taps") if offsets else ("im2col",):
        for shared in ("pixels", "outputs") if isa.threads > 1 else ("pixels",):
            share = -(-vectors // isa.threads) if shared == "pixels" else vectors
            for tall, wide in BLOCKS:
                one = DenseAmxParams(s, mode, tall, wide, 1, shared, layer.finish)
                each = replace(one, band=2).scratch - one.scratch
                most = max(1, int(BAND_SHARE * target.l2_bytes - one.scratch) // each + 1)
                params = replace(one, band=-(-share // -(-share // most)))
                yield Option("dense", f"qgemm/amx-{mode}", f"P={tall}x{wide} band={params.band} by={shared}", params,
                             layer.weight.size, work(params, isa, target.l1_bytes))


def pack(weight: np.ndarray, params: DenseAmxParams) -> dict[str, np.ndarray]:
    """The kernel's `values` (int8): (block, tap, step, tile of the block, output, column of the tile)."""
    p, s = params, params.stencil
    full = np.zeros((p.blocks * p.block, p.repeats, p.steps * p.depth * FOUR), np.int8)
    columns = weight.reshape(len(weight), s.inner // p.repeats, p.repeats).swapaxes(1, 2)
    full[:len(weight), :, :columns.shape[2]] = columns
    blocked = full.reshape(p.blocks, p.tall, tiles.ROWS, p.repeats, p.steps, p.depth * FOUR)
    return {"values": np.ascontiguousarray(blocked.transpose(0, 3, 4, 1, 2, 5)).ravel()}


def work(params: DenseAmxParams, isa: Isa, l1_bytes: int) -> Work:
    """What a run costs."""
    p, s, f = params, params.stencil, params.finish
    alone = p.shared == "pixels"
    bands, copies = -(-p.vectors // p.band), 1 if alone else isa.threads
    turned = copies * p.words * (p.vectors if p.mode == "im2col" else bands * p.read)
    finished = p.vectors * s.outputs
    shuffles = TURNED[p.mode] * turned + finished * (FINISHED + (ADDED if f.residual or f.shifted else 0))
    return Work(fmas=shuffles, loads=8 * turned + 6 * finished, tiles=p.products,
                l2_bytes=p.l2_bytes(l1_bytes),
                memory_bytes=(isa.threads if alone else 1) * FOUR * p.weights + s.x_size
                + (4 if f.real else 1) * s.y_size * (2 if f.residual else 1),
                kernel=f"qgemm/amx-{p.mode}", pixels=s.pixels)


def build(params: DenseAmxParams, isa: Isa) -> Kernel:
    """The kernel: (values, *Finish, [keep, fill, border], x, …) -> y, [ends]."""
    p, s, f = params, params.stencil, params.finish
    arguments = {"values": (FOUR * p.weights, "int8"), **f.arguments(s.outputs)}
    if s.masked:
        arguments |= mask_arguments(s.vectors * s.lanes)
    arguments |= {**f.inputs(s.x_size, s.y_size), "y": (s.y_size, f.dtype)}
    if f.coded:
        arguments |= {"ends": (isa.threads * SIDES * isa.lanes, "float32")}

    def body(b: Buffers) -> None:
        parallel(isa.threads, lambda thread: _share(b, p, thread, isa.threads))

    return kernel(arguments, body, llvm_codes(isa) + p.roles.llvm)


def _share(b: Buffers, p: DenseAmxParams, thread: Expr, threads: int) -> None:
    """The share of a thread: some of the pixels, or of the blocks of outputs."""
    s, words = p.stencil, tiles.WORDS
    if s.masked:
        with T.serial(thread * s.outputs // threads, (thread + 1) * s.outputs // threads) as row:
            clear_border(b, s, row)
    ends = thread * (SIDES * words)
    for side in range(SIDES if p.finish.coded else 0):
        store(b["ends"], ends + side * words, splat(0.0, words))
    tiles.configure(p.roles)
    source = T.alloc_buffer((p.scratch,), "uint8")
    openings = T.alloc_buffer((p.block * words,), "int32")
    sums = T.alloc_buffer((p.block * s.lanes,), "int32")
    (low, high), blocks = p.share(p.vectors, thread, threads)
    with T.serial(0, T.floordiv(high - low + (p.band - 1), p.band)) as band:
        first = T.Bind(low + band * p.band)
        count = T.Bind(T.min(p.band, high - first))
        shift = _copy_columns(b, p, source, first, count) if p.mode == "im2col" else _copy_image(b, p, source, first)
        with T.serial(*blocks) as block:
            with T.serial(0, p.block) as i:
                row = T.min(block * p.block + i, s.outputs - 1)
                store(openings, i * words, splat(finish.begin(b, p.finish, row), words))
            with T.serial(0, count) as vector:
                _multiply(b, p, (source, openings, sums), block, vector, shift)
                below = p.block * s.y_row_stride - vector * s.lanes
                ahead = T.Bind(T.if_then_else(vector + 1 < count, s.lanes, below))
                _finish(b, p, (sums, ends), block, T.Bind(first + vector), ahead)
    tiles.release()


def _copy_columns(b: Buffers, p: DenseAmxParams, source: Buffer, first: Expr, count: Expr) -> Expr:
    """The columns of every vector of the band, four a word; those of 16 pixels lie together."""
    s, taps, lanes = p.stencil, p.stencil.taps, p.stencil.lanes
    part_size = p.steps * p.depth * lanes

    def columns(x: Expr, target: Expr, count: int) -> None:
        """The fours of `count` columns from the channel at `x` on."""
        for four in range(-(-count // FOUR)):
            at = [min(FOUR * four + i, count - 1) for i in range(FOUR)]  # weights of columns beyond the last are zero
            rows = [T.Bind(load(b["x"], x + k // len(taps) * s.x_channel_stride + taps[k % len(taps)], lanes))
                    for k in at]
            for part in range(FOUR):
                store(source, target + part * part_size + four * lanes, interleaved(rows, part))

    with T.serial(0, count) as vector:
        number = T.Bind(first + vector)
        x = T.Bind(s.x_origin + T.floordiv(number, s.vectors) * s.x_segment_stride
                   + T.floormod(number, s.vectors) * lanes)
        target = T.Bind(vector * (FOUR * part_size))
        with T.serial(0, s.channels // FOUR) as four:
            columns(T.Bind(x + four * (FOUR * s.x_channel_stride)), target + four * (len(taps) * lanes),
                    FOUR * len(taps))
        rest, whole = s.channels % FOUR, s.channels // FOUR
        if rest:
            columns(x + whole * FOUR * s.x_channel_stride, target + whole * len(taps) * lanes, rest * len(taps))
    return T.int32(0)


def _copy_image(b: Buffers, p: DenseAmxParams, source: Buffer, first: Expr) -> Expr:
    """What the taps of the band read, every four channels a row of words; gives the first pixel's place in a row."""
    s, lanes = p.stencil, p.stencil.lanes
    begin = T.Bind(s.x_origin + first * lanes + min(s.taps))
    start = T.Bind(T.floordiv(begin, lanes))
    with (T.serial(0, p.words) as four,
          T.serial(0, T.min(p.read, s.x_channel_stride // lanes - start)) as vector):
        # The last channel stands for those beyond it, whose weights are zero.
        rows = [T.Bind(reordered(load(b["x"], T.min(four * FOUR + i, s.channels - 1) * s.x_channel_stride
                                      + (start + vector) * lanes, lanes))) for i in range(FOUR)]
        for part in range(FOUR):
            store(source, FOUR * (four * p.row + vector * lanes) + part * lanes, interleaved(rows, part))
    return T.Bind(begin - start * lanes)


def _multiply(b: Buffers, p: DenseAmxParams, scratch: tuple[Buffer, Buffer, Buffer], block: Expr, vector: Expr,
              shift: Expr) -> None:
    """The sums of a block's outputs for a vector of pixels, of (source, openings, sums)."""
    lanes, (source, openings, sums) = p.stencil.lanes, scratch
    tile = tiles.ROWS * p.depth * FOUR
    weights = T.Bind(T.Cast("int64", block) * (p.repeats * p.steps * p.tall * tile))
    for begin in range(0, FOUR, p.wide):
        for register in range(p.left.start):
            tiles.load_tile(register, openings, register // p.wide * tiles.ROWS * tiles.WORDS, tiles.ROW_BYTES)
        with T.serial(0, p.steps) as step:
            for repeat in range(p.repeats):
                at = weights + (repeat * p.steps + step) * (p.tall * tile)
                for line in range(p.tall * tiles.ROWS if begin == 0 and p.mode == "im2col" else 0):
                    prefetch(b["values"], at + AHEAD * p.tall * tile + line * tiles.ROW_BYTES)
                for row in range(p.tall):
                    tiles.load_tile(p.left[row], b["values"], at + row * tile, FOUR * p.depth)
                for column in range(p.wide):
                    operand = p.right[column % len(p.right)]
                    tiles.load_tile(operand, source, *_place(p, step, repeat, vector, begin + column, shift))
                    for row in range(p.tall):
                        tiles.add_bytes(row * p.wide + column, p.left[row], operand)
        for row, column in np.ndindex(p.tall, p.wide):
            at = row * tiles.ROWS * lanes + (begin + column) * tiles.WORDS
            tiles.store_tile(row * p.wide + column, sums, at, FOUR * lanes)


def _place(p: DenseAmxParams, step: Expr, tap: int, vector: Expr, part: int, shift: Expr) -> tuple[Expr, int]:
    """Where a tile of codes begins, and the bytes between its rows."""
    s, lanes = p.stencil, p.stencil.lanes
    if p.mode == "im2col":
        return (vector * FOUR + part) * (p.steps * p.depth * lanes) + step * (p.depth * lanes), lanes
    pixel = shift + (s.taps[tap] - min(s.taps)) + vector * lanes + part * tiles.WORDS
    return FOUR * (step * (p.depth * p.row) + pixel), FOUR * p.row


def _finish(b: Buffers, p: DenseAmxParams, scratch: tuple[Buffer, Expr], block: Expr, vector: Expr,
            ahead: Expr) -> None:
    """What follows the sums of a block for a vector of pixels, of (sums, ends); the next lies so far `ahead` in y."""
    s, lanes, words, (sums, ends) = p.stencil, p.stencil.lanes, tiles.WORDS, scratch
    start = T.Bind(T.floormod(vector, s.vectors) * lanes)
    y = T.Bind(s.y_origin + T.floordiv(vector, s.vectors) * s.y_segment_stride + start)
    mask = tuple(T.Bind(load(b[each], start, lanes)) for each in ("keep", "fill")) if s.masked else None
    with T.serial(0, T.min(p.block, s.outputs - block * p.block)) as i:
        row = T.Bind(block * p.block + i)
        results = [load(sums, i * lanes + part * words, words) for part in range(FOUR)]
        place = Place(T.Bind(y + row * s.y_row_stride), mask, ends, natural=p.mode == "taps")
        _request(b, p.finish, place.at + ahead)
        finish.put(b, p.finish, results, row, place)


def _request(b: Buffers, f: Finish, at: Expr) -> None:
    """Ask for what a row's next vector, or the next block's, reads and writes: a block has more than are followed."""
    for line in range(FOUR if f.real else 1):
        for name in ("residual", "y") if f.residual else ("y",):
            prefetch(b[name], at + line * tiles.WORDS, write=name == "y")


FAMILY = Family("qgemm/amx", CodesProduct, ("dense",), "", candidates, unstored(pack), build, integer_product, reject)
