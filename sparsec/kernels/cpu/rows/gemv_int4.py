"""Weight in blocks of 4-bit codes times a few dense vectors in 8-bit integers, all codes or a bitmap of the non-zeros.

Activations are bytes x = scale * q, as in `matvec_int8.py`, but signed: codes are the unsigned factor of the dot
products. Of a block of inputs, sum(code * q) - ZERO * sum(q) is an exact integer; the second part is the same for all
rows, and what accumulators start from. A vector of bytes holds two groups of inputs, in its low and its high nibbles.

With a bitmap (AVX512_VBMI2) these nibbles hold the non-zeros of the two groups alone, as many bytes as the one with
more of them takes; a register expand of bytes puts each into the places whose bits are set, and the code of zero into
the others. A weight of density d takes about d / 2 + 3/16 bytes a place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.formats.codecs.int4 import BLOCK, Int4
from sparsec.kernels.cpu.rows import matvec_int8
from sparsec.kernels.cpu.rows.layer import RowProduct, groups_of, read_again, too_many_rows, vectors_of
from sparsec.kernels.cpu.rows.matvec import (
    BITS_AHEAD,
    BlockedRows,
    arguments,
    ask_ahead,
    balanced_streams,
    lines_ahead,
    streams_of,
)
from sparsec.kernels.emit.intrinsics_int8 import TINY, dot_bytes, llvm_int8, splat_four
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.threads import LLVM_TURNS
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.nibbles import ZERO, Nibbles, dequantized
from sparsec.kernels.packing.vnni import GROUP
from sparsec.target import Target

CENTRE = matvec_int8.zero_of(8)
PAIRS = BLOCK // GROUP // 2
"""Vectors of bytes that hold a block."""
UNEVEN = 1.1  # bytes of a bitmap for every two non-zeros: groups of a pair have more and fewer of them


@dataclass(frozen=True)
class GemvInt4Params(BlockedRows):
    """A kernel.

    Attributes:
        bitmap: only the non-zeros are stored.

    """

    bitmap: bool = False

    @property
    def depth(self) -> int:
        """Blocks of inputs."""
        return -(-self.shape.inputs // BLOCK)


def reject(layer: RowProduct, isa: Isa, *, bitmap: bool) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if not isa.int8:
        return "the processor has no instruction that multiplies 8-bit integers"
    if bitmap and not isa.expand_bytes:
        return "the processor has no instruction that expands bytes of a register by a mask"
    return too_many_rows(layer) or layer.memoised(matvec_int8.reject) or layer.memoised(Int4().reject)


def candidates(layer: RowProduct, target: Target, isa: Isa, _precision: str, *, bitmap: bool) -> Iterator[Option]:
    """The ways to run a layer, by a bitmap where that takes fewer bytes than all codes: all rows, or groups of them."""
    shape, name = layer.shape, "bitmap" if bitmap else "dense"
    for group in groups_of(shape):
        vectors = vectors_of(shape, isa, group)
        p = GemvInt4Params(shape, vectors, isa.lanes, isa.threads, bitmap,
                           streams=streams_of(shape, vectors, isa, group), group=group)
        count = p.blocks * p.vectors * p.depth
        places = count * p.lanes
        values = int(UNEVEN * layer.nonzeros / 2) if bitmap else places * BLOCK // 2
        nbytes = values + places * (2 + (BLOCK // 8 if bitmap else 0))
        if bitmap and nbytes >= places * (BLOCK // 2 + 2):
            continue
        p = replace(p, ahead=lines_ahead(values, p.blocks * p.depth, layer.network, target.l2_bytes))
        dots, loads = 2 * PAIRS * (1 if isa.vnni else 3), (8 if bitmap else 4) * PAIRS
        work = Work((dots + 2) * count * shape.batch,
                    count * (loads * p.rounds + 2 * PAIRS * shape.batch / p.vectors),
                    p.blocks * p.rounds + shape.batch, memory_bytes=nbytes,
                    kernel="bitmap/int4" if bitmap else "gemv/int4", pixels=shape.batch,
                    density=layer.density if bitmap else 1.0,
                    permutes=4 * PAIRS * count * p.rounds if bitmap else 0)
        yield Option(name, work.kernel, p.detail, p, nbytes, read_again(work, p, nbytes, target), "int4")


def recipe(params: GemvInt4Params) -> Nibbles:
    """What the kernel reads.

    `parts` (int32): first block of rows of every thread, and the end of the last;
    `scales` (float16): block of rows x block of inputs x vector x row;
    `values` (uint8): block of rows x block of inputs x vector x pair of groups x row x input of the group; with a
    bitmap the non-zeros of the groups of every pair in order, and a vector that is never used, behind `starts` (int32):
    the first byte of every block of rows, and the end of the last, and `bits` (uint64): block of rows x block of inputs
    x vector x pair of groups x group of the pair, the lowest bit for the first input of the first row.
    """
    return Nibbles(params.vectors, params.lanes, params.threads, params.bitmap)


def reference(weight: np.ndarray, columns: np.ndarray, _params: GemvInt4Params) -> np.ndarray:
    """The product (outputs, n) of a weight and columns of activations (inputs, n), in the kernel's integers."""
    scale = np.maximum(np.abs(columns).max(axis=0, initial=0), TINY) / (CENTRE - 1)
    return np.asarray(dequantized(weight) @ np.rint(columns / scale) * scale)


def build(params: GemvInt4Params, isa: Isa) -> Kernel:
    """The kernel: (parts, scales, [starts, bits], values, bias, x, [residual]) -> y."""
    p = params
    count = p.blocks * p.depth * p.vectors
    weight: dict[str, tuple[int | None, str]] = {
        "parts": (p.threads + 1, "int32"), "scales": (count * p.lanes, "float16")}
    if p.bitmap:
        weight |= {"starts": (p.blocks + 1, "int32"), "bits": (count * 2 * PAIRS, "uint64")}
    weight["values"] = (None if p.bitmap else count * p.lanes * BLOCK // 2, "uint8")
    return kernel(arguments(p.shape, **weight), lambda b: _emit(b, p), llvm_int8(isa) + LLVM_TURNS)


@dataclass(frozen=True)
class _Activations:
    """Bytes (batch, stride), the scale of every row, and -ZERO times the sum of every block (batch, depth)."""

    rows: Buffer
    stride: int
    scales: Buffer
    begins: Buffer


def _emit(b: Buffers, p: GemvInt4Params) -> None:
    activations = _signed(b, p)
    balanced_streams(b, p, lambda blocks, first, count, sums: _blocks(b, p, blocks, (first, count), activations, sums))


def _signed(b: Buffers, p: GemvInt4Params) -> _Activations:
    """The activations as signed bytes; where a row is padded, the weight's codes are `ZERO`."""
    shape, depth, lanes = p.shape, p.depth, p.lanes
    bytes_, stride, scales = matvec_int8.quantized_rows(b, shape, CENTRE, depth * BLOCK, lanes)
    rows = T.alloc_buffer((shape.batch * stride,), "int8")
    begins = T.alloc_buffer((shape.batch * depth,), "int32")
    total = registers(1, 1, "int32")
    with T.serial(0, shape.batch * stride // (GROUP * lanes)) as vector:
        at, width = vector * (GROUP * lanes), GROUP * lanes
        flipped = T.bitwise_xor(load(bytes_, at, width), splat(T.uint8(CENTRE), width))
        store(rows, at, T.reinterpret(f"int8x{width}", flipped))
    with T.serial(0, shape.batch) as n, T.serial(0, depth) as block:
        T.buffer_store(total, T.int32(0), [0])
        with T.serial(0, BLOCK) as i:
            T.buffer_store(total, total[0] + T.Cast("int32", rows[n * stride + block * BLOCK + i]), [0])
        T.buffer_store(begins, total[0] * T.int32(-ZERO), [n * depth + block])
    return _Activations(rows, stride, scales, begins)


def _blocks(b: Buffers, p: GemvInt4Params, blocks: Sequence[Expr], rows: tuple[Expr, int], a: _Activations,
            sums: Buffer) -> None:
    """The products of some blocks and rows of X, the first and how many, into `sums` (batch, rows of all blocks)."""
    lanes, (begin, batch) = p.lanes, rows
    totals, part = registers(batch * len(blocks) * p.vectors, lanes), registers(batch, lanes, "int32")
    for i in range(batch * len(blocks) * p.vectors):
        store(totals, i * lanes, splat(0.0, lanes))
    firsts = [T.Bind(T.Cast("int64", block) * p.depth) for block in blocks]
    streams = _expanded(b, p, blocks) if p.bitmap else [_loaded(b, p)] * len(blocks)

    def to(n: int, s: int, v: int) -> int:
        return ((n * len(blocks) + s) * p.vectors + v) * lanes

    with T.serial(0, p.depth) as k:
        for s, v in np.ndindex(len(blocks), p.vectors):
            at = T.Bind((firsts[s] + k) * p.vectors + v)
            if v == 0:
                streams[s].ask(at)
            for n in range(batch):
                store(part, n * lanes, splat(a.begins[(begin + n) * p.depth + k], lanes))
            for pair in range(PAIRS):
                for half, codes in enumerate(streams[s].next(at, pair)):
                    for n in range(batch):
                        x = splat_four(a.rows, (begin + n) * a.stride + k * BLOCK + (2 * pair + half) * GROUP, lanes)
                        store(part, n * lanes, dot_bytes(load(part, n * lanes, lanes), codes, x))
            scale = T.Bind(T.Cast(f"float32x{lanes}", load(b["scales"], at * lanes, lanes)))
            for n in range(batch):
                add_to(totals, to(n, s, v), T.Cast(f"float32x{lanes}", load(part, n * lanes, lanes)) * scale)
    for n, s, v in np.ndindex(batch, len(blocks), p.vectors):
        row = (blocks[s] * p.vectors + v) * lanes
        store(sums, (begin + n) * p.height + row,
              load(totals, to(n, s, v), lanes) * splat(a.scales[begin + n], lanes))


@dataclass(frozen=True)
class _Stream:
    """The weight of a block of rows.

    Attributes:
        ask: asks for what lies ahead of the first vector of a block of inputs.
        next: the codes of both groups of a pair of a vector, one pair after another.

    """

    ask: Callable[[Expr], None]
    next: Callable[[Expr, int], list[Expr]]


def _nibbles(line: Expr, width: int) -> tuple[Expr, Expr]:
    """The low and the high four bits of every byte."""
    return T.bitwise_and(line, splat(T.uint8(15), width)), T.shift_right(line, splat(T.uint8(4), width))


def _loaded(b: Buffers, p: GemvInt4Params) -> _Stream:
    width = GROUP * p.lanes

    def ask(at: Expr) -> None:
        ask_ahead(b["values"], at * PAIRS * width, p.ahead)
        ask_ahead(b["scales"], at * p.lanes, -(-p.ahead // (GROUP * PAIRS)))

    def following(at: Expr, pair: int) -> list[Expr]:
        line = T.Bind(load(b["values"], (at * PAIRS + pair) * width, width))
        return [T.Bind(half) for half in _nibbles(line, width)]

    return _Stream(ask, following)


def _expanded(b: Buffers, p: GemvInt4Params, blocks: Sequence[Expr]) -> list[_Stream]:
    width, heads = GROUP * p.lanes, registers(len(blocks), 1, "int64")

    def stream(s: int, block: Expr) -> _Stream:
        T.buffer_store(heads, T.Cast("int64", b["starts"][block]), [s])

        def ask(at: Expr) -> None:
            ask_ahead(b["values"], heads[s], p.ahead)
            ask_ahead(b["bits"], at * (2 * PAIRS), min(p.vectors, p.ahead), BITS_AHEAD)

        def following(at: Expr, pair: int) -> list[Expr]:
            line = T.Bind(load(b["values"], heads[s], width))
            bits = [T.Bind(b["bits"][at * (2 * PAIRS) + 2 * pair + half]) for half in range(2)]
            codes = [T.Bind(T.call_llvm_pure_intrin(
                f"uint8x{width}", f"llvm.x86.avx512.mask.expand.v{width}i8", half, splat(T.uint8(ZERO), width),
                T.reinterpret(f"uint1x{width}", mask))) for half, mask in zip(_nibbles(line, width), bits, strict=True)]
            taken = T.max(*(T.Cast("int64", T.popcount(each)) for each in bits))
            T.buffer_store(heads, heads[s] + taken, [s])
            return codes

        return _Stream(ask, following)

    return [stream(s, block) for s, block in enumerate(blocks)]


FAMILY = Family("gemv/int4", RowProduct, ("dense",), "int4", partial(candidates, bitmap=False), recipe, build,
                reference, partial(reject, bitmap=False))
BITMAP = Family("bitmap/int4", RowProduct, ("bitmap",), "int4", partial(candidates, bitmap=True), recipe, build,
                reference, partial(reject, bitmap=True))
