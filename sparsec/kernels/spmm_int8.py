"""Sparse weight times dense activations in 8-bit integers: four non-zeros of a row at a time (AVX512_VNNI).

Activations are quantised on their way to the L1 cache, a scale for every pixel (or token) of a tile and chunk of
channels: x = scale * (u - 128) with u in [1, 255], the largest magnitude at 127. Weights have a scale per row:
w = scale * q with q in [-127, 127]. So a chunk's sum of q * (u - 128) is an exact 32-bit integer; the part without u,
-128 times the sum of q, is what its accumulators start from. The walk and the packing are `spmm.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels import intrinsics, spmm
from sparsec.kernels.emit import Buffers, load, registers, splat, store
from sparsec.kernels.isa import Isa
from sparsec.kernels.product import Bring, Finish, Stage, Tiling
from sparsec.option import Work

ZERO = 128  # what stands for zero
LARGEST = 127
_ROUND = 12582912.0  # 1.5 * 2^23: adding it rounds to the nearest integer, which the low bits then hold
_ROUND_BITS = 0x4B400000
_TINY = 1e-30  # keeps the scale of an all-zero pixel finite


@dataclass(frozen=True)
class SpmmInt8Params:
    """A sparse product kernel on 8-bit integers.

    Attributes:
        spmm: the float32 kernel that it follows: mode im2col, vectors and `unroll` multiples of 4.

    """

    spmm: spmm.SpmmParams


def quantise(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers of a weight (outputs, columns) as float32 and the scale of every row, (outputs,)."""
    largest = np.abs(weight).max(axis=1, initial=0)
    scales = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return np.rint(weight / scales[:, None]), scales


def pack(weight: np.ndarray, params: SpmmInt8Params) -> dict[str, np.ndarray]:
    """The kernel's arrays for a weight (outputs, channels * taps).

    Returns:
        those of `spmm.pack`, with `values` (int32) of four consecutive non-zeros of a row as bytes, and
        `begins` (int32): what the accumulators of every row of every group start from; `scales` (float32): per row.

    """
    p, t = params.spmm, params.spmm.tiling
    integers, scales = quantise(weight)
    arrays = spmm.pack(integers, p)
    fours = arrays["values"].reshape(-1, 4, p.group * p.block).swapaxes(1, 2)
    arrays["values"] = fours.astype(np.int8).ravel().view(np.int32)
    tapped = t.chunk * len(t.stencil.taps)
    sums = np.add.reduceat(integers, np.arange(t.chunks) * tapped, axis=1)  # (outputs, chunks)
    rows = arrays["rows"].reshape(-1, p.group)
    chunk = np.arange(len(rows)) // p.groups % t.chunks
    begins = -ZERO * sums[rows[:, :, None] + np.arange(p.block), chunk[:, None, None]]
    return {**arrays, "begins": begins.astype(np.int32).ravel(), "scales": scales}


def work(params: SpmmInt8Params, nonzero_blocks: int, l1_bytes: int, l2_bytes: int) -> Work:
    """What a run costs for a weight with that many non-zero R x 1 blocks."""
    p, t = params.spmm, params.spmm.tiling
    full, copy = spmm.work(p, nonzero_blocks, l1_bytes, l2_bytes), t.traffic(l2_bytes)
    tiles = t.stencil.segments * t.tiles
    slots = full.fmas / (tiles * p.block * t.vectors)
    # Four non-zeros take two interleavings a vector, on one port of three, and a dot product a vector and row.
    fmas = tiles * slots * t.vectors * (p.block + 2) / 6
    loads = tiles * slots * (t.vectors + p.block) * 3 / 4
    return replace(full, fmas=fmas, loads=full.loads - loads + copy.loads)


def build(params: SpmmInt8Params, isa: Isa) -> Any:
    """The kernel: (starts, rows, indices, values, begins, scales, bias, [mask], x, [residual]) -> y."""
    p, t = params.spmm, params.spmm.tiling
    begins = t.parts * t.chunks * p.groups * p.group * p.block
    values: dict[str, tuple[int | None, str]] = {
        "values": (None, "int32"), "begins": (begins, "int32"), "scales": (t.stencil.outputs, "float32")}
    return spmm.build_with(p, isa, values, _group, Stage(_prepare, intrinsics.INT8))


def _prepare(b: Buffers, t: Tiling) -> Bring:
    """The stage: the chunk's tile as 8-bit integers, and the scales of its pixels."""
    scratch = T.alloc_buffer((t.scratch // 2,), "int16")
    scales = T.alloc_buffer((t.tile,), "float32")

    def bring(chunk: Any, x: Any) -> tuple[Any, Any]:
        largest = registers(t.vectors, t.stencil.lanes)
        _find_largest(b, t, largest, chunk, x)
        _quantise_tile(b, t, scratch, scales, largest, chunk, x)
        return (scratch, scales), T.int64(0)

    return bring


def _channels(t: Tiling, chunk: Any) -> Any:
    return T.min(t.chunk, t.stencil.channels - chunk * t.chunk)


def _find_largest(b: Buffers, t: Tiling, largest: Any, chunk: Any, x: Any) -> None:
    """The largest magnitude that each pixel of the tile sees."""
    s = t.stencil
    for vector in range(t.vectors):
        store(largest, vector * s.lanes, splat(_TINY, s.lanes))
    with T.serial(0, _channels(t, chunk)) as channel:
        row = T.Bind(x + (chunk * t.chunk + channel) * s.x_channel_stride)
        for offset in s.taps:
            for vector in range(t.vectors):
                pixel = load(b["x"], row + offset + vector * s.lanes, s.lanes)
                store(largest, vector * s.lanes, T.max(load(largest, vector * s.lanes, s.lanes), T.fabs(pixel)))


def _quantise_tile(b: Buffers, t: Tiling, scratch: Any, scales: Any, largest: Any, chunk: Any, x: Any) -> None:
    """Fill the scratch and the scales; `largest` becomes its inverse."""
    s, lanes = t.stencil, t.stencil.lanes
    for vector in range(t.vectors):
        magnitude = load(largest, vector * lanes, lanes)
        store(scales, vector * lanes, magnitude * splat(1 / LARGEST, lanes))
        store(largest, vector * lanes, splat(float(LARGEST), lanes) / magnitude)
    with T.serial(0, _channels(t, chunk)) as channel:
        row = T.Bind(x + (chunk * t.chunk + channel) * s.x_channel_stride)
        for tap, offset in enumerate(s.taps):
            for four in range(t.vectors // 4):
                at = [vector * lanes for vector in range(4 * four, 4 * four + 4)]
                scaled = [load(b["x"], row + offset + v, lanes) * load(largest, v, lanes) for v in at]
                bits = [T.reinterpret(f"int32x{lanes}", each + splat(_ROUND + ZERO, lanes)) for each in scaled]
                integers = [each - splat(T.int32(_ROUND_BITS), lanes) for each in bits]
                place = (channel * len(s.taps) + tap) * (t.tile // 2) + four * 2 * lanes
                store(scratch, place, intrinsics.tile_int8(integers))


def _group(b: Buffers, source: Any, base: Any, p: spmm.SpmmParams, flat: Any, finish: Finish) -> None:
    """One group of row blocks: the loop over its non-zeros, then its rows' results, scaled back."""
    tile, scales = source
    lanes, vectors, rows = p.tiling.stencil.lanes, p.tiling.vectors, p.group * p.block
    acc = registers(p.accumulators, lanes, "int32")
    for register in range(p.accumulators):
        begin = b["begins"][flat * rows + register // vectors] if register < rows * vectors else T.int32(0)
        store(acc, register * lanes, splat(begin, lanes))
    first = T.Bind(b["starts"][flat])
    with T.serial(0, b["starts"][flat + 1] - first) as step:
        _multiply(b, tile, base, acc, p, T.Bind(first + step))
    spmm.add_sets(acc, p)
    for row, register in spmm.each_row(b, p, flat):
        def product(v: int, row: Any = row, register: int = register) -> Any:
            total = T.Cast(f"float32x{lanes}", load(acc, (register + v) * lanes, lanes))
            return total * splat(b["scales"][row], lanes) * load(scales, v * lanes, lanes)

        finish(row, row, product)


def _multiply(b: Buffers, tile: Any, base: Any, acc: Any, p: spmm.SpmmParams, step: Any) -> None:
    """One iteration: `unroll` / 4 fours of non-zero blocks of each of the group's row blocks."""
    lanes, vectors, fours = p.tiling.stencil.lanes, p.tiling.vectors, p.unroll // 4
    at = [index + base for index in spmm.indices(b, p, step)]
    for four, member in np.ndindex(fours, p.group):
        offsets = [at[(4 * four + i) * p.group + member] for i in range(4)]
        target = (four % p.sets * p.group + member) * p.block
        for part in range(vectors // 4):
            inputs = [load(tile, offset + part * 2 * lanes, 2 * lanes) for offset in offsets]
            for r, vector in np.ndindex(p.block, 4):
                weights = splat(b["values"][((step * fours + four) * p.group + member) * p.block + r], lanes)
                register = ((target + r) * vectors + 4 * part + vector) * lanes
                store(acc, register, intrinsics.dot_int8(load(acc, register, lanes), inputs, weights, vector))
