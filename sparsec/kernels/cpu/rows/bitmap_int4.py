"""Bitmap weight in blocks of 4-bit codes times a few dense vectors in 8-bit integers, on AVX512_VBMI2.

The numbers are those of `gemv_int4.py`. Of two groups of inputs the non-zeros of the one lie in the low nibbles of a
stream of bytes, those of the other in the high ones; a register expand of bytes puts each into the places whose bits
are set, and the code of zero into the others. The larger number of the two moves the stream on. A weight of density d
takes about d / 2 + 3/16 bytes a place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.formats.codecs.int4 import BLOCK, Int4
from sparsec.kernels.cpu.rows import gemv_int4, matvec_int8
from sparsec.kernels.cpu.rows.gemv_int4 import PAIRS, SignedRows, signed_rows
from sparsec.kernels.cpu.rows.layer import RowProduct, too_many_rows, vectors_of
from sparsec.kernels.cpu.rows.matvec import (
    BITS_AHEAD,
    BlockedRows,
    arguments,
    ask_ahead,
    balanced_streams,
    finish_rows,
    lines_ahead,
    streams_of,
)
from sparsec.kernels.emit.intrinsics_int8 import dot_bytes, llvm_int8, splat_four
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.nibble_bitmaps import NibbleBitmaps
from sparsec.kernels.packing.nibbles import ZERO
from sparsec.kernels.packing.vnni import GROUP
from sparsec.target import Target

UNEVEN = 1.1  # bytes of the stream for every two non-zeros: groups of a pair have more and fewer of them


@dataclass(frozen=True)
class BitmapInt4Params(BlockedRows):
    """A kernel."""

    @property
    def depth(self) -> int:
        """Blocks of inputs."""
        return -(-self.shape.inputs // BLOCK)


def reject(layer: RowProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if not (isa.int8 and isa.expand_bytes):
        return "the processor has no instructions that multiply bytes and expand them by a mask"
    return too_many_rows(layer) or layer.memoised(matvec_int8.reject) or layer.memoised(Int4().reject)


def candidates(layer: RowProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """The one way to run a layer, where it takes fewer bytes than all codes do."""
    shape = layer.shape
    vectors = vectors_of(shape, isa)
    p = BitmapInt4Params(shape, vectors, isa.lanes, isa.threads, streams=streams_of(shape, vectors, isa))
    count = p.blocks * p.vectors * p.depth
    values, places = int(UNEVEN * layer.nonzeros / 2), count * p.lanes
    nbytes = values + places * (BLOCK // 8 + 2)
    if nbytes >= places * (BLOCK // 2 + 2):
        return
    p = replace(p, ahead=lines_ahead(values, p.blocks * p.depth, layer.network, target.l2_bytes))
    dots = 2 * PAIRS * (1 if isa.vnni else 3)
    work = Work((dots + 2) * count * shape.batch, count * (8 * PAIRS + 2 * PAIRS * shape.batch / p.vectors),
                p.blocks + shape.batch, memory_bytes=nbytes, kernel="bitmap/int4", pixels=shape.batch,
                density=layer.density, permutes=4 * PAIRS * count)
    yield Option("bitmap", "bitmap/int4", f"V={p.vectors}", p, nbytes, work, "int4")


def recipe(params: BitmapInt4Params) -> NibbleBitmaps:
    """What the kernel reads.

    `starts` (int32): first byte of every block of rows, and the end of the last;
    `parts` (int32): first block of rows of every thread, and the end of the last;
    `scales` (float16): block of rows x block of inputs x vector x row;
    `bits` (uint64): block of rows x block of inputs x vector x pair of groups x group of the pair, the lowest bit for
    the first input of the first row;
    `values` (uint8): the non-zeros of a pair of groups, of the first in low nibbles and of the second in high ones, and
    a vector that is never used.
    """
    return NibbleBitmaps(params.vectors, params.lanes, params.threads)


def reference(weight: np.ndarray, columns: np.ndarray, _params: BitmapInt4Params) -> np.ndarray:
    """The product (outputs, n) of a weight and columns of activations (inputs, n), in the kernel's integers."""
    return gemv_int4.product(weight, columns)


def build(params: BitmapInt4Params, isa: Isa) -> Kernel:
    """The kernel: (starts, parts, scales, bits, values, bias, x, [residual]) -> y."""
    p = params
    count = p.blocks * p.depth * p.vectors
    weight: dict[str, tuple[int | None, str]] = {
        "starts": (p.blocks + 1, "int32"), "parts": (p.threads + 1, "int32"), "scales": (count * p.lanes, "float16"),
        "bits": (count * 2 * PAIRS, "uint64"), "values": (None, "uint8")}
    return kernel(arguments(p.shape, **weight), lambda b: _emit(b, p), llvm_int8(isa))


def _emit(b: Buffers, p: BitmapInt4Params) -> None:
    height = p.blocks * p.vectors * p.lanes
    activations = signed_rows(b, p.shape, p.depth, p.lanes)
    sums = T.alloc_buffer((p.shape.batch * height,), "float32")
    balanced_streams(b, p, lambda blocks: _blocks(b, p, blocks, activations, sums))
    finish_rows(b, p.shape, sums, height, p.lanes)


def _blocks(b: Buffers, p: BitmapInt4Params, blocks: Sequence[Expr], a: SignedRows, sums: Buffer) -> None:
    """The products of some blocks of rows, into `sums` (batch, rows of all blocks)."""
    lanes, batch = p.lanes, p.shape.batch
    totals, part = registers(batch * len(blocks) * p.vectors, lanes), registers(batch, lanes, "int32")
    heads = registers(len(blocks), 1, "int64")
    for i in range(batch * len(blocks) * p.vectors):
        store(totals, i * lanes, splat(0.0, lanes))
    for s, block in enumerate(blocks):
        T.buffer_store(heads, T.Cast("int64", b["starts"][block]), [s])
    firsts = [T.Bind(T.Cast("int64", block) * p.depth) for block in blocks]

    def to(n: int, s: int, v: int) -> int:
        return ((n * len(blocks) + s) * p.vectors + v) * lanes

    with T.serial(0, p.depth) as k:
        for s, v in np.ndindex(len(blocks), p.vectors):
            at = T.Bind((firsts[s] + k) * p.vectors + v)
            if v == 0:
                ask_ahead(b["values"], heads[s], p.ahead)
                ask_ahead(b["bits"], at * (2 * PAIRS), min(p.vectors, p.ahead), BITS_AHEAD)
            for n in range(batch):
                store(part, n * lanes, splat(a.begins[n * p.depth + k], lanes))
            for pair in range(PAIRS):
                for half, codes in enumerate(_codes(b, heads, s, at * (2 * PAIRS) + 2 * pair, lanes)):
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


def _codes(b: Buffers, heads: Buffer, stream: int, at: Expr, lanes: int) -> list[Expr]:
    """The codes of the pair of groups whose bits begin at `at`; the stream moves behind it."""
    width = GROUP * lanes
    line = T.Bind(load(b["values"], heads[stream], width))
    nibbles = (T.bitwise_and(line, splat(T.uint8(15), width)), T.shift_right(line, splat(T.uint8(4), width)))
    bits = [T.Bind(b["bits"][at + half]) for half in range(2)]
    codes = [T.Bind(T.call_llvm_pure_intrin(
        f"uint8x{width}", f"llvm.x86.avx512.mask.expand.v{width}i8", each, splat(T.uint8(ZERO), width),
        T.reinterpret(f"uint1x{width}", mask))) for each, mask in zip(nibbles, bits, strict=True)]
    taken = T.max(*(T.Cast("int64", T.popcount(each)) for each in bits))
    T.buffer_store(heads, heads[stream] + taken, [stream])
    return codes


FAMILY = Family("bitmap/int4", RowProduct, ("bitmap",), "int4", candidates, recipe, build, reference, reject)
