"""Dense weight times dense activations in bf16 by AMX: tiles of 16 outputs x 32 columns times 32 columns x 16 pixels.

The activations of a band of pixels are rounded to bf16 and paired once, two columns of the product a word, so that a
tile of them is 16 rows of 16 words. Columns stand as (channel, tap), copied for every tap (`im2col`), or as (tap,
channel), where a tap is an offset in the paired image (`taps`). The sums of a block of outputs and pixels, in float32,
pass through a scratch in the L1 cache to the epilogue. `codes.dense_amx` does the same on bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.products.amx import BAND_SHARE, BLOCKS, WORD_BYTES, AmxParams
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.walk import clear_border, finish_vector, finishing_kernel
from sparsec.kernels.emit import intrinsics, tiles
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, held, load, parallel, prefetch, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import Target

PAIR = 2
FINISHED = 4  # vector instructions that follow the sums of a vector
PAIRED = 4  # that round and pair two vectors
MOST_AHEAD = 8  # lines of weights that a step asks for; more of them crowd out what products wait for


@dataclass(frozen=True)
class DenseAmxParams(AmxParams):
    """A kernel; `band` counts groups of `wide` vectors of 16 pixels.

    Attributes:
        epilogue: what follows.

    """

    epilogue: Epilogue

    @property
    def groups(self) -> int:
        """Groups of vectors; the last may hold the last vector several times."""
        return -(-self.vectors // self.wide)

    @property
    def words(self) -> int:
        """Pairs of columns that are copied; the last may hold one that does not exist."""
        return -(-self.stencil.channels // PAIR) * (len(self.stencil.taps) // self.repeats)

    @property
    def columns(self) -> int:
        """Tiles of 16 pixels of a run."""
        return self.groups * self.wide

    @property
    def read(self) -> int:
        """Vectors that the taps of a band read."""
        s = self.stencil
        return self.band * self.wide + 1 + -(-s.reach // s.lanes)

    @property
    def row(self) -> int:
        """Words of a row of the paired band, where taps are offsets: an odd number of cache lines."""
        return (self.read + 1 - self.read % 2) * self.stencil.lanes

    @property
    def scratch(self) -> int:
        """Words of the paired band."""
        width = self.row if self.mode == "taps" else self.band * self.wide * self.stencil.lanes
        return self.steps * self.depth * width


def reject(_layer: StencilProduct, isa: Isa) -> str | None:
    """Why there is no such kernel, or None."""
    return None if isa.tiles_bf16 else "no products of tiles of bf16"


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Both modes with every block, as large bands as the L2 cache keeps."""
    s = layer.stencil
    offsets = len(s.taps) > 1 and s.segments == 1 and s.x_channel_stride % s.lanes == 0
    for mode in ("im2col", "taps") if offsets else ("im2col",):
        for shared in ("pixels", "outputs") if isa.threads > 1 else ("pixels",):
            for tall, wide in BLOCKS:
                one, two = (DenseAmxParams(s, mode, tall, wide, band, shared, layer.epilogue) for band in (1, 3))
                share = -(-one.groups // isa.threads) if shared == "pixels" else one.groups
                each = max(1, (two.scratch - one.scratch) // 2)
                most = max(1, int(BAND_SHARE * target.l2_bytes / WORD_BYTES - one.scratch) // each + 1)
                params = replace(one, band=-(-share // -(-share // most)))
                yield Option("dense", f"gemm/amx-{mode}", f"P={tall}x{wide} band={params.band} by={shared}", params,
                             2 * layer.weight.size, work(params, isa, target.l1_bytes), "bf16")


def pack(weight: np.ndarray, params: DenseAmxParams) -> dict[str, np.ndarray]:
    """The kernel's `values` (int32: two columns): (block, tap, step, tile of the block, output, pair of the tile)."""
    p, taps = params, len(params.stencil.taps)
    channels = -(-p.stencil.channels // PAIR)
    even = np.zeros((p.blocks * p.block, PAIR * channels, taps), np.float32)
    even[:len(weight), :p.stencil.channels] = weight.reshape(len(weight), -1, taps)
    pairs = even.reshape(-1, channels, PAIR, taps).transpose((0, 3, 1, 2) if p.mode == "taps" else (0, 1, 3, 2))
    full = np.zeros((len(even), p.repeats, p.steps * p.depth, PAIR), np.float32)
    full[:, :, :p.words] = pairs.reshape(len(even), p.repeats, p.words, PAIR)
    blocked = full.reshape(p.blocks, p.tall, tiles.ROWS, p.repeats, p.steps, p.depth, PAIR)
    narrow = blocked.transpose(0, 3, 4, 1, 2, 5, 6).astype(ml_dtypes.bfloat16)
    return {"values": narrow.ravel().view(np.int32)}


def reference(weight: np.ndarray, columns: np.ndarray, _params: DenseAmxParams) -> np.ndarray:
    """The product (outputs, n) of a weight and what pixels see, (channels * taps, n), on the kernel's operands."""
    narrow, seen = (each.astype(ml_dtypes.bfloat16).astype(np.float32) for each in (weight, columns))
    product: np.ndarray = narrow @ seen
    return product


def work(params: DenseAmxParams, isa: Isa, l1_bytes: int) -> Work:
    """What a run costs."""
    p, s = params, params.stencil
    alone, residual = p.shared == "pixels", p.epilogue.residual and not p.epilogue.in_place
    bands, copies = -(-p.groups // p.band), 1 if alone else isa.threads
    paired = copies * p.words * (p.columns if p.mode == "im2col" else bands * p.read)
    finished = p.columns * s.outputs
    return Work(fmas=PAIRED * paired + FINISHED * finished, loads=3 * paired + 4 * finished, tiles=p.products,
                l2_bytes=p.l2_bytes(l1_bytes),
                memory_bytes=(isa.threads if alone else 1) * WORD_BYTES * p.weights + 4 * s.x_size
                + 4 * s.y_size * (2 if residual else 1), kernel=f"gemm/amx-{p.mode}", pixels=s.pixels)


def build(params: DenseAmxParams, isa: Isa) -> Kernel:
    """The kernel: (values, bias, [mask], x, [residual]) -> y."""
    p = params

    def body(b: Buffers) -> None:
        parallel(isa.threads, lambda thread: _share(b, p, thread, isa.threads))

    return finishing_kernel({"values": (p.weights, "int32")}, p.stencil, p.epilogue, body,
                            intrinsics.llvm_bf16(isa) + p.roles.llvm)


def _share(b: Buffers, p: DenseAmxParams, thread: Expr, threads: int) -> None:
    """The share of a thread: some of the pixels, or of the blocks of outputs."""
    s = p.stencil
    if s.masked:
        clear_border(b, s, thread, threads)
    tiles.configure(p.roles)
    source = T.alloc_buffer((p.scratch,), "int32")
    with T.serial(0, p.scratch // s.lanes if p.steps * p.depth > p.words else 0) as vector:
        store(source, vector * s.lanes, splat(T.int32(0), s.lanes))  # NaN times a weight of zero is NaN
    sums = T.alloc_buffer((p.block * p.wide * s.lanes,), "float32")
    (low, high), blocks = p.share(p.groups, thread, threads)
    with T.serial(0, T.floordiv(high - low + (p.band - 1), p.band)) as band:
        first = T.Bind(low + band * p.band)
        count = T.Bind(T.min(p.band, high - first))
        shift = _pair_columns(b, p, source, first, count) if p.mode == "im2col" else _pair_image(b, p, source, first)
        with T.serial(*blocks) as block, T.serial(0, count) as group:
            _multiply(b, p, (source, sums), block, (first, group), shift)
            _finish(b, p, sums, block, T.Bind(first + group))
    tiles.release()


def _vector(p: DenseAmxParams, group: Expr, column: Expr) -> Expr:
    """The number of a group's vector."""
    return T.min(group * p.wide + column, p.vectors - 1)


def _pair_columns(b: Buffers, p: DenseAmxParams, source: Buffer, first: Expr, count: Expr) -> Expr:
    """The columns of every vector of the band, two a word; those of 16 pixels lie together."""
    s, taps, lanes = p.stencil, p.stencil.taps, p.stencil.lanes
    with T.serial(0, count * p.wide) as vector:
        number = T.Bind(_vector(p, first, vector))
        x = T.Bind(s.x_origin + T.floordiv(number, s.vectors) * s.x_segment_stride
                   + T.floormod(number, s.vectors) * lanes)
        target = T.Bind(vector * (p.steps * p.depth * lanes))
        with T.serial(0, p.words // len(taps)) as pair:
            # The missing partner of a last odd channel is that channel itself, with weight zero.
            rows = [T.Bind(x + T.min(pair * PAIR + i, s.channels - 1) * s.x_channel_stride) for i in range(PAIR)]
            for tap, offset in enumerate(taps):
                low, high = (load(b["x"], row + offset, lanes) for row in rows)
                store(source, target + (pair * len(taps) + tap) * lanes, intrinsics.pairs_bf16(low, high))
    return T.int32(0)


def _pair_image(b: Buffers, p: DenseAmxParams, source: Buffer, first: Expr) -> Expr:
    """What the taps of the band read, every two channels a row of words; gives the first pixel's place in a row."""
    s, lanes = p.stencil, p.stencil.lanes
    begin = T.Bind(s.x_origin + first * (p.wide * lanes) + min(s.taps))
    start = T.Bind(T.floordiv(begin, lanes))
    with (T.serial(0, p.words) as pair,
          T.serial(0, T.min(p.read, s.x_channel_stride // lanes - start)) as vector):
        low, high = (load(b["x"], T.min(pair * PAIR + i, s.channels - 1) * s.x_channel_stride
                          + (start + vector) * lanes, lanes) for i in range(PAIR))
        store(source, pair * p.row + vector * lanes, intrinsics.pairs_bf16(low, high))
    return T.Bind(begin - start * lanes)


def _multiply(b: Buffers, p: DenseAmxParams, scratch: tuple[Buffer, Buffer], block: Expr, group: tuple[Expr, Expr],
              shift: Expr) -> None:
    """The sums of a block's outputs for a group of vectors, of (source, sums); (first of the band, its number)."""
    (source, sums), (_, number) = scratch, group
    tile, lines = tiles.ROWS * p.depth, p.tall * tiles.ROWS
    weights = T.Bind(T.Cast("int64", block) * (p.repeats * p.steps * p.tall * tile))
    # Weights come from memory: every group of a block asks for a share of the next block's.
    share, next_block = -(-lines // p.band), p.repeats * p.steps * p.tall * tile
    ahead = [T.Bind(next_block + T.floormod(number * share + i, lines) * p.depth)
             for i in range(share if share <= MOST_AHEAD else 0)]
    for register in range(p.left.start):
        tiles.clear(register)
    with T.serial(0, p.steps) as step:
        for repeat in range(p.repeats):
            at = weights + (repeat * p.steps + step) * (p.tall * tile)
            for line in ahead:
                prefetch(b["values"], at + line, 2)
            for row in range(p.tall):
                tiles.load_tile(p.left[row], b["values"], at + row * tile, 4 * p.depth)
            for column in range(p.wide):
                operand = p.right[column % len(p.right)]
                tiles.load_tile(operand, source, *_place(p, step, repeat, group, column, shift))
                for row in range(p.tall):
                    tiles.add_bf16(row * p.wide + column, p.left[row], operand)
    for row, column in np.ndindex(p.tall, p.wide):
        at = (row * tiles.ROWS * p.wide + column) * tiles.WORDS
        tiles.store_tile(row * p.wide + column, sums, at, tiles.ROW_BYTES * p.wide)


def _place(p: DenseAmxParams, step: Expr, tap: int, group: tuple[Expr, Expr], column: int,
           shift: Expr) -> tuple[Expr, int]:
    """Where a tile of activations begins, and the bytes between its rows."""
    s, lanes, (first, number) = p.stencil, p.stencil.lanes, group
    if p.mode == "im2col":
        return (number * p.wide + column) * (p.steps * p.depth * lanes) + step * (p.depth * lanes), 4 * lanes
    vector = _vector(p, first + number, column) - first * p.wide
    pixel = shift + (s.taps[tap] - min(s.taps)) + vector * lanes
    return step * (p.depth * p.row) + pixel, 4 * p.row


def _finish(b: Buffers, p: DenseAmxParams, sums: Buffer, block: Expr, group: Expr) -> None:
    """The epilogue on the sums of a block for a group of vectors."""
    s, lanes = p.stencil, p.stencil.lanes
    places = []
    for column in range(p.wide):
        vector = T.Bind(_vector(p, group, column))
        start = T.Bind(T.floormod(vector, s.vectors) * lanes)
        mask = T.Bind(load(b["mask"], start, lanes)) if s.masked else None
        places.append((T.Bind(s.y_origin + T.floordiv(vector, s.vectors) * s.y_segment_stride + start), mask))
    with T.serial(0, T.min(p.block, s.outputs - block * p.block)) as i:
        row = T.Bind(block * p.block + i)
        results = []
        for column, (y, mask) in enumerate(places):
            at = T.Bind(y + row * s.y_row_stride)
            value = load(sums, (i * p.wide + column) * lanes, lanes) + splat(b["bias"][row], lanes)
            results.append((at, held(finish_vector(b, p.epilogue, value, at, mask))))
        # Stored behind all loads: the last vector may be there twice, and its residual lie where it is stored.
        for at, result in results:
            store(b["y"], at, result)


FAMILY = Family("gemm/amx", StencilProduct, ("dense",), "bf16", candidates, unstored(pack), build, reference, reject)
