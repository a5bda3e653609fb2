"""Any pattern of non-zeros for few tokens, expanded from bitmaps and multiplied dense on tensor cores.

What is stored, and in which order, is in `bitmap_units`. A lane finds its own values by one population count and a few
dot products of bytes, and joins them by byte permutes.

Every warp takes units of its own along K through a ring of slots, which asynchronous copies fill, and waits for no
other warp before all sums are added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import GpuWork
from sparsec.errors import FormatError
from sparsec.kernels.cuda import epilogue, mma_dense, pipeline, ptx
from sparsec.kernels.cuda.bitmap_units import (
    CHUNK,
    COLUMNS,
    COUNTS,
    GROUPS,
    HEADER_BYTES,
    OCTETS,
    ROWS,
    BitmapParams,
    chunks_of,
    pack,
    unpack,
)
from sparsec.kernels.cuda.block import all_of, deal
from sparsec.kernels.cuda.family import Architectures, GpuProduct, Skeleton, assembled
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams, Tile, fields_of
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

FEW = 16
"""The columns up to which expanding a bitmap is worth considering: beyond them, tensor cores wait for it."""
LANES = 32
BYTES = 0x01010101  # one in each
BLOCKS = 2  # of 8 warps on a multiprocessor, which bounds a thread's registers

# By rows, columns and warps along K; four slots, as measured.
TILES = tuple(Tile(rows, columns, COLUMNS * warps, (1, warps), 4)
              for rows, columns, warps in ((32, 8, 8), (32, 8, 16), (16, 8, 8), (32, 16, 8)))


def reject(layer: GpuProduct, _archs: Architectures) -> str | None:
    """Beyond few columns the tensor cores wait for bitmaps to be expanded."""
    if layer.window is not None:
        return "bitmaps are for layers, and a convolution's windows are many"
    return None if layer.columns <= FEW else f"expanding bitmaps is for up to {FEW} columns, here are {layer.columns}"


def refuses(product: MmaParams) -> str | None:
    """Why no kernel computes the product, or None."""
    t = product.tile
    reasons = {
        "the bitmap kernel expands values of 2 bytes only": product.itemsize != 2,
        f"a lane reads 8 activations in a row, and K = {product.k} is not a multiple of that": product.k % CHUNK != 0,
        "a lane reads activations in a row, neither in an order of their own nor by window":
            product.gather is not None or product.window is not None,
        "a block's warps share K, and blocks do not": product.split_k > 1,
        f"{t} is not whole blocks of {ROWS} rows and 8 columns and {COLUMNS} inputs for each of its warps":
            t.rows % ROWS != 0 or t.columns % 8 != 0 or t.warps[0] != 1 or t.depth != COLUMNS * t.warps[1],
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def params(weight: np.ndarray, product: MmaParams) -> BitmapParams:
    """The parameters for a weight (m, depth).

    Raises:
        FormatError: no kernel computes the product.

    """
    if reason := refuses(product):
        raise FormatError(f"cannot store the weight as a bitmap for {product}: {reason}")
    empty = BitmapParams(**fields_of(product), chunks=0, capacity=0)
    height, width = weight.shape
    present = np.pad(weight != 0, ((0, -height % product.tile.rows), (0, empty.units * COLUMNS - width)))
    by_row = present.view(np.uint8).reshape(-1, product.tile.rows, empty.units, COLUMNS).sum(axis=3, dtype=np.uint8)
    counts = chunks_of(empty, by_row.sum(axis=1, dtype=np.int64))
    return BitmapParams(**fields_of(product), chunks=int(counts.sum()), capacity=int(counts.max()))


def _weight(p: BitmapParams) -> pipeline.Arguments:
    return {"units": (p.chunks * 4, "uint32"), "starts": (p.grid[0] * p.units + 1, "int32")}


def shared_bytes(p: BitmapParams) -> int:
    """Bytes of shared memory that a block takes: the warps' rings, later their sums."""
    warps = p.tile.warps[1]
    return warps * max(p.tile.stages * p.slot_bytes, _sums_bytes(p))


def _line(p: BitmapParams) -> int:
    """Floats from a column's sums to the next one's, such that the lanes' stores meet different banks."""
    return p.tile.rows + 4


def _sums_bytes(p: BitmapParams) -> int:
    return p.tile.columns * _line(p) * 4


def _work(p: BitmapParams, sizes: Mapping[str, int], weight_bytes: int) -> GpuWork:
    """A stage is a unit for every warp.

    Expanding it takes half as long again for every further block of columns, and more where there are more values to
    bring (8192 x 8192 on an H200: 23.6 us at 90 % zeros, 27.5 at 50).
    """
    t = p.tile
    stage = t.rows * t.depth
    density = p.chunks * CHUNK / (p.grid[0] * t.rows * p.units * COLUMNS)
    return GpuWork(nbytes=sum(sizes.values()) + (p.grid[1] - 1) * weight_bytes, blocks=math.prod(p.grid),
                   threads=t.threads, shared_bytes=shared_bytes(p), stages=-(-p.units // t.warps[1]),
                   stages_in_flight=t.stages, stage_fmas=0.0, stage_copies=0.0,
                   stage_bytes=weight_bytes / (p.grid[0] * t.rows * p.depth) * stage + t.columns * t.depth * 2,
                   stage_decoded=stage * (0.5 + t.columns / 16) * (1 + 0.4 * density))


def build(p: BitmapParams) -> Kernel:
    """The kernel as a PrimFunc over flat buffers."""
    kernel = pipeline.prim_func(pipeline.arguments(p, _weight(p)), lambda buffers: _product(p, buffers))
    return kernel.with_attr(pipeline.BLOCKS, max(1, BLOCKS * 8 // p.tile.warps[1]))


@dataclass(frozen=True)
class _Warp:
    """A warp at work.

    Attributes:
        params, buffers, shared: as of `block.Block`.
        lane: the thread's number in the warp.
        warp: the warp's number.
        tile: the tile of rows.
        column: the first of its tokens.
        first: its first unit along K.
        count: its units.
        bounds: the bounds of the unit that is copied next.

    """

    params: BitmapParams
    buffers: Buffers
    shared: Expr
    lane: Expr
    warp: Expr
    tile: Expr
    column: Expr
    first: Expr
    count: Expr
    bounds: Buffer


def _product(p: BitmapParams, buffers: Buffers) -> None:
    tiles, groups, _ = p.grid
    warps, slots = p.tile.warps[1], p.tile.stages
    with (T.launch_thread("blockIdx.x", tiles) as tile, T.launch_thread("blockIdx.y", groups) as group,
          T.launch_thread("threadIdx.x", p.tile.threads) as thread):
        shared = ptx.shared_memory(shared_bytes(p))
        warp = T.Bind(thread // LANES)
        first = T.Bind(p.units * warp // warps)
        count = T.Bind(p.units * (warp + 1) // warps - first)
        w = _Warp(p, buffers, shared, T.Bind(thread % LANES), warp, tile, T.Bind(group * p.tile.columns), first, count,
                  ptx.registers(2, "int32"))
        T.buffer_store(w.bounds, _start(w, 0), [0])
        T.buffer_store(w.bounds, _start(w, 1), [1])
        for slot in range(slots):
            _copy(w, slot)
        sums = ptx.registers(p.blocks * p.tile.columns // 8 * 4, "float32")
        for register in range(int(sums.shape[0])):
            T.buffer_store(sums, T.float32(0), [register])
        ahead = ptx.registers(p.tile.columns)
        _read(w, 0, ahead)
        with T.serial(0, count) as turn:
            _turn(w, turn, ahead, sums)
        ptx.barrier()  # the sums reuse the memory
        _write_sums(w, sums)
        ptx.barrier()
        deal(p.tile.threads, thread, p.tile.rows * p.tile.columns, lambda number: _finish(w, number))


def _start(w: _Warp, turn: Expr) -> Expr:
    """Where a unit of the warp begins; the end of the last one behind them."""
    unit = w.tile * w.params.units + w.first + T.min(turn, w.count)
    return w.buffers["starts"][unit]


def _slot(w: _Warp, turn: Expr) -> Expr:
    """The byte at which a unit lies."""
    slots = w.params.tile.stages
    return (w.warp * slots + turn % slots) * w.params.slot_bytes


def _copy(w: _Warp, turn: Expr) -> None:
    """Start copying a unit, whose bounds are known, and find those of the next one."""
    chunks = T.Bind(w.bounds[1] - w.bounds[0])
    base = T.Bind(_slot(w, turn))
    for first in range(0, w.params.capacity, LANES):
        number = T.Bind(first + w.lane)
        with T.If(number < chunks), T.Then():
            ptx.copy_async(w.shared, base + number * VECTOR_BYTES, w.buffers["units"], (w.bounds[0] + number) * 4,
                           VECTOR_BYTES)
    ptx.commit()
    T.buffer_store(w.bounds, w.bounds[1], [0])
    T.buffer_store(w.bounds, _start(w, turn + 2), [1])


def _read(w: _Warp, turn: Expr, to: Buffer) -> None:
    """Start reading a unit's activations: 16 in a row for every block of 8 columns, zeros beyond them."""
    p = w.params
    unit = T.Bind(w.first + turn)
    for block in range(p.tile.columns // 8):
        column = T.Bind(w.column + block * 8 + w.lane // 4)
        for half in range(2):
            feature = T.Bind(unit * COLUMNS + w.lane % 4 * 16 + half * 8)
            inside = [turn < w.count]
            if p.n % p.tile.columns:
                inside.append(column < p.n)
            if p.k % COLUMNS:
                inside.append(feature < p.k)
            for word in range(4):
                T.buffer_store(to, T.uint32(0), [block * 8 + half * 4 + word])
            with T.If(all_of(inside)), T.Then():
                ptx.load_global(to, block * 8 + half * 4, 4, w.buffers["x"], column * p.k + feature)


def _turn(w: _Warp, turn: Expr, ahead: Buffer, sums: Buffer) -> None:
    """Multiply a unit while the next ones arrive."""
    p, slots = w.params, w.params.tile.stages
    activations = ptx.registers(p.tile.columns)
    for word in range(p.tile.columns):
        T.buffer_store(activations, ahead[word], [word])
    _read(w, turn + 1, ahead)
    ptx.wait(slots - 1)
    ptx.warp_barrier()
    base = T.Bind(w.shared + T.Cast("uint32", _slot(w, turn)))
    values = ptx.registers(1)  # the address of the block's first value
    T.buffer_store(values, base + T.uint32(p.blocks * HEADER_BYTES), [0])
    for block in range(p.blocks):
        _multiply(w, T.Bind(base + T.uint32(block * HEADER_BYTES)), values, activations, block, sums)
    ptx.warp_barrier()  # all lanes have read the slot
    with T.If(turn + slots < w.count):
        with T.Then():
            _copy(w, turn + slots)
        with T.Else():
            ptx.commit()


def _multiply(w: _Warp, header: Expr, values: Buffer, activations: Buffer, block: int, sums: Buffer) -> None:
    """Add the product of 16 rows, and move `values` on."""
    p = w.params
    octet = T.Bind(w.lane // 8)
    words, before, totals = ptx.registers(GROUPS), ptx.registers(2), ptx.registers(2)
    for first in (0, 4):
        ptx.load_words(words, first, 4, header, octet * GROUPS * 4 + first * 4)
    ptx.load_words(before, 0, 2, header, COUNTS + T.max(octet - 1, 0) * GROUPS)
    ptx.load_words(totals, 0, 2, header, COUNTS + (OCTETS - 1) * GROUPS)
    for half in range(2):  # the first octet has no values before it
        T.buffer_store(before, T.if_then_else(octet > 0, before[half], T.uint32(0)), [half])
    second = ptx.registers(1)  # the address of the first value of the groups from 4 on
    ptx.dot_bytes(second, 0, totals[0], T.uint32(2 * BYTES), values[0])
    for step in range(GROUPS // 2):
        fragment = ptx.registers(4)
        for i in range(2):
            half, place = divmod(2 * step + i, 4)
            start = ptx.registers(1)
            ptx.dot_bytes(start, 0, before[half], T.uint32(2 << 8 * place), second[0] if half else values[0])
            if place:
                ptx.dot_bytes(start, 0, totals[half], T.uint32(2 * BYTES >> 8 * (4 - place)), start[0])
            _expand(w, words[2 * step + i], start[0], fragment, 2 * i)
        for column_block in range(p.tile.columns // 8):
            ptx.multiply(mma_dense.INSTRUCTIONS[p.dtype], sums, (block * p.tile.columns // 8 + column_block) * 4,
                         [fragment[i] for i in range(4)],
                         [activations[column_block * 8 + 2 * step + i] for i in range(2)])
    ptx.dot_bytes(values, 0, totals[1], T.uint32(2 * BYTES), second[0])


def _expand(w: _Warp, word: Expr, start: Expr, to: Buffer, first: int) -> None:
    """The lane's four weights of a group, as two registers; `start` is the address of its octet's first value."""
    place = T.Bind(T.Cast("uint32", w.lane % 8))
    below = T.Bind((T.shift_left(T.uint32(1), place) - T.uint32(1)) * T.uint32(BYTES))
    present = T.Bind(T.bitwise_and(T.shift_right(word, place), T.uint32(BYTES)))  # byte j: is weight j there
    at = ptx.registers(4)
    T.buffer_store(at, T.popcount(T.bitwise_and(word, below)) * T.uint32(2) + start, [0])
    for weight in range(1, 4):
        ptx.dot_bytes(at, weight, present, T.uint32(2 * BYTES >> 8 * (4 - weight)), at[0])
    values = ptx.registers(4, "uint16")
    for weight in range(4):
        ptx.emit("ld.shared.b16", values[weight], at[weight])
    # Digits of a selector: the upper, empty half of a value's word, or, where it is there, the lower one.
    selector = T.Bind(T.uint32(0x76327632) - present * T.uint32(0x22))
    for half in range(2):
        low, high = (T.Cast("uint32", values[2 * half + i]) for i in range(2))
        ptx.permute_bytes(to, first + half, low, high, T.shift_right(selector, T.uint32(16)) if half else selector)


def _write_sums(w: _Warp, sums: Buffer) -> None:
    """Lane 4g + t holds rows g and g + 8 of a block of 16, and columns 2t and 2t + 1 of a block of 8."""
    p = w.params
    base = T.Bind(w.warp * _sums_bytes(p))
    for block in range(p.blocks):
        for column_block in range(p.tile.columns // 8):
            for i in range(4):
                row = block * ROWS + i // 2 * 8 + w.lane // 4
                column = column_block * 8 + w.lane % 4 * 2 + i % 2
                ptx.store_floats(w.shared, base + (column * _line(p) + row) * 4,
                                 [sums[(block * p.tile.columns // 8 + column_block) * 4 + i]])


def _finish(w: _Warp, number: Expr) -> None:
    """Add the warps' sums of one output and finish it."""
    p = w.params
    row, place = T.Bind(number % p.tile.rows), T.Bind(number // p.tile.rows)
    output, column = T.Bind(w.tile * p.tile.rows + row), T.Bind(w.column + place)
    with T.If(T.And(output < p.m, column < p.n)), T.Then():
        total, part = ptx.registers(1, "float32"), ptx.registers(1, "float32")
        T.buffer_store(total, T.float32(0), [0])
        for warp in range(p.tile.warps[1]):
            ptx.load_words(part, 0, 1, w.shared, warp * _sums_bytes(p) + (place * _line(p) + row) * 4)
            T.buffer_store(total, total[0] + part[0], [0])
        epilogue.finish(p, w.buffers, total, T.Bind(column * p.m + output), output)


SKELETON: Skeleton[BitmapParams] = Skeleton(_weight, shared_bytes, build, _work)
FAMILY = assembled("bitmap", ("bitmap",), SKELETON, pack=pack, unpack=unpack, params=params, refuses=refuses,
                   tiles=TILES, reject=reject, counted_by=lambda product: product.tile.rows)
