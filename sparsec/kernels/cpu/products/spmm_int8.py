"""Sparse weight times dense activations in 8-bit integers: four non-zeros of a row at a time.

Activations are quantised on their way to the L1 cache, x = scale * (u - zero), and weights per row, w = scale * q with
q in [-127, 127]. A sum of q * (u - zero) is an exact 32-bit integer; the part without u is what its accumulators start
from. Scales of activations are
    dynamic: one for every pixel (or token) of a tile and chunk of channels, its largest magnitude at the largest u;
    static:  one for every channel, from the range that samples had; values outside of it saturate. These scales go into
             the weights before those are quantised.
u has 8 bits where the processor has dot products of bytes (AVX512_VNNI, AVX-VNNI), else 7, so that the sum of two
products fits 16 bits. The walk and the packing are `spmm.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.products import row_blocks, spmm
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.narrow import NarrowKernel, sparse_candidates
from sparsec.kernels.cpu.products.spmm import SpmmParams
from sparsec.kernels.cpu.products.tiles import LoadTile
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.cpu.products.tilings import L1_SHARES
from sparsec.kernels.cpu.products.walk import Finish, Stage
from sparsec.kernels.emit.intrinsics_int8 import TINY, dot_int8, integers_of, llvm_int8, rounding, tile_int8
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import unstored
from sparsec.kernels.packing.vnni import GROUP, quantize
from sparsec.kernels.ranges import Ranges
from sparsec.target import Target

_NARROWEST = 1 / 32  # of the widest channel's range: what samples left out of a channel does not saturate at once


@dataclass(frozen=True)
class SpmmInt8Params:
    """A sparse product kernel on 8-bit integers.

    Attributes:
        spmm: the float32 kernel that it follows: mode im2col, `unroll` a multiple of 4.
        bits: of an activation, 8 or 7.
        static: scales are known before the activations are.
        ranges: what static scales come from.

    """

    spmm: SpmmParams
    bits: int = 8
    static: bool = False
    ranges: Ranges | None = field(default=None, repr=False, compare=False)

    @property
    def stored(self) -> SpmmParams:
        """The kernel whose tile is as wide as the copied one: whole vectors of bytes."""
        return self.spmm.widened(4)

    @property
    def zero(self) -> int:
        """What stands for zero where scales are dynamic."""
        return 1 << (self.bits - 1)


def steps(params: SpmmInt8Params) -> tuple[np.ndarray, np.ndarray]:
    """The static scale of every channel and the integer that stands for its zero, float32 (channels,)."""
    assert params.ranges is not None
    width = params.ranges.largest - params.ranges.least
    scale = np.maximum(width, max(TINY, _NARROWEST * float(width.max()))) / ((1 << params.bits) - 1)
    return scale.astype(np.float32), np.rint(-params.ranges.least / scale).astype(np.float32)


def reject(_layer: StencilProduct, isa: Isa) -> str | None:
    """Why there is no such kernel, or None."""
    return None if isa.int8 else "no products of 8-bit integers"


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every tiling worth pricing, with static scales where ranges are known."""
    def params(p: SpmmParams) -> SpmmInt8Params:
        return SpmmInt8Params(p, 8 if isa.vnni else 7, layer.ranges is not None, layer.ranges)

    name = "spmm/int8" if layer.ranges is None else "spmm/int8-static"
    return sparse_candidates(layer, target, isa, NarrowKernel(params, work, name, "int8", 4, 4, 1, 1,
                                                              (*L1_SHARES, 1.0)))


def pack(weight: np.ndarray, params: SpmmInt8Params) -> dict[str, np.ndarray]:
    """The kernel's arrays for a weight (outputs, channels * taps).

    Returns:
        those of `row_blocks.recipe`, with `values` (int32) of four consecutive non-zeros of a row as bytes, and
        `begins` (int32): what the accumulators of every row of every group start from; `scales` (float32): per row;
        where static, `inverses` and `offsets` (float32): per channel, u + rounding(0) = x * inverse + offset.

    """
    p, t = params.spmm, params.spmm.tiling
    taps, channels = len(t.stencil.taps), t.stencil.channels
    steps_, zeros = steps(params) if params.static else (np.ones(channels), np.full(channels, params.zero))
    integers, scales = quantize(weight * np.repeat(steps_, taps).astype(np.float32))
    arrays = row_blocks.recipe(params.stored).pack(integers)
    grouped = arrays["values"].reshape(-1, GROUP, p.group * p.block).swapaxes(1, 2)
    arrays["values"] = grouped.astype(np.int8).ravel().view(np.int32)
    shifts = integers.astype(np.float64) * np.repeat(zeros, taps)
    sums = np.add.reduceat(shifts, np.arange(t.chunks) * t.chunk * taps, axis=1)  # (outputs, chunks)
    rows = arrays["rows"].reshape(-1, p.group)
    chunk = np.arange(len(rows)) // p.groups % t.chunks
    begins = -sums[rows[:, :, None] + np.arange(p.block), chunk[:, None, None]]
    arrays |= {"begins": begins.astype(np.int32).ravel(), "scales": scales}
    if params.static:
        arrays |= {"inverses": 1 / steps_, "offsets": (zeros + rounding(0)).astype(np.float32)}
    return arrays


def reference(weight: np.ndarray, columns: np.ndarray, params: SpmmInt8Params) -> np.ndarray:
    """The product (outputs, n) of a weight and what pixels see, (channels * taps, n), in the kernel's integers."""
    t, largest = params.spmm.tiling, params.zero - 1
    taps = len(t.stencil.taps)
    if params.static:
        scale, zero = (np.repeat(each, taps)[:, None] for each in steps(params))
        integers, scales = quantize(weight * scale.T)
        inputs = np.clip(np.rint(columns / scale) + zero, 0, (1 << params.bits) - 1) - zero
        return np.asarray(integers @ inputs * scales[:, None])
    integers, scales = quantize(weight)
    total = np.zeros((len(weight), columns.shape[1]))
    for first in range(0, len(columns), t.chunk * taps):
        part = columns[first:first + t.chunk * taps]
        scale = np.maximum(np.abs(part).max(axis=0), TINY) / largest
        total += integers[:, first:first + len(part)] @ np.rint(part / scale) * scale
    return np.asarray(total * scales[:, None])


def work(params: SpmmInt8Params, nonzero_blocks: int, l1_bytes: int, l2_bytes: int) -> Work:
    """What a run costs for a weight with that many non-zero R x 1 blocks."""
    p, t = params.spmm, params.spmm.tiling
    full, copy = spmm.work(p, nonzero_blocks, l1_bytes, l2_bytes), t.traffic()
    tiles = t.stencil.segments * t.tiles
    slots = full.fmas / (tiles * p.block * t.vectors)
    # Four non-zeros take two interleavings a vector, on one port of three, and a dot product a vector and row.
    dots = p.block if params.bits == 8 else 3 * p.block
    fmas = tiles * slots * t.vectors * (dots + 2) / 6
    loads = tiles * slots * (t.vectors - round_up(t.vectors, 4) / 4 + p.block * 3 / 4)
    return replace(full, fmas=fmas, loads=full.loads - loads + (0 if params.static else copy.loads))


def build(params: SpmmInt8Params, isa: Isa) -> Kernel:
    """The kernel: (what `pack` makes, bias, [mask], x, [residual]) -> y."""
    p, t = params.spmm, params.spmm.tiling
    begins = t.parts * t.chunks * p.groups * p.group * p.block
    values: dict[str, tuple[int | None, str]] = {
        "values": (None, "int32"), "begins": (begins, "int32"), "scales": (t.stencil.outputs, "float32")}
    if params.static:
        values |= {"inverses": (t.stencil.channels, "float32"), "offsets": (t.stencil.channels, "float32")}
    stage = Stage(partial(_prepare_static if params.static else _prepare, params), llvm_int8(isa))
    return spmm.build_with(p, isa, values, partial(_group, params), stage)


def _prepare(params: SpmmInt8Params, b: Buffers, t: Tiling) -> LoadTile:
    """The stage: the chunk's tile as integers, and the scales of its pixels."""
    lanes = t.stencil.lanes
    scratch = T.alloc_buffer((params.stored.tiling.scratch // 2,), "int16")
    scales = T.alloc_buffer((t.tile,), "float32")

    def load_tile(chunk: Expr, x: Expr) -> tuple[Expr, Expr]:
        factors = registers(t.vectors, lanes)
        _find_largest(b, t, factors, chunk, x)
        for vector in range(t.vectors):
            magnitude = load(factors, vector * lanes, lanes)
            store(scales, vector * lanes, magnitude * splat(1 / (params.zero - 1), lanes))
            store(factors, vector * lanes, splat(float(params.zero - 1), lanes) / magnitude)

        def rounded(_channel: Expr, pixel: Expr, vector: int) -> Expr:
            return pixel * load(factors, vector * lanes, lanes) + splat(rounding(params.zero), lanes)

        _quantize_tile(b, params, scratch, chunk, x, rounded)
        return (scratch, scales), T.int64(0)

    return load_tile


def _prepare_static(params: SpmmInt8Params, b: Buffers, t: Tiling) -> LoadTile:
    """The stage: the chunk's tile as integers."""
    lanes = t.stencil.lanes
    scratch = T.alloc_buffer((params.stored.tiling.scratch // 2,), "int16")

    def rounded(channel: Expr, pixel: Expr, _vector: int) -> Expr:
        factor, offset = (splat(b[name][channel], lanes) for name in ("inverses", "offsets"))
        least, largest = (splat(rounding(end), lanes) for end in (0, (1 << params.bits) - 1))
        return T.min(T.max(pixel * factor + offset, least), largest)

    def load_tile(chunk: Expr, x: Expr) -> tuple[Expr, Expr]:
        _quantize_tile(b, params, scratch, chunk, x, rounded)
        return (scratch, None), T.int64(0)

    return load_tile


def _channels(t: Tiling, chunk: Expr) -> Expr:
    return T.min(t.chunk, t.stencil.channels - chunk * t.chunk)


def _find_largest(b: Buffers, t: Tiling, largest: Buffer, chunk: Expr, x: Expr) -> None:
    """The largest magnitude that each pixel of the tile sees."""
    s = t.stencil
    for vector in range(t.vectors):
        store(largest, vector * s.lanes, splat(TINY, s.lanes))
    with T.serial(0, _channels(t, chunk)) as channel:
        row = T.Bind(x + (chunk * t.chunk + channel) * s.x_channel_stride)
        for offset in s.taps:
            for vector in range(t.vectors):
                pixel = load(b["x"], row + offset + vector * s.lanes, s.lanes)
                store(largest, vector * s.lanes, T.max(load(largest, vector * s.lanes, s.lanes), T.fabs(pixel)))


def _quantize_tile(b: Buffers, params: SpmmInt8Params, scratch: Buffer, chunk: Expr, x: Expr, rounded: Expr) -> None:
    """Fill the scratch; `rounded(channel, pixel, vector)` is u + rounding(0)."""
    t, s = params.spmm.tiling, params.spmm.tiling.stencil
    lanes, width = s.lanes, params.stored.tiling.tile
    with T.serial(0, _channels(t, chunk)) as index:
        channel = T.Bind(chunk * t.chunk + index)
        row = T.Bind(x + channel * s.x_channel_stride)
        for tap, offset in enumerate(s.taps):
            for four in range(0, t.vectors, 4):
                integers = [integers_of(rounded(channel, load(b["x"], row + offset + vector * lanes, lanes), vector))
                            for vector in range(four, min(four + 4, t.vectors))]
                integers += integers[:1] * (4 - len(integers))  # nobody reads these
                place = (index * len(s.taps) + tap) * (width // 2) + four * lanes // 2
                store(scratch, place, tile_int8(integers))


def _group(params: SpmmInt8Params, b: Buffers, source: Buffer, base: Expr, p: SpmmParams, head: row_blocks.Head,
           finish: Finish) -> None:
    """One group of row blocks: the loop over its non-zeros, then its rows' results, scaled back."""
    tile, scales = source
    lanes, vectors, rows = p.tiling.stencil.lanes, p.tiling.vectors, p.group * p.block
    acc = registers(p.accumulators, lanes, "int32")
    for register in range(p.accumulators):
        begin = b["begins"][head.flat * rows + register // vectors] if register < rows * vectors else T.int32(0)
        store(acc, register * lanes, splat(begin, lanes))
    with T.serial(0, head.steps) as step:
        _multiply(b, tile, base, acc, params, T.Bind(head.first + step))
    spmm.add_sets(acc, p)
    for row, register in row_blocks.each_row(p, head, p.tiling.vectors):
        def product(v: int, row: Expr = row, register: int = register) -> Expr:
            total = T.Cast(f"float32x{lanes}", load(acc, (register + v) * lanes, lanes))
            total = total * splat(b["scales"][row], lanes)
            return total if scales is None else total * load(scales, v * lanes, lanes)

        finish(row, row, product)


def _multiply(b: Buffers, tile: Buffer, base: Expr, acc: Buffer, params: SpmmInt8Params, step: Expr) -> None:
    """One iteration: `unroll` / 4 groups of four non-zero blocks of each of the group's row blocks."""
    p = params.spmm
    lanes, vectors, count = p.tiling.stencil.lanes, p.tiling.vectors, p.unroll // GROUP
    at = [index + base for index in row_blocks.indices(b, params.stored, step)]
    for four, member in np.ndindex(count, p.group):
        offsets = [at[(4 * four + i) * p.group + member] for i in range(4)]
        target = (four % p.sets * p.group + member) * p.block
        for part in range(0, vectors, 4):
            inputs = [load(tile, offset + part * lanes // 2, 2 * lanes) for offset in offsets]
            for r, vector in np.ndindex(p.block, min(4, vectors - part)):
                weights = splat(b["values"][((step * count + four) * p.group + member) * p.block + r], lanes)
                register = ((target + r) * vectors + part + vector) * lanes
                store(acc, register, dot_int8(load(acc, register, lanes), inputs, weights, vector))


FAMILY = Family("spmm/int8", StencilProduct, ("csr", "bcsr"), "int8", candidates, unstored(pack), build, reference,
                reject)
