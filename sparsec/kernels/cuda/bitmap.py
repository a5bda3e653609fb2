"""Any pattern of non-zeros, stored as a bitmap and packed values, multiplied dense: for few columns, where the bytes
of the weight decide.

A fragment of 16 x 16 weights has a bit per weight in the order in which lanes hold them: word 2r + h belongs to
register r of lanes 16h … 16h + 15, two bits a lane. Its non-zeros follow one another in that order; a lane finds its
own by counting the bits before (the layout of SpInfer, Fan et al., EuroSys 2025, on the fragments of `fragments.py`).
A stage's fragments and values lie together, so the packing depends on the tile's rows and depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import GpuWork
from sparsec.errors import FormatError
from sparsec.kernels.cuda import fragments, pipeline, ptx
from sparsec.kernels.cuda.block import Block, per_thread
from sparsec.kernels.cuda.family import Architectures, GpuProduct, family
from sparsec.kernels.cuda.mma_dense import products
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams, fields_of
from sparsec.kernels.cuda.tiles import TILES
from sparsec.kernels.emit.tir import Buffer, Expr

FEW = 16
"""The columns up to which expanding a bitmap is worth considering: beyond them, tensor cores wait for it."""
CHUNK = 8  # values of 16 bytes, to which a stage's values are padded
WORDS = 8  # of a fragment's bitmap


@dataclass(frozen=True, kw_only=True)
class BitmapParams(MmaParams):
    """A product with a stored bitmap; its dtype has 2 bytes.

    Attributes:
        chunks: 16-byte chunks of all values.
        capacity: those of the fullest stage.

    """

    chunks: int
    capacity: int

    @property
    def stages(self) -> int:
        """Stages of the whole weight."""
        return self.grid[0] * self.k_tiles

    @property
    def fragments(self) -> int:
        """Fragments of one stage."""
        return self.tile.rows // 16 * (self.tile.depth // 16)


def reject(layer: GpuProduct, _archs: Architectures) -> str | None:
    """Beyond few columns the tensor cores wait for bitmaps to be expanded."""
    few = layer.columns <= FEW
    return None if few else f"expanding bitmaps is for up to {FEW} columns, here are {layer.columns}"


def refuses(product: MmaParams) -> str | None:
    """Why no kernel computes the product, or None."""
    return None if product.itemsize == 2 else "the bitmap kernel expands values of 2 bytes only"


def params(weight: np.ndarray, product: MmaParams) -> BitmapParams:
    """The parameters for a weight (m, depth).

    Raises:
        FormatError: no kernel computes the product.

    """
    if reason := refuses(product):
        raise FormatError(f"cannot store the weight as a bitmap for {product}: {reason}")
    counts = -(-np.count_nonzero(_by_stage(weight, product), axis=1) // CHUNK)
    return BitmapParams(**fields_of(product), chunks=max(1, int(counts.sum())), capacity=max(1, int(counts.max())))


def pack(weight: np.ndarray, p: BitmapParams) -> dict[str, np.ndarray]:
    """The kernel's flat arrays for a weight (m, depth) of its dtype.

    `values`; `bitmap` (uint32: stage, fragment, 8 words); `offsets` (uint32: a fragment's first value in its stage);
    `starts` (int32: a stage's first chunk of values, and the end).
    """
    lanes = _by_stage(weight, p).reshape(p.stages, p.fragments, -1)
    present = lanes != 0
    counts = present.sum(axis=2)
    bits = present.reshape(p.stages, p.fragments, WORDS, 32) << np.arange(32, dtype=np.uint64)
    chunks = -(-counts.sum(axis=1) // CHUNK)
    starts = np.concatenate([[0], np.cumsum(chunks)]).astype(np.int32)
    values = np.zeros(p.chunks * CHUNK, weight.dtype)
    for stage, start in enumerate(starts[:-1] * CHUNK):
        values[start:start + counts[stage].sum()] = lanes[stage][present[stage]]
    return {"values": values, "bitmap": bits.sum(axis=3).astype(np.uint32).ravel(),
            "offsets": (np.cumsum(counts, axis=1) - counts).astype(np.uint32).ravel(), "starts": starts}


def unpack(arrays: dict[str, np.ndarray], p: BitmapParams) -> np.ndarray:
    """The weight (m, depth) of `pack`ed arrays."""
    bits = arrays["bitmap"][:, None] >> np.arange(32, dtype=np.uint32) & 1
    present = bits.astype(bool).reshape(p.stages, -1)
    lanes = np.zeros(present.shape, arrays["values"].dtype)
    for stage, start in enumerate(arrays["starts"][:-1] * CHUNK):
        lanes[stage, present[stage]] = arrays["values"][start:start + present[stage].sum()]
    t = p.tile
    registers = lanes.reshape(p.grid[0], p.k_tiles, t.rows // 16, t.depth // 16, 4, 32, 2)
    ordered = registers.transpose(0, 2, 1, 3, 5, 4, 6).reshape(-1, p.k_tiles * t.depth // 16, 32, CHUNK)
    return fragments.unpack(np.ascontiguousarray(ordered))[:p.m, :p.depth]


def _by_stage(weight: np.ndarray, product: MmaParams) -> np.ndarray:
    """The weight's elements, zeros to whole tiles included, as (stage, elements in the bitmap's order)."""
    t, (row_tiles, _, _) = product.tile, product.grid
    missing = (row_tiles * t.rows - weight.shape[0], product.k_tiles * t.depth - weight.shape[1])
    lanes = fragments.pack(np.pad(weight, ((0, missing[0]), (0, missing[1]))))
    parts = lanes.reshape(row_tiles, t.rows // 16, product.k_tiles, t.depth // 16, 32, 4, 2)
    return parts.transpose(0, 2, 1, 3, 5, 4, 6).reshape(row_tiles * product.k_tiles, -1)


def extra_work(p: BitmapParams, work: GpuWork) -> GpuWork:
    """Every warp expands the weights of its rows."""
    return replace(work, stage_decoded=float(p.tile.rows * p.tile.depth * p.tile.warps[1]))


def operand(p: BitmapParams) -> pipeline.Weight:
    """How the weight reaches the tensor cores."""
    count = p.stages * p.fragments
    arguments = {"values": (p.chunks * CHUNK, p.dtype), "bitmap": (count * WORDS, "uint32"),
                 "offsets": (count, "uint32"), "starts": (p.stages + 1, "int32")}
    return pipeline.Weight(arguments, _values_at(p) + p.capacity * VECTOR_BYTES, partial(_copy, p),
                           pipeline.by_warps(partial(_fetch, p)))


def _offsets_at(p: BitmapParams) -> int:
    """The byte of a stage at which the offsets lie, behind the bitmap."""
    return p.fragments * WORDS * 4


def _values_at(p: BitmapParams) -> int:
    """The byte of a stage at which the values lie, behind the offsets."""
    return _offsets_at(p) + -(-p.fragments * 4 // VECTOR_BYTES) * VECTOR_BYTES


def _copy(p: BitmapParams, b: Block, base: Expr, k_tile: Expr) -> None:
    stage = T.Bind(b.row // p.tile.rows * p.k_tiles + k_tile)
    first, end = T.Bind(b.buffers["starts"][stage]), T.Bind(b.buffers["starts"][stage + 1])

    def words(name: str, at: int, count: int) -> None:
        per_thread(b, count // 4, lambda number: ptx.copy_async(
            b.shared, base + at + number * VECTOR_BYTES, b.buffers[name], stage * count + number * 4, VECTOR_BYTES))

    def values(number: Expr) -> None:
        with T.If(first + number < end), T.Then():
            ptx.copy_async(b.shared, base + _values_at(p) + number * VECTOR_BYTES, b.buffers["values"],
                           (first + number) * CHUNK, VECTOR_BYTES)

    words("bitmap", 0, p.fragments * WORDS)
    words("offsets", _offsets_at(p), p.fragments)
    per_thread(b, p.capacity, values)


def _fetch(p: BitmapParams, b: Block, base: Expr, step: int, sums: Buffer) -> Callable[[int, int, Buffer], None]:
    t = p.tile
    values = ptx.registers(t.row_blocks * 8)
    for block in range(t.row_blocks):
        for half in range(2):
            number = T.Bind((b.warp_row * t.row_blocks + block) * (t.depth // 16) + step * 2 + half)
            _expand(p, b, base, number, values, block * 8 + half * 4)
    return products(b, values, sums)


def _expand(p: BitmapParams, b: Block, base: Expr, number: Expr, to: Buffer, first: int) -> None:
    """A fragment's four registers from its bitmap and values."""
    words, offset = ptx.registers(WORDS), ptx.registers(1)
    for quad in range(0, WORDS, 4):
        ptx.load_words(words, quad, 4, b.shared, base + (number * WORDS + quad) * 4)
    ptx.load_words(offset, 0, 1, b.shared, base + _offsets_at(p) + number * 4)
    upper = b.lane >= 16
    bit = T.Bind(T.Cast("uint32", b.lane % 16 * 2))
    below = T.Bind(T.shift_left(T.uint32(1), bit) - T.uint32(1))
    for register in range(4):
        low, high = words[register * 2], words[register * 2 + 1]
        word = T.Bind(T.if_then_else(upper, high, low))
        before = T.popcount(T.bitwise_and(word, below)) + T.if_then_else(upper, T.popcount(low), T.uint32(0))
        at = T.Bind(T.Cast("int32", offset[0] + before))
        mine = T.Bind(T.shift_right(word, bit))
        present = [T.bitwise_and(mine, T.uint32(1)), T.bitwise_and(T.shift_right(mine, T.uint32(1)), T.uint32(1))]
        values = ptx.registers(2, "uint16")
        for i, index in enumerate([at, at + T.Cast("int32", present[0])]):
            T.buffer_store(values, T.uint16(0), [i])
            with T.If(present[i] != T.uint32(0)), T.Then():
                ptx.emit("ld.shared.b16", values[i], b.shared + T.Cast("uint32", base + _values_at(p) + index * 2))
        pair = [T.Cast("uint32", values[i]) for i in range(2)]
        T.buffer_store(to, T.bitwise_or(pair[0], T.shift_left(pair[1], T.uint32(16))), [first + register])
        T.buffer_store(offset, offset[0] + T.popcount(low) + T.popcount(high), [0])


FAMILY = family("bitmap", ("bitmap",), weight=operand, pack=pack, unpack=unpack, params=params, refuses=refuses,
                extra_work=extra_work, reject=reject,
                tiles=tuple(tile for tile in TILES if tile.columns <= FEW))
