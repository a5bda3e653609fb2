"""Sparse weight times dense activations that are rounded to bf16 on their way to the L1 cache; sums stay float32.

The walk, the packing and the accumulators are `spmm.py`'s. That kernel is bound by its loads; here one load brings two
vectors of pixels. Two ways:
    paired   two non-zeros of a row at a time, as a pair of bf16: their inputs are interleaved in registers and
             multiplied by one vdpbf16ps;
    widened  inputs are widened in registers and multiplied with float32 weights: for processors without AVX512_BF16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import ml_dtypes
import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.cost.roofline import ROUNDED
from sparsec.kernels.cpu.products import load_four, row_blocks, spmm
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.narrow import NarrowKernel, sparse_candidates
from sparsec.kernels.cpu.products.spmm import SpmmParams
from sparsec.kernels.cpu.products.tiles import LoadTile
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.cpu.products.walk import Stage
from sparsec.kernels.emit import intrinsics
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, lanes_of, load, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import Target


@dataclass(frozen=True)
class SpmmBf16Params:
    """A sparse product kernel on bf16 activations.

    Attributes:
        spmm: the float32 kernel that it follows: mode im2col; even `unroll` where paired.
        paired: multiplies pairs of bf16, with weights rounded to bf16.

    """

    spmm: SpmmParams
    paired: bool

    @property
    def stored(self) -> SpmmParams:
        """The kernel whose tile is as wide as the copied one: whole vectors of words."""
        return self.spmm.widened(2)


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every tiling worth pricing, in pairs where the processor multiplies them."""
    return sparse_candidates(layer, target, isa, PAIRED if isa.bf16 else WIDENED)


def pack(weight: np.ndarray, params: SpmmBf16Params) -> dict[str, np.ndarray]:
    """The kernel's arrays for a weight (outputs, channels * taps); see `row_blocks.recipe`.

    Where paired, `values` (int32) holds two consecutive non-zeros of a row block's row as bf16: iterations x pairs x
    group x block.
    """
    arrays = row_blocks.recipe(params.stored).pack(weight)
    if params.paired:
        pairs = arrays["values"].reshape(-1, 2, params.spmm.group * params.spmm.block).swapaxes(1, 2)
        arrays["values"] = pairs.astype(ml_dtypes.bfloat16).ravel().view(np.int32)
    return arrays


def reference(weight: np.ndarray, columns: np.ndarray, params: SpmmBf16Params) -> np.ndarray:
    """The product (outputs, n) of a weight and what pixels see, (channels * taps, n), on the kernel's operands."""
    product: np.ndarray = (_rounded(weight) if params.paired else weight) @ _rounded(columns)
    return product


def _rounded(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def work(params: SpmmBf16Params, nonzero_blocks: int, l1_bytes: int, l2_bytes: int) -> Work:
    """What a run costs for a weight with that many non-zero R x 1 blocks."""
    p, full = params.spmm, spmm.work(params.spmm, nonzero_blocks, l1_bytes, l2_bytes)
    tiles = p.tiling.stencil.segments * p.tiling.tiles
    slots = full.fmas / (tiles * p.block * p.tiling.vectors)
    halved = tiles * slots * (p.tiling.vectors // 2 + (p.block / 2 if params.paired else 0))
    # Interleaving shares a port with the dot product, which does two multiply-adds; widening has ports of its own.
    fmas = tiles * slots * p.tiling.vectors * max(p.block / 2, (p.block + 1) / 3) if params.paired else full.fmas
    return replace(full, fmas=fmas, loads=full.loads - halved, kernel=full.kernel + ROUNDED)


def build(params: SpmmBf16Params, isa: Isa) -> Kernel:
    """The kernel: (starts, rows, indices, values, bias, [mask], x, [residual]) -> y."""
    if params.paired:
        four = load_four.suits(isa)
        stage = Stage(_bf16_tile(params, intrinsics.tile_bf16),
                      intrinsics.llvm_bf16(isa) + (load_four.llvm(isa) if four else ""))
        values = "int32"
        multiply: Callable[..., None] = partial(_multiply_pairs, _words if four else _words_apart)
    else:
        values, multiply, stage = "float32", _multiply_widened, Stage(_bf16_tile(params, _round_halves))
    emit = partial(spmm.group, multiply=partial(multiply, params.stored))
    return spmm.build_with(params.spmm, isa, {"values": (None, values)}, emit, stage)


def _bf16_tile(params: SpmmBf16Params, rounded: Callable[[Expr, Expr], Expr]) -> Callable[[Buffers, Tiling], LoadTile]:
    """A stage that copies every tap of the tile as bf16, two vectors in a vector of words made by `rounded`."""
    stored = params.stored.tiling

    def prepare(b: Buffers, t: Tiling) -> LoadTile:
        s = t.stencil
        scratch = T.alloc_buffer((stored.scratch // 2,), "int32")

        def load_tile(chunk: Expr, x: Expr) -> tuple[Expr, Expr]:
            with T.serial(0, T.min(t.chunk, s.channels - chunk * t.chunk)) as channel:
                row = T.Bind(x + (chunk * t.chunk + channel) * s.x_channel_stride)
                for tap, offset in enumerate(s.taps):
                    for pair in range(0, t.vectors, 2):
                        low, high = (load(b["x"], row + offset + min(vector, t.vectors - 1) * s.lanes, s.lanes)
                                     for vector in (pair, pair + 1))
                        place = (channel * len(s.taps) + tap) * (stored.tile // 2) + pair * s.lanes // 2
                        store(scratch, place, rounded(low, high))
            return scratch, T.int64(0)

        return load_tile

    return prepare


def _round_halves(low: Expr, high: Expr) -> Expr:
    """Words that hold one float rounded to bf16 (ties to even) in the low and another in the high half."""
    lanes = lanes_of(low)

    def integers(value: int) -> Expr:
        return splat(T.int32(value), lanes)

    def rounded(value: Expr) -> Expr:
        bits = T.reinterpret(f"int32x{lanes}", value)
        odd = T.bitwise_and(T.shift_right(bits, integers(16)), integers(1))
        return bits + integers(0x7FFF) + odd

    low_half = T.bitwise_and(T.shift_right(rounded(low), integers(16)), integers(0xFFFF))
    return T.bitwise_or(low_half, T.bitwise_and(rounded(high), integers(-0x10000)))


def _multiply_pairs(words_of: Callable[[Buffer, Expr, int, int], list[Expr]], stored: SpmmParams, b: Buffers,
                    source: Buffer, base: Expr, acc: Buffer, p: SpmmParams, step: Expr) -> None:
    """One iteration: `unroll` / 2 pairs of non-zero blocks of each of the group's row blocks."""
    lanes, vectors, pairs = p.tiling.stencil.lanes, p.tiling.vectors, p.unroll // 2
    at = [index + base for index in row_blocks.indices(b, stored, step)]
    words = words_of(b["values"], step * (pairs * p.group * p.block), pairs * p.group * p.block, lanes)
    for pair, member in np.ndindex(pairs, p.group):
        first, second = at[2 * pair * p.group + member], at[(2 * pair + 1) * p.group + member]
        target = (pair % p.sets * p.group + member) * p.block
        for half in range(-(-vectors // 2)):
            inputs = load(source, first + half * lanes, lanes), load(source, second + half * lanes, lanes)
            for r, side in np.ndindex(p.block, min(2, vectors - 2 * half)):
                weights = words[(pair * p.group + member) * p.block + r]
                register = ((target + r) * vectors + 2 * half + side) * lanes
                store(acc, register, intrinsics.dot_bf16(load(acc, register, lanes), *inputs, weights, side))


def _words(values: Buffer, first: Expr, count: int, lanes: int) -> list[Expr]:
    """Pairs of weights, each in all words of a vector: brought four at a time where they are so many."""
    if count % load_four.FOUR:
        return _words_apart(values, first, count, lanes)
    floats = load_four.broadcasts(values, first, count, lanes)
    return [T.reinterpret(f"int32x{lanes}", T.Bind(floats(slot))) for slot in range(count)]


def _words_apart(values: Buffer, first: Expr, count: int, lanes: int) -> list[Expr]:
    """As `_words`, one at a time."""
    return [splat(values[first + slot], lanes) for slot in range(count)]


def _multiply_widened(stored: SpmmParams, b: Buffers, source: Buffer, base: Expr, acc: Buffer, p: SpmmParams,
                      step: Expr) -> None:
    """One iteration: `unroll` non-zero blocks of each of the group's row blocks."""
    lanes, vectors, count = p.tiling.stencil.lanes, p.tiling.vectors, p.unroll * p.group
    for slot, index in enumerate(row_blocks.indices(b, stored, step)):
        target = (slot // p.group % p.sets * p.group + slot % p.group) * p.block
        for half in range(-(-vectors // 2)):
            words = load(source, index + base + half * lanes, lanes)
            low = T.shift_left(words, splat(T.int32(16), lanes))
            high = T.bitwise_and(words, splat(T.int32(-0x10000), lanes))
            pixels = (low, high)[:vectors - 2 * half]
            for r, (side, pixel) in ((r, each) for r in range(p.block) for each in enumerate(pixels)):
                value = splat(b["values"][(step * count + slot) * p.block + r], lanes)
                register = ((target + r) * vectors + 2 * half + side) * lanes
                add_to(acc, register, value * T.reinterpret(f"float32x{lanes}", pixel))


PAIRED = NarrowKernel(partial(SpmmBf16Params, paired=True), work, "spmm/bf16", "bf16", 2, 2, 2, 2)
WIDENED = NarrowKernel(partial(SpmmBf16Params, paired=False), work, "spmm/bf16-widened", "f32", 2, 1, 2, 4)

FAMILY = Family("spmm/bf16", StencilProduct, ("csr", "bcsr"), "bf16", candidates, unstored(pack), build, reference)
