"""Bitmap weight times a few dense vectors in pairs of bf16, on AVX512_BF16 and AVX512_VBMI2.

As `bitmap_vector.py`, on words: a register expand of words puts the next non-zeros of a stream into the places of 16
rows and two inputs, which a dot product of pairs multiplies. A weight of density d takes 2 d + 1/8 bytes a place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.rows.layer import RowProduct, groups_of, read_again, too_many_rows, vectors_of
from sparsec.kernels.cpu.rows.matvec import (
    BITS_AHEAD,
    BlockedRows,
    arguments,
    ask_ahead,
    balanced_streams,
    lines_ahead,
    padded_rows,
    streams_of,
)
from sparsec.kernels.emit.intrinsics import dot_pairs, llvm_bf16, row_bf16
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.threads import LLVM_TURNS
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.bitmap_pairs import PAIR, BitmapPairs
from sparsec.target import Target

UNROLL = 2  # pairs of columns per iteration


@dataclass(frozen=True)
class BitmapBf16Params(BlockedRows):
    """A kernel.

    Attributes:
        widened: weights become float32 in registers, and activations are not rounded.

    """

    widened: bool = False

    @property
    def pairs(self) -> int:
        """Pairs of columns."""
        return -(-self.shape.inputs // PAIR)


def reject(layer: RowProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if not (isa.bf16 and isa.expand_bytes):
        return "the processor lacks AVX512_BF16 or AVX512_VBMI2"
    p = BitmapBf16Params(layer.shape, vectors_of(layer.shape, isa), isa.lanes)
    larger = _nbytes(layer, p) >= PAIR * layer.weight.size
    return "bits and non-zeros take more bytes than the dense weight" if larger else too_many_rows(layer)


def _params(layer: RowProduct, isa: Isa, l2_bytes: int, group: int) -> BitmapBf16Params:
    shape, vectors = layer.shape, vectors_of(layer.shape, isa, group)
    p = BitmapBf16Params(shape, vectors, isa.lanes, isa.threads, isa.tiles_bf16,
                         streams=streams_of(shape, vectors, isa, group), group=group)
    iterations = p.blocks * max(1, p.pairs // UNROLL)
    return replace(p, ahead=lines_ahead(2 * layer.nonzeros, iterations, layer.network, l2_bytes))


def _nbytes(layer: RowProduct, p: BitmapBf16Params) -> int:
    """Bytes of the stored weight."""
    return 2 * layer.nonzeros + 4 * p.blocks * p.vectors * p.pairs


def candidates(layer: RowProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """The ways to run a layer: all rows at once, or groups of them."""
    shape = layer.shape
    for group in groups_of(shape):
        p = _params(layer, isa, target.l2_bytes, group)
        count, nbytes = p.blocks * p.vectors * p.pairs, _nbytes(layer, p)
        work = Work(count * shape.batch, count * (2.5 * p.rounds + shape.batch / p.vectors),
                    p.blocks * p.rounds + shape.batch, memory_bytes=nbytes, kernel="bitmap/bf16", pixels=shape.batch,
                    density=layer.density, permutes=2 * count * p.rounds)
        yield Option("bitmap", "bitmap/bf16", p.detail, p, nbytes, read_again(work, p, nbytes, target), "bf16")


def recipe(params: BitmapBf16Params) -> BitmapPairs:
    """What the kernel reads.

    `starts` (int32): first value of every block of rows, and the end of the last;
    `parts` (int32): first block of every thread, and the end of the last;
    `bits` (uint32): block x pair x vector, the lowest bit for the first input of the first row;
    `values` (int16): the non-zeros as bf16 in the order of the bits, and a vector that is never used.
    """
    return BitmapPairs(params.vectors, params.lanes, params.threads)


def reference(weight: np.ndarray, columns: np.ndarray, params: BitmapBf16Params) -> np.ndarray:
    """The product (outputs, n) of a weight rounded to bf16 and columns of activations (inputs, n), as rounded."""
    return np.asarray(_rounded(weight) @ (columns if params.widened else _rounded(columns)))


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.astype(ml_dtypes.bfloat16).astype(np.float32))


def build(params: BitmapBf16Params, isa: Isa) -> Kernel:
    """The kernel: (starts, parts, bits, values, bias, x, [residual]) -> y."""
    p = params
    weight: dict[str, tuple[int | None, str]] = {
        "starts": (p.blocks + 1, "int32"), "parts": (p.threads + 1, "int32"),
        "bits": (p.blocks * p.pairs * p.vectors, "uint32"), "values": (None, "int16")}
    return kernel(arguments(p.shape, **weight), lambda b: _emit(b, p), llvm_bf16(isa) + LLVM_TURNS)


def _emit(b: Buffers, p: BitmapBf16Params) -> None:
    step = PAIR * p.lanes
    width = -(-p.shape.inputs // step) * step
    activations = padded_rows(b, p.shape, width, p.lanes) if p.widened else _paired(b, p, width)
    balanced_streams(b, p, lambda blocks, first, count, sums: _blocks(b, p, blocks, (first, count), activations, sums))


def _paired(b: Buffers, p: BitmapBf16Params, width: int) -> tuple[Buffer, int]:
    """The activations as words of two bf16, zero behind a row's inputs, and the words of a row."""
    step = PAIR * p.lanes
    x, stride = padded_rows(b, p.shape, width, p.lanes)
    rows = T.alloc_buffer((p.shape.batch * stride // PAIR,), "int32")
    with T.serial(0, p.shape.batch * stride // step) as vector:
        low, high = (load(x, vector * step + half * p.lanes, p.lanes) for half in range(PAIR))
        store(rows, vector * p.lanes, row_bf16(low, high))
    return rows, stride // PAIR


def _blocks(b: Buffers, p: BitmapBf16Params, blocks: Sequence[Expr], rows: tuple[Expr, int],
            activations: tuple[Buffer, int], sums: Buffer) -> None:
    """The products of some blocks and rows of X, the first and how many, into `sums` (batch, rows of all blocks)."""
    (source, stride), lanes, (begin, batch) = activations, p.lanes, rows
    parts = PAIR if p.widened else 1  # of a pair of activations
    totals, heads = registers(batch * len(blocks) * p.vectors, lanes), registers(len(blocks), 1, "int64")
    for i in range(batch * len(blocks) * p.vectors):
        store(totals, i * lanes, splat(0.0, lanes))
    for s, block in enumerate(blocks):
        T.buffer_store(heads, T.Cast("int64", b["starts"][block]), [s])
    firsts = [T.Bind(T.Cast("int64", block) * p.pairs) for block in blocks]

    def at(n: int, s: int, v: int) -> int:
        return ((n * len(blocks) + s) * p.vectors + v) * lanes

    def columns(pair: Expr, count: int) -> None:
        for s, first in enumerate(firsts):
            ask_ahead(b["values"], heads[s], p.ahead)
            ask_ahead(b["bits"], (first + pair) * p.vectors, min(1, p.ahead), BITS_AHEAD)
        for k in (pair + u for u in range(count)):
            x = [[T.Bind(splat(source[(begin + n) * stride + k * parts + part], lanes)) for part in range(parts)]
                 for n in range(batch)]
            for s, v in np.ndindex(len(blocks), p.vectors):
                bits = T.Bind(b["bits"][(firsts[s] + k) * p.vectors + v])
                weights = T.Bind(_expanded(b, heads[s], bits, PAIR * lanes))
                T.buffer_store(heads, heads[s] + T.Cast("int64", T.popcount(bits)), [s])
                factors = [T.Bind(each) for each in _floats(weights, lanes)] if p.widened else []
                for n in range(batch):
                    for factor, part in zip(factors, x[n], strict=False):
                        add_to(totals, at(n, s, v), factor * part)
                    if not p.widened:
                        store(totals, at(n, s, v), dot_pairs(load(totals, at(n, s, v), lanes), x[n][0], weights))

    with T.serial(0, p.pairs // UNROLL) as iteration:
        columns(iteration * UNROLL, UNROLL)
    columns(p.pairs - p.pairs % UNROLL, p.pairs % UNROLL)
    for n, s, v in np.ndindex(batch, len(blocks), p.vectors):
        row = (blocks[s] * p.vectors + v) * lanes
        store(sums, (begin + n) * p.height + row, load(totals, at(n, s, v), lanes))


def _floats(words: Expr, lanes: int) -> tuple[Expr, Expr]:
    """The first and the second bf16 of every word."""
    first = T.shift_left(words, splat(T.int32(16), lanes))
    second = T.bitwise_and(words, splat(T.int32(-1 << 16), lanes))
    return T.reinterpret(f"float32x{lanes}", first), T.reinterpret(f"float32x{lanes}", second)


def _expanded(b: Buffers, head: Expr, bits: Expr, width: int) -> Expr:
    """The next non-zeros in the places whose bits are set, zeros in the others, as words of two."""
    words = T.call_llvm_pure_intrin(
        f"int16x{width}", f"llvm.x86.avx512.mask.expand.v{width}i16", load(b["values"], head, width),
        splat(T.int16(0), width), T.reinterpret(f"uint1x{width}", bits))
    return T.reinterpret(f"int32x{width // PAIR}", words)


FAMILY = Family("bitmap/bf16", RowProduct, ("bitmap",), "bf16", candidates, recipe, build, reference, reject)
