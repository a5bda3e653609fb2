"""Any weight, exactly, as a 2:4 matrix and the few weights that it leaves over: `mma.sp`, then `mma` on what is left.

Of every four weights the first two non-zeros are the 2:4 matrix's, packed as in `mma_sp.py`. The rest of 16 rows in a
stage of K is dealt to slots, eight an item: a slot is one weight with its row and its feature. Multiplying an item is
one dense product of 16 rows x 8 slots, whose right operand is gathered from the activations that the stage has in
shared memory anyway: the rest needs no further traffic of them, no checks of bounds and no launch of its own.

A slot's word is its value (upper 16 bits), row of the 16 and feature of the stage (ROW_BITS and FEATURE_BITS). All
stages have room for the items of the fullest, so that a copy needs not look up where they begin.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import GpuWork
from sparsec.errors import FormatError
from sparsec.formats.nm import group_counts
from sparsec.kernels.cuda import mma_sp, pipeline, ptx, staging
from sparsec.kernels.cuda.block import Block, per_thread
from sparsec.kernels.cuda.family import family
from sparsec.kernels.cuda.metadata import GROUP, KEPT
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams, fields_of
from sparsec.kernels.emit.tir import Buffer, Expr

INSTRUCTIONS = {
    "float16": "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32",
    "bfloat16": "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32",
}
ROWS = 16
SLOTS = 8  # of an item
ITEM_BYTES = SLOTS * 4
ROW_BITS, FEATURE_BITS = 4, 12


@dataclass(frozen=True, kw_only=True)
class RestParams(MmaParams):
    """A product whose weight is 2:4 but for a rest; its dtype has 2 bytes.

    Attributes:
        capacity: items that a stage has room for.
        items: those that all stages have, which the cost depends on and the kernel does not.

    """

    capacity: int
    items: int = field(default=0, compare=False)

    @property
    def stages(self) -> int:
        """Stages of the whole weight."""
        return self.grid[0] * self.k_tiles

    @property
    def blocks(self) -> int:
        """Blocks of 16 rows of a stage."""
        return self.tile.rows // ROWS

    @property
    def bounds_bytes(self) -> int:
        """Bytes of a stage for the bounds of its blocks' items, in front of the items."""
        return -(-self.blocks * 4 // VECTOR_BYTES) * VECTOR_BYTES

    @property
    def stage_bytes(self) -> int:
        """Bytes of a stage."""
        return self.bounds_bytes + self.capacity * ITEM_BYTES


def refuses(product: MmaParams) -> str | None:
    """Why no kernel computes the product, or None."""
    if product.itemsize != 2:
        return "the rest of a 2:4 weight is added to products of 2-byte values only"
    if product.depth % GROUP:
        return f"K = {product.depth} is not a multiple of {GROUP}"
    return mma_sp.refuses(product)


def left_over(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of what the 2:4 matrix of a weight (m, depth) leaves over, row by row."""
    crowded = np.flatnonzero(group_counts(weight, GROUP) > KEPT)
    present = weight.reshape(-1, GROUP)[crowded] != 0
    group, place = np.nonzero(present & (np.cumsum(present, axis=1) > KEPT))
    rows, columns = np.divmod(crowded[group] * GROUP + place, weight.shape[1])
    return rows, columns


def params(weight: np.ndarray, product: MmaParams) -> RestParams:
    """The parameters for a weight (m, depth).

    Raises:
        FormatError: no kernel computes the product.

    """
    if reason := refuses(product):
        raise FormatError(f"cannot store the weight as 2:4 and a rest for {product}: {reason}")
    empty = RestParams(**fields_of(product), capacity=0)
    by_stage = _items(_blocks(empty, *left_over(weight)), empty).sum(axis=1)
    return replace(empty, capacity=int(by_stage.max()), items=int(by_stage.sum()))


def _blocks(p: RestParams, rows: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The block of 16 rows of a stage, counted over all stages, that weights lie in."""
    t = p.tile
    stage = rows // t.rows * p.k_tiles + features // t.depth
    blocks: np.ndarray = stage * p.blocks + rows % t.rows // ROWS
    return blocks


def _items(blocks: np.ndarray, p: RestParams) -> np.ndarray:
    """Numbers of items (stage, block), from the blocks of all weights left over."""
    return -(-np.bincount(blocks, minlength=p.stages * p.blocks) // SLOTS).reshape(p.stages, p.blocks)


def pack(weight: np.ndarray, p: RestParams) -> dict[str, np.ndarray]:
    """The kernel's flat arrays for a weight (m, depth) of its dtype.

    Those of `mma_sp`, and `rest` (uint32: stage, bounds and items): a block's bounds are its first item in the stage
    and, in the upper half, the end; an item is SLOTS words.
    """
    rows, columns = left_over(weight)
    regular = weight.copy()
    regular[rows, columns] = 0
    order = np.argsort(_blocks(p, rows, columns), kind="stable")
    rows, columns = rows[order], columns[order]
    blocks = _blocks(p, rows, columns)
    counts = _items(blocks, p)
    ends = np.cumsum(counts, axis=1)
    within = np.arange(len(blocks)) - np.searchsorted(blocks, blocks)
    stage, item, slot = blocks // p.blocks, (ends - counts).ravel()[blocks] + within // SLOTS, within % SLOTS
    features = (columns % p.tile.depth).astype(np.uint32)
    values = weight[rows, columns].view(np.uint16).astype(np.uint32)
    items = np.zeros((p.stages, p.capacity, SLOTS), np.uint32)
    # Slots without a weight have value 0 and a feature that their item loads anyway.
    items[stage[slot == 0], item[slot == 0]] = features[slot == 0, np.newaxis]
    items[stage, item, slot] = values << 16 | (rows % ROWS << FEATURE_BITS).astype(np.uint32) | features
    bounds = np.zeros((p.stages, p.bounds_bytes // 4), np.uint32)
    bounds[:, :p.blocks] = ends - counts | ends << 16
    return {**mma_sp.pack(regular, p), "rest": np.hstack([bounds, items.reshape(p.stages, -1)]).ravel()}


def unpack(arrays: dict[str, np.ndarray], p: RestParams) -> np.ndarray:
    """The weight (m, depth) of `pack`ed arrays."""
    weight = mma_sp.unpack(arrays, p).copy()
    bounds, items = np.split(arrays["rest"].reshape(p.stages, -1), [p.bounds_bytes // 4], axis=1)
    for stage, block in np.ndindex(p.stages, p.blocks):
        words = items[stage, (bounds[stage, block] & 0xFFFF) * SLOTS:(bounds[stage, block] >> 16) * SLOTS]
        words = words[words >> 16 != 0]
        rows = (stage // p.k_tiles * p.blocks + block) * ROWS + (words >> FEATURE_BITS & ROWS - 1)
        columns = stage % p.k_tiles * p.tile.depth + (words & (1 << FEATURE_BITS) - 1)
        weight[rows, columns] = (words >> 16).astype(np.uint16).view(weight.dtype)
    return weight


def extra_work(p: RestParams, work: GpuWork) -> GpuWork:
    """A product for every item and block of columns."""
    return replace(work, stage_items=p.items / p.stages * p.tile.columns / 8)


def operand(p: RestParams) -> pipeline.Weight:
    """How the weight reaches the tensor cores."""
    regular = mma_sp.weight(p)

    def copy(b: Block, base: Expr, k_tile: Expr) -> None:
        regular.copy(b, base, k_tile)
        _copy(p, b, base + regular.stage_bytes, k_tile)

    def multiply(b: Block, base: Expr, activations: Expr, sums: Buffer) -> None:
        regular.multiply(b, base, activations, sums)
        _multiply(p, b, base + regular.stage_bytes, activations, sums)

    return replace(regular, arguments=regular.arguments | {"rest": (p.stages * p.stage_bytes // 4, "uint32")},
                   stage_bytes=regular.stage_bytes + p.stage_bytes, copy=copy, multiply=multiply)


def _copy(p: RestParams, b: Block, base: Expr, k_tile: Expr) -> None:
    """Start copying a stage's bounds and items."""
    first = T.Bind((b.row // p.tile.rows * p.k_tiles + k_tile) * (p.stage_bytes // 4))
    per_thread(b, p.stage_bytes // VECTOR_BYTES, lambda number: ptx.copy_async(
        b.shared, base + number * VECTOR_BYTES, b.buffers["rest"], first + number * 4, VECTOR_BYTES))


def _multiply(p: RestParams, b: Block, base: Expr, activations: Expr, sums: Buffer) -> None:
    """Add the products of a stage's items of the warp's rows."""
    t = p.tile
    bounds, slots = ptx.registers(1), ptx.registers(2)
    for block in range(t.row_blocks):
        ptx.load_words(bounds, 0, 1, b.shared, base + (b.warp_row * t.row_blocks + block) * 4)
        first, end = (T.Cast("int32", word) for word in (T.bitwise_and(bounds[0], T.uint32(0xFFFF)),
                                                         T.shift_right(bounds[0], T.uint32(16))))
        with T.serial(T.Bind(first), T.Bind(end), unroll=False) as item:
            ptx.load_words(slots, 0, 2, b.shared, base + p.bounds_bytes + item * ITEM_BYTES + b.lane % 4 * 8)
            left = _left(b, slots)
            for column_block in range(t.column_blocks):
                ptx.multiply(INSTRUCTIONS[p.dtype], sums, (block * t.column_blocks + column_block) * 4,
                             left, [_right(b, slots, activations, column_block)])


def _left(b: Block, slots: Buffer) -> list[Expr]:
    """The slots 2t and 2t + 1 as columns of a 16 x 8 matrix: lane 4g + t holds its rows g and g + 8."""
    def pair(row: Expr) -> Expr:
        low, high = (T.if_then_else(T.bitwise_and(T.shift_right(slots[i], T.uint32(FEATURE_BITS)), T.uint32(ROWS - 1))
                                    == row, T.shift_right(slots[i], T.uint32(16)), T.uint32(0)) for i in range(2))
        return T.Bind(_joined(low, high))

    row = T.Bind(T.Cast("uint32", b.lane // 4))
    return [pair(row), pair(row + T.uint32(8))]


def _right(b: Block, slots: Buffer, activations: Expr, column_block: int) -> Expr:
    """The activations of the slots 2t and 2t + 1 for column g of a block of 8."""
    values = ptx.registers(2, "uint16")
    for i in range(2):
        feature = T.Cast("int32", T.bitwise_and(slots[i], T.uint32((1 << FEATURE_BITS) - 1)))
        staging.load_element(b, values, i, activations, feature, column_block)
    return _joined(*(T.Cast("uint32", values[i]) for i in range(2)))


def _joined(low: Expr, high: Expr) -> Expr:
    return T.bitwise_or(low, T.shift_left(high, T.uint32(16)))


FAMILY = family("mma.sp + rest", ("nm 2:4 + rest",), weight=operand, pack=pack, unpack=unpack, params=params,
                refuses=refuses, extra_work=extra_work, sparse=True)
