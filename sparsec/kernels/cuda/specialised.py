"""The skeleton of products of many columns on Hopper: persistent blocks, one warp group that copies, others multiply.

One thread of the first warp group fills a ring of stages by bulk copies, as far ahead as the ring allows, through all
of the block's tiles; the other warp groups multiply what has arrived, 64 rows each, and finish their sums while the
next tile is fetched. Every stage has two barriers: it is full when its bytes are there, and empty when every warp that
multiplies has done so.

The weight comes packed stage by stage, the activations as boxes of the matrix X (n, k). Tiles are numbered in groups of
`GROUP_ROWS` rows, in which the blocks that run at a time share weights and activations in the L2 cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from sparsec.errors import FormatError
from sparsec.kernels.cuda import bulk, epilogue, pipeline, ptx
from sparsec.kernels.cuda.block import Block
from sparsec.kernels.cuda.params import MmaParams
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

GROUP_THREADS = 128  # of a warp group
GROUP_ROWS = 2048  # what an H200 was fastest with at 8192 x 8192 x 4096
ROW_BYTES = 128
STORED_BLOCKS = 4  # of 8 columns, which a warp stores together
COPYING, MULTIPLYING = 40, 232  # registers of a thread
BLOCKS = 132
"""Multiprocessors of an H100 or H200: a block each, or fewer where tiles are dealt evenly to fewer."""


@dataclass(frozen=True, kw_only=True)
class PersistentParams(MmaParams):
    """A product whose tiles are dealt to blocks.

    Attributes:
        blocks: thread blocks.

    """

    blocks: int

    @property
    def tiles(self) -> int:
        """Tiles of the product."""
        return math.prod(self.grid)

    @property
    def turns(self) -> int:
        """Tiles of a block, the last of which some blocks have not."""
        return -(-self.tiles // self.blocks)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return GROUP_THREADS + self.tile.threads


@dataclass(frozen=True)
class Operand:
    """How a family's weight reaches the tensor cores.

    Attributes:
        arguments: the arrays of `pack`: name -> (length, dtype), the first of them stage by stage.
        unit_bytes: bytes of 64 rows of the weight in a stage.
        multiply: starts the products of a stage and ends those of the one before: (block, byte of the weight, byte of
            the activations, sums).
        finish: waits for all products: (block, sums).

    """

    arguments: pipeline.Arguments
    unit_bytes: int
    multiply: Callable[[Block, Expr, Expr, Buffer], None]
    finish: Callable[[Block, Buffer], None]


def refuses(p: MmaParams) -> str | None:
    """Why the skeleton does not compute a product, or None."""
    t = p.tile
    reasons = {
        f"a stage of bulk copies is {ROW_BYTES} bytes deep": t.depth * p.itemsize != ROW_BYTES,
        "warp groups take 64 rows and all columns of a tile": t.warps[1] != 1 or t.rows != 16 * t.warps[0]
            or t.rows % 64 != 0,
        "bulk copies gather no inputs": p.gather is not None or p.slices is not None,
        "bulk copies bring matrices, not windows of images": p.window is not None,
        "persistent blocks do not share K": p.split_k > 1,
        f"rows of {p.k} inputs are no multiple of 16 bytes": p.k * p.itemsize % 16 != 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def dealt(product: MmaParams) -> int:
    """The blocks that tiles are dealt to, evenly, with no more turns than all multiprocessors need."""
    tiles = math.prod(product.grid)
    return -(-tiles // -(-tiles // BLOCKS))


def shared_bytes(p: MmaParams, unit_bytes: int) -> int:
    """Bytes of shared memory that a block takes."""
    return _Places(p, unit_bytes).end


def build(p: PersistentParams, operand: Operand) -> Kernel:
    """The kernel as a PrimFunc over flat buffers, see `pipeline.arguments`.

    Raises:
        FormatError: no kernel computes the product.

    """
    if reason := refuses(p):
        raise FormatError(f"no kernel of specialised warps for {p}: {reason}")
    kernel = pipeline.prim_func(pipeline.arguments(p, operand.arguments), lambda buffers: _product(p, buffers, operand))
    return kernel.with_attr(pipeline.BLOCKS, 1)


@dataclass(frozen=True)
class _Places:
    """Where what lies in shared memory: the activations of all stages, their weights, the epilogue's, barriers."""

    params: MmaParams
    unit_bytes: int

    @property
    def columns_bytes(self) -> int:
        """Bytes of a stage's activations."""
        return self.params.tile.columns * ROW_BYTES

    @property
    def rows_bytes(self) -> int:
        """Bytes of a stage's weights."""
        return self.params.tile.rows // 64 * self.unit_bytes

    @property
    def weights(self) -> int:
        """Where the weights begin."""
        return self.params.tile.stages * self.columns_bytes

    @property
    def lines(self) -> int:
        """Where the epilogue's memory begins."""
        return self.weights + self.params.tile.stages * self.rows_bytes

    @property
    def full(self) -> int:
        """Where the barriers of full stages begin."""
        return self.lines + epilogue.shared_bytes(self.params, STORED_BLOCKS)

    @property
    def empty(self) -> int:
        """Where the barriers of empty stages begin."""
        return self.full + self.params.tile.stages * bulk.BARRIER_BYTES

    @property
    def end(self) -> int:
        """Bytes in all."""
        return self.empty + self.params.tile.stages * bulk.BARRIER_BYTES


@dataclass(frozen=True)
class _Ring:
    """The stages at work.

    Attributes:
        places: in shared memory.
        shared: its address.
        number: of the block.

    """

    places: _Places
    shared: Expr
    number: Expr

    def slot(self, turn: Expr) -> Expr:
        """The stage of a turn, counted through all tiles of the block."""
        return T.Bind(turn % self.places.params.tile.stages)

    def parity(self, turn: Expr) -> Expr:
        """The parity of the stage's phase in which a turn fills it."""
        return T.Cast("uint32", turn // self.places.params.tile.stages % 2)

    def address(self, at: Expr) -> Expr:
        """The address of a byte."""
        return self.shared + T.Cast("uint32", at)

    def full(self, slot: Expr) -> Expr:
        """The barrier of a stage's arrival."""
        return self.address(self.places.full + slot * bulk.BARRIER_BYTES)

    def empty(self, slot: Expr) -> Expr:
        """The barrier of a stage's release."""
        return self.address(self.places.empty + slot * bulk.BARRIER_BYTES)


def _product(p: PersistentParams, buffers: Buffers, operand: Operand) -> None:
    places = _Places(p, operand.unit_bytes)
    matrix = bulk.matrix_map(buffers["x"], p.n, p.k, p.tile.columns, ROW_BYTES // p.itemsize)
    with (T.launch_thread("blockIdx.x", p.blocks) as number,
          T.launch_thread("threadIdx.x", p.threads) as thread):
        ring = _Ring(places, ptx.shared_memory(places.end), number)
        with T.If(thread == 0), T.Then():
            for stage in range(p.tile.stages):
                bulk.init(ring.full(stage), 1)
                bulk.init(ring.empty(stage), p.tile.threads // 32)
            bulk.publish()
        ptx.barrier()
        with T.If(thread < GROUP_THREADS):
            with T.Then():
                bulk.limit_registers(COPYING, more=False)
                with T.If(thread == 0), T.Then():
                    _copy(p, buffers, operand, ring, matrix)
            with T.Else():
                bulk.limit_registers(MULTIPLYING, more=True)
                _multiply(p, buffers, operand, ring, T.Bind(thread - GROUP_THREADS))


@contextmanager
def _tiles(p: PersistentParams, ring: _Ring) -> Iterator[tuple[Expr, Expr, Expr]]:
    """The block's tiles: the first turn of stages, and the tile's place along rows and columns."""
    with T.serial(0, p.turns, unroll=False) as turn:
        tile = T.Bind(turn * p.blocks + ring.number)
        with T.If(tile < p.tiles), T.Then():
            rows, columns, _ = p.grid
            row, column = _raster(tile, rows, columns, max(1, GROUP_ROWS // p.tile.rows))
            yield turn * p.k_tiles, row, column


def _raster(number: Expr, rows: int, columns: int, group: int) -> tuple[Expr, Expr]:
    """A tile's place, rows fastest, in groups of rows."""
    if rows <= group:
        return T.Bind(number % rows), T.Bind(number // rows)
    first = T.Bind(number // (group * columns) * group)
    within = T.Bind(number % (group * columns))
    height = T.Bind(T.min(rows - first, group)) if rows % group else group
    return T.Bind(first + within % height), T.Bind(within // height)


def _copy(p: PersistentParams, buffers: Buffers, operand: Operand, ring: _Ring, matrix: Expr) -> None:
    """Fill stages through all tiles of the block."""
    places = ring.places
    name, (_, dtype) = next(iter(operand.arguments.items()))
    itemsize = 1 if dtype == "uint8" else p.itemsize  # 2:4 weights are bytes, whatever they hold
    units = p.tile.rows // 64
    with _tiles(p, ring) as (first, row, column), T.serial(0, p.k_tiles, unroll=False) as stage:
        turn = T.Bind(first + stage)
        slot = ring.slot(turn)
        bulk.wait(ring.empty(slot), T.bitwise_xor(ring.parity(turn), T.uint32(1)))
        full = T.Bind(ring.full(slot))
        bulk.expect(full, places.columns_bytes + places.rows_bytes)
        bulk.copy_box(ring.address(slot * places.columns_bytes), matrix, column * p.tile.columns, stage * p.tile.depth,
                      full)
        index = ((row * p.k_tiles + stage) * units) * (operand.unit_bytes // itemsize)
        bulk.copy(ring.address(places.weights + slot * places.rows_bytes), buffers[name], index, places.rows_bytes,
                  full)


def _multiply(p: PersistentParams, buffers: Buffers, operand: Operand, ring: _Ring, thread: Expr) -> None:
    """Multiply the stages of the block's tiles, and store what they sum up to."""
    places, count = ring.places, p.tile.column_blocks * 4
    lane, warp = T.Bind(thread % 32), T.Bind(thread // 32)
    sums = ptx.registers(count, epilogue.sum_type(p))
    with _tiles(p, ring) as (first, row, column):
        b = Block(p, buffers, ring.shared, thread, lane, warp, T.int32(0), T.Bind(row * p.tile.rows),
                  T.Bind(column * p.tile.columns), T.int32(0))
        for register in range(count):
            T.buffer_store(sums, T.Cast(epilogue.sum_type(p), 0), [register])

        def one(stage: Expr) -> None:
            turn = T.Bind(first + stage)
            slot = ring.slot(turn)
            bulk.wait(ring.full(slot), ring.parity(turn))
            operand.multiply(b, T.Bind(places.weights + slot * places.rows_bytes), T.Bind(slot * places.columns_bytes),
                             sums)
            with T.If(T.And(lane == 0, stage > 0)), T.Then():
                bulk.arrive(ring.empty(ring.slot(T.Bind(turn - 1))))

        if p.k_tiles > 1:
            with T.serial(0, p.k_tiles // 2, unroll=False) as pair:  # stages in flight have registers of their own
                one(T.Bind(pair * 2))
                one(T.Bind(pair * 2 + 1))
        if p.k_tiles % 2:
            one(T.Bind(T.int32(p.k_tiles - 1)))
        operand.finish(b, sums)
        with T.If(lane == 0), T.Then():
            bulk.arrive(ring.empty(ring.slot(T.Bind(first + p.k_tiles - 1))))
        epilogue.store(replace(b, shared=ring.address(places.lines)), sums, STORED_BLOCKS)
