"""Dense weight times dense vectors, of few bound by the bandwidth of the weight.

Rows are the lanes: the weight lies in blocks of `vectors` SIMD vectors of rows, one column after another, so that it is
read as one stream and no sum crosses lanes. A block multiplies all vectors while it is in the caches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.rows.layer import BYTES, KEPT, MAX_ROWS, RowProduct, codecs, groups_of, stored_product
from sparsec.kernels.cpu.rows.matvec import (
    Matvec,
    arguments,
    ask_ahead,
    even_streams,
    finish_rows,
    finish_vectors,
    in_groups,
    lines_ahead,
    streams_of,
)
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.blocks import PaddedBlocks
from sparsec.kernels.packing.values import CODECS
from sparsec.target import Target


@dataclass(frozen=True)
class GemvParams:
    """A kernel.

    Attributes:
        shape: the product.
        vectors: SIMD vectors of rows in a block.
        group: rows of X in flight; a block is read once for each group.
        unroll: columns per iteration, each with its own accumulators.
        lanes: floats of a vector.
        threads: threads, which take equal shares of the blocks.
        codec: one of `CODECS`.
        ahead, streams: as of `BlockedRows`.

    """

    shape: Matvec
    vectors: int
    group: int
    unroll: int
    lanes: int
    threads: int = 1
    codec: str = "f32"
    ahead: int = 0
    streams: int = 1

    @property
    def height(self) -> int:
        """Rows, completed to whole vectors."""
        return round_up(self.shape.outputs, self.lanes)

    @property
    def blocks(self) -> int:
        """Blocks of rows; the last may hold fewer vectors than the others."""
        return -(-self.height // (self.vectors * self.lanes))


def choose(shape: Matvec, isa: Isa, most: int = 0) -> GemvParams:
    """The blocking that fills the registers: at least eight sums in flight, to hide the latency of FMA.

    With `most`, no more rows are in flight.
    """
    budget = isa.registers - isa.registers // 4
    group = -(-shape.batch // -(-shape.batch // (most or budget // 3)))
    vectors = max(1, min(4, budget // group, -(-shape.outputs // isa.lanes)))
    streams = streams_of(shape, vectors, isa) if group == shape.batch else 1
    unroll = max(1, min(4, budget // (vectors * group * streams), 8 // (vectors * group * streams)))
    return GemvParams(shape, vectors, group, unroll, isa.lanes, isa.threads, streams=streams)


def candidates(layer: RowProduct, target: Target, isa: Isa, precision: str) -> Iterator[Option]:
    """The kernels of every codec."""
    shape = layer.shape
    groups = groups_of(shape) if shape.batch <= MAX_ROWS else (0,)
    chosen = dict.fromkeys(choose(shape, isa, group) for group in groups)
    for codec, own in product(codecs(layer, isa, precision), chosen):
        p = replace(own, codec=codec)
        vectors, rounds = shape.inputs * -(-shape.outputs // isa.lanes), -(-shape.batch // p.group)
        nbytes = BYTES[codec] * layer.weight.size
        iterations = p.blocks * rounds * max(1, shape.inputs // p.unroll)
        p = replace(p, ahead=lines_ahead(nbytes * rounds, iterations, layer.network, target.l2_bytes))
        block = nbytes // p.blocks
        again = nbytes * (rounds - 1)  # what later groups of rows read of it
        work = Work(vectors * shape.batch, vectors * (rounds + shape.batch), p.blocks * rounds,
                    memory_bytes=nbytes + (again if block > KEPT * target.l2_bytes else 0),
                    l2_bytes=again if KEPT * target.l1_bytes < block <= KEPT * target.l2_bytes else 0,
                    kernel=f"gemv/{codec}", pixels=shape.batch)
        yield Option("dense", f"gemv/{codec}", f"V={p.vectors} group={p.group} U={p.unroll}", p, nbytes, work, codec)


def recipe(params: GemvParams) -> PaddedBlocks:
    """What the kernel reads: `values`, blocks x inputs x rows of the block."""
    return PaddedBlocks(params.height, params.vectors * params.lanes, params.codec)


def build(params: GemvParams, _isa: Isa) -> Kernel:
    """The kernel: (values, bias, x, [residual]) -> y."""
    values = params.height * params.shape.inputs, CODECS[params.codec]
    return kernel(arguments(params.shape, values=values), lambda b: _emit(b, params))


def _emit(b: Buffers, p: GemvParams) -> None:
    shape = p.shape
    in_place = p.height == shape.outputs
    sums = b["y"] if in_place else T.alloc_buffer((shape.batch * p.height,), "float32")
    whole = p.height // (p.vectors * p.lanes)

    even_streams(whole, p.threads, p.streams, lambda blocks: _blocks(b, p, blocks, p.vectors, sums))
    if whole < p.blocks:
        _blocks(b, p, [whole], p.height // p.lanes - whole * p.vectors, sums)
    if not in_place:
        finish_rows(b, shape, sums, p.height, p.lanes)


def _blocks(b: Buffers, p: GemvParams, blocks: Sequence[Expr], vectors: int, sums: Buffer) -> None:
    """The products of blocks of `vectors` vectors of rows, into `sums` (batch, height); finished where that is y."""
    in_groups(p.shape.batch, p.group, lambda *rows: _products(b, p, blocks, vectors, rows, sums))


def _products(b: Buffers, p: GemvParams, blocks: Sequence[Expr], vectors: int, group: tuple[Expr, int],
              sums: Buffer) -> None:
    """The products of some blocks and `count` rows of X from `first` on."""
    lanes, inputs = p.lanes, p.shape.inputs
    first, count = group
    rows = [block * (p.vectors * lanes) for block in blocks]
    starts = [T.Bind(T.Cast("int64", row) * inputs) for row in rows]
    totals = registers(count * len(blocks) * vectors * p.unroll, lanes)

    def at(n: int, s: int, v: int, u: int) -> int:
        return (((n * len(blocks) + s) * vectors + v) * p.unroll + u) * lanes

    def columns(column: Expr, columns: int) -> None:
        for start in starts:
            ask_ahead(b["values"], start + column * (vectors * lanes), p.ahead)
        for u in range(columns):
            k = column + u
            x = [T.Bind(splat(b["x"][(first + n) * inputs + k], lanes)) for n in range(count)]
            for s, start in enumerate(starts):
                stored = [load(b["values"], start + k * (vectors * lanes) + v * lanes, lanes) for v in range(vectors)]
                weights = [T.Bind(T.Cast(f"float32x{lanes}", each)) for each in stored]
                for n, v in np.ndindex(count, vectors):
                    add_to(totals, at(n, s, v, u), weights[v] * x[n])

    for i in range(count * len(blocks) * vectors * p.unroll):
        store(totals, i * lanes, splat(0.0, lanes))
    with T.serial(0, inputs // p.unroll) as iteration:
        columns(iteration * p.unroll, p.unroll)
    columns(inputs - inputs % p.unroll, inputs % p.unroll)
    for n, s, v in np.ndindex(count, len(blocks), vectors):
        for u in range(1, p.unroll):
            add_to(totals, at(n, s, v, 0), load(totals, at(n, s, v, u), lanes))
        store(sums, (first + n) * p.height + rows[s] + v * lanes, load(totals, at(n, s, v, 0), lanes))
    if p.height == p.shape.outputs:
        with T.serial(0, count) as n:
            for row in rows:
                finish_vectors(b, p.shape, (first + n) * p.height + row, row, vectors, lanes)


FAMILY = Family("gemv", RowProduct, ("dense",), "fp32", candidates, recipe, build, stored_product)
