"""MatMul of two activations, in numpy's sense: a register block of rows x vectors over packed tiles of columns.

A tile of B is copied once into rows of whole vectors, padded with zeros; a step of K then broadcasts one element of A
for each row of the block and multiplies it with the tile's vectors. Sums stay in registers over the whole of K.
A product with a single column has K on the lanes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.fold import fold_row
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store
from sparsec.kernels.tensors import BatchMatmul


def reference(a: np.ndarray, b: np.ndarray, shape: BatchMatmul) -> np.ndarray:
    """C, in float64, of matrices that have been chosen."""
    left = a.reshape(*shape.a_batch, shape.rows, shape.inner).astype(np.float64)
    return left @ b.reshape(*shape.b_batch, shape.inner, shape.columns).astype(np.float64)


def build(shape: BatchMatmul, isa: Isa) -> Kernel:
    """The kernel: (a, [a_chosen], b, [b_chosen]) -> c, for matrices that are not empty."""
    arguments: dict[str, tuple[int | None, str]] = {}
    sides = zip("ab", shape.matrices, (shape.rows, shape.columns), (shape.a_batch, shape.b_batch), shape.chosen,
                strict=True)
    for name, matrices, width, batch, chosen in sides:
        arguments[name] = (matrices * shape.inner * width, "float32")
        if chosen:
            arguments[f"{name}_chosen"] = (math.prod(batch), "int64")
    arguments["c"] = (math.prod(shape.batch) * shape.rows * shape.columns, "float32")
    emit = _emit_column if shape.columns == 1 < shape.inner else _emit
    return kernel(arguments, lambda buffers: emit(buffers, shape, isa))


@dataclass(frozen=True)
class _Tiles:
    """Equal tiles of neighbouring columns.

    Attributes:
        first, count: the first column, and how many tiles follow.
        vectors: SIMD vectors of a tile.
        valid: columns of the last vector that exist.
        rows: rows of the register block.

    """

    first: int
    count: int
    vectors: int
    valid: int
    rows: int


def _tilings(p: BatchMatmul, isa: Isa) -> list[_Tiles]:
    """Whole tiles, then what is left of the columns."""
    lanes, accumulators = isa.lanes, 24 if isa.registers == 32 else 12
    wide = (8 if isa.registers == 32 else 4) if p.rows == 1 else (4 if isa.registers == 32 else 2)
    vectors = -(-p.columns // lanes)
    wide = -(-vectors // -(-vectors // wide))
    whole = p.columns // (wide * lanes)
    tilings = [_Tiles(0, whole, wide, lanes, _block_rows(p.rows, accumulators // wide))] if whole else []
    rest = p.columns - whole * wide * lanes
    if rest:
        narrow = -(-rest // lanes)
        tilings.append(_Tiles(p.columns - rest, 1, narrow, rest - (narrow - 1) * lanes,
                              _block_rows(p.rows, accumulators // narrow)))
    return tilings


def _block_rows(rows: int, most: int) -> int:
    """Rows of a block such that blocks overlap as little as can be."""
    return -(-rows // -(-rows // most))


def _emit(b: Buffers, p: BatchMatmul, isa: Isa) -> None:
    """Threads share batches x tiles, and the blocks of rows where there are few of those."""
    batches = math.prod(p.batch)
    for tiles in _tilings(p, isa):
        blocks = -(-p.rows // tiles.rows)
        parts = 1 if batches * tiles.count >= 2 * isa.threads else min(isa.threads, blocks)
        with (T.serial if isa.threads == 1 else T.parallel)(0, batches * tiles.count * parts) as unit:
            batch = T.floordiv(unit, tiles.count * parts)
            column = tiles.first + T.floormod(T.floordiv(unit, parts), tiles.count) * (tiles.vectors * isa.lanes)
            share = -(-blocks // parts)
            _tile(b, p, tiles, isa.lanes, T.Bind(batch), T.Bind(column), T.Bind(T.floormod(unit, parts) * share), share)


def _emit_column(b: Buffers, p: BatchMatmul, isa: Isa) -> None:
    """Products with a single column: a row of A is folded with the column, vector by vector."""
    batches = math.prod(p.batch)
    parts = 1 if batches >= 2 * isa.threads else min(isa.threads, p.rows)
    share = -(-p.rows // parts)
    with (T.serial if isa.threads == 1 else T.parallel)(0, batches * parts) as unit:
        batch, first = T.Bind(T.floordiv(unit, parts)), T.Bind(T.floormod(unit, parts) * share)
        a_start = T.Bind(_start(b, p, "a", batch))
        column = T.Bind(_start(b, p, "b", batch))
        with T.serial(first, T.min(first + share, p.rows)) as row:
            at = T.Bind(a_start + row * p.inner)
            total = fold_row(p.inner, isa.lanes, 0.0, lambda x, y: x + y, lambda k, lanes: (
                load(b["a"], at + k, lanes) * load(b["b"], column + k, lanes)))
            store(b["c"], batch * p.rows + row, total)


def _start(b: Buffers, p: BatchMatmul, name: str, batch: Expr) -> Expr:
    """Where the matrix that a batch of C reads begins in operand `name`."""
    dims, width = (p.a_batch, p.rows) if name == "a" else (p.b_batch, p.columns)
    place: Expr = 0
    for axis, dim in enumerate(dims):
        if dim > 1:
            position = T.floormod(T.floordiv(batch, math.prod(p.batch[axis + 1:])), p.batch[axis])
            place = place + position * math.prod(dims[axis + 1:])
    chosen = b[f"{name}_chosen"][place] if f"{name}_chosen" in b else place
    return chosen * (p.inner * width)


def _tile(b: Buffers, p: BatchMatmul, tiles: _Tiles, lanes: int, batch: Expr, column: Expr, first: Expr,
          blocks: int) -> None:
    """All rows of some columns: `blocks` register blocks from block `first`."""
    a_start = T.Bind(_start(b, p, "a", batch))
    b_start = T.Bind(_start(b, p, "b", batch) + column)
    width, source, step = tiles.vectors * lanes, b["b"], p.columns
    if tiles.valid < lanes or (p.columns != width and p.rows > 2 * tiles.rows):
        source, step = T.alloc_buffer((p.inner * width,), "float32"), width
        _pack(b["b"], b_start, source, p, tiles, lanes)
        b_start = 0
    with T.serial(0, blocks) as block:
        row = T.Bind(T.min((first + block) * tiles.rows, p.rows - tiles.rows))
        sums = registers(tiles.rows * tiles.vectors, lanes)
        for register in range(tiles.rows * tiles.vectors):
            store(sums, register * lanes, splat(0.0, lanes))
        with T.serial(0, p.inner) as k:
            for v in range(tiles.vectors):
                columns = load(source, b_start + k * step + v * lanes, lanes)
                for r in range(tiles.rows):
                    left = splat(b["a"][a_start + (row + r) * p.inner + k], lanes)
                    add_to(sums, (r * tiles.vectors + v) * lanes, left * columns)
        target = T.Bind((batch * p.rows + row) * p.columns + column)
        for r in range(tiles.rows):
            for v in range(tiles.vectors):
                valid = tiles.valid if v == tiles.vectors - 1 else lanes
                vector = load(sums, (r * tiles.vectors + v) * lanes, lanes)
                _store_first(b["c"], target + r * p.columns + v * lanes, vector, valid, lanes)


def _pack(source: Buffer, start: Expr, tile: Buffer, p: BatchMatmul, tiles: _Tiles, lanes: int) -> None:
    """Copy a tile of B into rows of whole vectors; columns that do not exist become zero."""
    with T.serial(0, p.inner) as k:
        for v in range(tiles.vectors):
            if v < tiles.vectors - 1 or tiles.valid == lanes:
                position = (k * tiles.vectors + v) * lanes
                store(tile, position, load(source, start + k * p.columns + v * lanes, lanes))
            else:
                for lane in range(lanes):
                    value = source[start + k * p.columns + v * lanes + lane] if lane < tiles.valid else T.float32(0)
                    T.buffer_store(tile, value, [(k * tiles.vectors + v) * lanes + lane])


def _store_first(target: Buffer, index: Expr, vector: Expr, valid: int, lanes: int) -> None:
    """Store the first `valid` elements of a vector."""
    if valid == lanes:
        store(target, index, vector)
        return
    elements = registers(1, lanes)
    store(elements, 0, vector)
    for lane in range(valid):
        T.buffer_store(target, elements[lane], [index + lane])
