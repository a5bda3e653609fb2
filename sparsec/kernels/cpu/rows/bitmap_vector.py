"""Bitmap weight times a few dense vectors, for weights too large for the caches and too dense for windows, on AVX-512.

A vector of rows has a bit for each, and its non-zeros follow one another in one stream: a register expand puts those
at the stream's head into their lanes, and the number of bits moves the head on. A weight of density d takes 4 d + 1/8
bytes a place, whatever its pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.rows.layer import (
    BYTES,
    RowProduct,
    codecs,
    groups_of,
    read_again,
    stored_product,
    too_many_rows,
    vectors_of,
)
from sparsec.kernels.cpu.rows.matvec import (
    BITS_AHEAD,
    BlockedRows,
    arguments,
    ask_ahead,
    balanced_streams,
    lines_ahead,
    streams_of,
)
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.threads import LLVM_TURNS
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.bitmaps import Bitmaps
from sparsec.kernels.packing.values import CODECS
from sparsec.target import Target

UNROLL = 4  # columns per iteration


@dataclass(frozen=True)
class BitmapParams(BlockedRows):
    """A kernel, whose bitmaps have a bit for every row of a vector.

    Attributes:
        codec: one of `CODECS`.

    """

    codec: str = "f32"


def reject(layer: RowProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if not isa.permute2:
        return "the processor has no instruction that expands a register by a mask"
    larger = _nbytes(layer, BitmapParams(layer.shape, vectors_of(layer.shape, isa), isa.lanes)) >= layer.weight.nbytes
    return "bits and non-zeros take more bytes than the dense weight" if larger else too_many_rows(layer)


def _params(layer: RowProduct, isa: Isa, codec: str, l2_bytes: int, group: int) -> BitmapParams:
    shape, vectors = layer.shape, vectors_of(layer.shape, isa, group)
    p = BitmapParams(shape, vectors, isa.lanes, isa.threads, codec, streams=streams_of(shape, vectors, isa, group),
                     group=group)
    iterations = p.blocks * max(1, shape.inputs // UNROLL)
    return replace(p, ahead=lines_ahead(BYTES[codec] * layer.nonzeros, iterations, layer.network, l2_bytes))


def _nbytes(layer: RowProduct, p: BitmapParams) -> int:
    """Bytes of the stored weight."""
    return BYTES[p.codec] * layer.nonzeros + 2 * p.blocks * p.vectors * p.shape.inputs


def candidates(layer: RowProduct, target: Target, isa: Isa, precision: str) -> Iterator[Option]:
    """The kernels of every codec that makes the weight smaller than dense."""
    shape = layer.shape
    for codec, group in product(codecs(layer, isa, precision), groups_of(shape)):
        p = _params(layer, isa, codec, target.l2_bytes, group)
        count, nbytes = p.blocks * p.vectors * shape.inputs, _nbytes(layer, p)
        if nbytes >= BYTES[codec] * layer.weight.size:
            continue
        work = Work(count * shape.batch, count * (2.5 * p.rounds + shape.batch / p.vectors), p.blocks * p.rounds,
                    memory_bytes=nbytes, kernel=f"bitmap/{codec}", pixels=shape.batch, density=layer.density,
                    permutes=2 * count * p.rounds)
        yield Option("bitmap", f"bitmap/{codec}", p.detail, p, nbytes, read_again(work, p, nbytes, target), codec)


def recipe(params: BitmapParams) -> Bitmaps:
    """What the kernel reads.

    `starts` (int32): first value of every block of rows, and the end of the last;
    `parts` (int32): first block of every thread, and the end of the last;
    `bits` (uint16): block x input x vector, the lowest bit for the first row;
    `values`: the non-zeros in the order of the bits, and a vector that is never used.
    """
    return Bitmaps(params.codec, params.vectors, params.lanes, params.threads)


def build(params: BitmapParams, _isa: Isa) -> Kernel:
    """The kernel: (starts, parts, bits, values, bias, x, [residual]) -> y."""
    p = params
    weight: dict[str, tuple[int | None, str]] = {
        "starts": (p.blocks + 1, "int32"), "parts": (p.threads + 1, "int32"),
        "bits": (p.blocks * p.shape.inputs * p.vectors, f"uint{p.lanes}"), "values": (None, CODECS[p.codec])}
    return kernel(arguments(p.shape, **weight), lambda b: _emit(b, p), LLVM_TURNS)


def _emit(b: Buffers, p: BitmapParams) -> None:
    balanced_streams(b, p, lambda blocks, first, count, sums: _blocks(b, p, blocks, (first, count), sums))


def _blocks(b: Buffers, p: BitmapParams, blocks: Sequence[Expr], rows: tuple[Expr, int], sums: Buffer) -> None:
    """The products of some blocks and rows of X, the first and how many, into `sums` (batch, rows of all blocks)."""
    lanes, inputs, (begin, batch) = p.lanes, p.shape.inputs, rows
    totals, heads = registers(batch * len(blocks) * p.vectors, lanes), registers(len(blocks), 1, "int64")
    for i in range(batch * len(blocks) * p.vectors):
        store(totals, i * lanes, splat(0.0, lanes))
    for s, block in enumerate(blocks):
        T.buffer_store(heads, T.Cast("int64", b["starts"][block]), [s])
    firsts = [T.Bind(T.Cast("int64", block) * inputs) for block in blocks]

    def at(n: int, s: int, v: int) -> int:
        return ((n * len(blocks) + s) * p.vectors + v) * lanes

    def columns(column: Expr, count: int) -> None:
        for s, first in enumerate(firsts):
            ask_ahead(b["values"], heads[s], p.ahead)
            ask_ahead(b["bits"], (first + column) * p.vectors, min(1, p.ahead), BITS_AHEAD)
        for k in (column + u for u in range(count)):
            x = [T.Bind(splat(b["x"][(begin + n) * inputs + k], lanes)) for n in range(batch)]
            for s, v in np.ndindex(len(blocks), p.vectors):
                bits = T.Bind(b["bits"][(firsts[s] + k) * p.vectors + v])
                weights = T.Bind(_expand(b, heads[s], bits, lanes))
                T.buffer_store(heads, heads[s] + T.Cast("int64", T.popcount(T.Cast("uint32", bits))), [s])
                for n in range(batch):
                    add_to(totals, at(n, s, v), weights * x[n])

    with T.serial(0, inputs // UNROLL) as iteration:
        columns(iteration * UNROLL, UNROLL)
    columns(inputs - inputs % UNROLL, inputs % UNROLL)
    for n, s, v in np.ndindex(batch, len(blocks), p.vectors):
        row = (blocks[s] * p.vectors + v) * lanes
        store(sums, (begin + n) * p.height + row, load(totals, at(n, s, v), lanes))


def _expand(b: Buffers, head: Expr, bits: Expr, lanes: int) -> Expr:
    """The next non-zeros in the lanes whose bits are set, zeros in the others."""
    values = T.Cast(f"float32x{lanes}", load(b["values"], head, lanes))
    return T.call_llvm_pure_intrin(f"float32x{lanes}", f"llvm.x86.avx512.mask.expand.v{lanes}f32", values,
                                   splat(0.0, lanes), T.reinterpret(f"uint1x{lanes}", bits))


FAMILY = Family("bitmap", RowProduct, ("bitmap",), "fp32", candidates, recipe, build, stored_product, reject)
