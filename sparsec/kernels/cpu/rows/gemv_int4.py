"""Weight in blocks of 4-bit codes times a few dense vectors in 8-bit integers.

Activations are bytes x = scale * q, as in `matvec_int8.py`, but signed: codes are the unsigned factor of the dot
products. Of a block of inputs, sum(code * q) - ZERO * sum(q) is an exact integer; the second part is the same for all
rows, and what accumulators start from. A vector of bytes holds two groups of inputs, in its low and its high nibbles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.formats.codecs.int4 import BLOCK, Int4
from sparsec.kernels.cpu.rows import matvec_int8
from sparsec.kernels.cpu.rows.layer import RowProduct, too_many_rows, vectors_of
from sparsec.kernels.cpu.rows.matvec import (
    BlockedRows,
    Matvec,
    arguments,
    ask_ahead,
    balanced_streams,
    finish_rows,
    lines_ahead,
    streams_of,
)
from sparsec.kernels.emit.intrinsics_int8 import TINY, dot_bytes, llvm_int8, splat_four
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.nibbles import ZERO, Nibbles, dequantized
from sparsec.kernels.packing.vnni import GROUP
from sparsec.target import Target

CENTRE = matvec_int8.zero_of(8)
PAIRS = BLOCK // GROUP // 2
"""Vectors of bytes that hold a block."""


@dataclass(frozen=True)
class GemvInt4Params(BlockedRows):
    """A kernel."""

    @property
    def depth(self) -> int:
        """Blocks of inputs."""
        return -(-self.shape.inputs // BLOCK)


def reject(layer: RowProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if not isa.int8:
        return "the processor has no instruction that multiplies 8-bit integers"
    return too_many_rows(layer) or layer.memoised(matvec_int8.reject) or layer.memoised(Int4().reject)


def candidates(layer: RowProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """The one way to run a layer."""
    shape = layer.shape
    vectors = vectors_of(shape, isa)
    p = GemvInt4Params(shape, vectors, isa.lanes, isa.threads, streams=streams_of(shape, vectors, isa))
    count = p.blocks * p.vectors * p.depth
    nbytes = count * p.lanes * (BLOCK // 2 + 2)
    p = replace(p, ahead=lines_ahead(count * p.lanes * BLOCK // 2, p.blocks * p.depth, layer.network, target.l2_bytes))
    dots = 2 * PAIRS * (1 if isa.vnni else 3)
    work = Work((dots + 2) * count * shape.batch, count * (4 * PAIRS + 2 * PAIRS * shape.batch / p.vectors),
                p.blocks + shape.batch, memory_bytes=nbytes, kernel="gemv/int4", pixels=shape.batch)
    yield Option("dense", "gemv/int4", f"V={p.vectors}", p, nbytes, work, "int4")


def recipe(params: GemvInt4Params) -> Nibbles:
    """What the kernel reads.

    `parts` (int32): first block of rows of every thread, and the end of the last;
    `scales` (float16): block of rows x block of inputs x vector x row;
    `values` (uint8): block of rows x block of inputs x vector x pair of groups x row x input of the group.
    """
    return Nibbles(params.vectors, params.lanes, params.threads)


def reference(weight: np.ndarray, columns: np.ndarray, _params: GemvInt4Params) -> np.ndarray:
    """The product (outputs, n) of a weight and columns of activations (inputs, n), in the kernel's integers."""
    return product(weight, columns)


def product(weight: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Codes of 4 bits times activations in signed bytes: (outputs, inputs), (inputs, n) -> (outputs, n)."""
    scale = np.maximum(np.abs(columns).max(axis=0, initial=0), TINY) / (CENTRE - 1)
    return np.asarray(dequantized(weight) @ np.rint(columns / scale) * scale)


def build(params: GemvInt4Params, isa: Isa) -> Kernel:
    """The kernel: (parts, scales, values, bias, x, [residual]) -> y."""
    p = params
    count = p.blocks * p.depth * p.vectors * p.lanes
    weight: dict[str, tuple[int | None, str]] = {
        "parts": (p.threads + 1, "int32"), "scales": (count, "float16"), "values": (count * BLOCK // 2, "uint8")}
    return kernel(arguments(p.shape, **weight), lambda b: _emit(b, p), llvm_int8(isa))


@dataclass(frozen=True)
class SignedRows:
    """Bytes (batch, stride), the scale of every row, and -ZERO times the sum of every block (batch, depth)."""

    rows: Buffer
    stride: int
    scales: Buffer
    begins: Buffer


def _emit(b: Buffers, p: GemvInt4Params) -> None:
    height = p.blocks * p.vectors * p.lanes
    activations = signed_rows(b, p.shape, p.depth, p.lanes)
    sums = T.alloc_buffer((p.shape.batch * height,), "float32")
    balanced_streams(b, p, lambda blocks: _blocks(b, p, blocks, activations, sums))
    finish_rows(b, p.shape, sums, height, p.lanes)


def signed_rows(b: Buffers, shape: Matvec, depth: int, lanes: int) -> SignedRows:
    """The activations as signed bytes in `depth` blocks; where a row is padded, the weight's codes are `ZERO`."""
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
    return SignedRows(rows, stride, scales, begins)


def _blocks(b: Buffers, p: GemvInt4Params, blocks: Sequence[Expr], a: SignedRows, sums: Buffer) -> None:
    """The products of some blocks of rows, into `sums` (batch, rows of all blocks)."""
    lanes, batch, width = p.lanes, p.shape.batch, GROUP * p.lanes
    totals, part = registers(batch * len(blocks) * p.vectors, lanes), registers(batch, lanes, "int32")
    for i in range(batch * len(blocks) * p.vectors):
        store(totals, i * lanes, splat(0.0, lanes))
    firsts = [T.Bind(T.Cast("int64", block) * p.depth) for block in blocks]
    low = splat(T.uint8(15), width)

    def to(n: int, s: int, v: int) -> int:
        return ((n * len(blocks) + s) * p.vectors + v) * lanes

    with T.serial(0, p.depth) as k:
        for s, v in np.ndindex(len(blocks), p.vectors):
            at = T.Bind((firsts[s] + k) * p.vectors + v)
            if v == 0:
                ask_ahead(b["values"], at * PAIRS * width, p.ahead)
                ask_ahead(b["scales"], at * lanes, -(-p.ahead // (GROUP * PAIRS)))
            for n in range(batch):
                store(part, n * lanes, splat(a.begins[n * p.depth + k], lanes))
            for pair in range(PAIRS):
                line = T.Bind(load(b["values"], (at * PAIRS + pair) * width, width))
                halves = (T.Bind(T.bitwise_and(line, low)), T.Bind(T.shift_right(line, splat(T.uint8(4), width))))
                for half, codes in enumerate(halves):
                    for n in range(batch):
                        x = splat_four(a.rows, n * a.stride + k * BLOCK + (2 * pair + half) * GROUP, lanes)
                        store(part, n * lanes, dot_bytes(load(part, n * lanes, lanes), codes, x))
            scale = T.Bind(T.Cast(f"float32x{lanes}", load(b["scales"], at * lanes, lanes)))
            for n in range(batch):
                add_to(totals, to(n, s, v), T.Cast(f"float32x{lanes}", load(part, n * lanes, lanes)) * scale)
    for n, s, v in np.ndindex(batch, len(blocks), p.vectors):
        row = (blocks[s] * p.vectors + v) * lanes
        store(sums, n * p.blocks * p.vectors * lanes + row,
              load(totals, to(n, s, v), lanes) * splat(a.scales[n], lanes))


FAMILY = Family("gemv/int4", RowProduct, ("dense",), "int4", candidates, recipe, build, reference, reject)
