"""Weight times a few dense vectors in 8-bit integers; see `matvec_int8.py` for the numbers.

The weight takes a byte a place, or a byte a non-zero and a bit a place: then a register expand of bytes (AVX512_VBMI2)
puts the next non-zeros of a stream into the places whose bits are set, as in `bitmap_vector.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
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
from sparsec.kernels.emit.intrinsics_int8 import dot_bytes, llvm_int8, splat_four
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.threads import LLVM_TURNS
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.vnni import GROUP, VnniBlocks
from sparsec.target import Target

UNROLL = 2  # groups of columns per iteration


@dataclass(frozen=True)
class GemvInt8Params(BlockedRows):
    """A kernel.

    Attributes:
        bits: of an activation, 8 or 7.
        bitmap: only the non-zeros are stored.

    """

    bits: int = 8
    bitmap: bool = False

    @property
    def groups(self) -> int:
        """Groups of four columns."""
        return -(-self.shape.inputs // GROUP)


def reject(layer: RowProduct, isa: Isa, *, bitmap: bool) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if not isa.int8:
        return "the processor has no instruction that multiplies 8-bit integers"
    if bitmap and not isa.expand_bytes:
        return "the processor has no instruction that expands bytes of a register by a mask"
    return too_many_rows(layer) or layer.memoised(matvec_int8.reject)


def candidates(layer: RowProduct, target: Target, isa: Isa, _precision: str, *, bitmap: bool) -> Iterator[Option]:
    """The ways to run a layer: all rows at once, or groups of them."""
    shape, name = layer.shape, "bitmap" if bitmap else "dense"
    for group in groups_of(shape):
        vectors = vectors_of(shape, isa, group)
        p = GemvInt8Params(shape, vectors, isa.lanes, isa.threads, 8 if isa.vnni else 7, bitmap,
                           streams=streams_of(shape, vectors, isa, group), group=group)
        count = p.blocks * p.vectors * p.groups
        values = layer.nonzeros if bitmap else layer.weight.size
        nbytes = values + 8 * shape.outputs + (8 * count if bitmap else 0)
        p = replace(p, ahead=lines_ahead(values, p.blocks * max(1, p.groups // UNROLL), layer.network,
                                         target.l2_bytes))
        dots = 1 if isa.vnni else 3
        work = Work(dots * count * shape.batch,
                    count * p.rounds * (2.5 if bitmap else 1) + count * shape.batch / p.vectors,
                    p.blocks * p.rounds + shape.batch, memory_bytes=nbytes,
                    kernel="bitmap/int8" if bitmap else "gemv/int8", pixels=shape.batch,
                    density=layer.density if bitmap else 1.0, permutes=(2 if bitmap else 0) * count * p.rounds)
        yield Option(name, work.kernel, p.detail, p, nbytes, read_again(work, p, nbytes, target), "int8")


def recipe(params: GemvInt8Params) -> VnniBlocks:
    """What the kernel reads.

    `begins` (int32), `scales` (float32): by row, see `matvec_int8.py`;
    `parts` (int32): first block of every thread, and the end of the last;
    `values` (int8): block x group x vector x row x input of the group; with a bitmap the non-zeros of these in order,
    and a vector that is never used, behind `starts` (int32): the first value of every block, and the end of the last,
    and `bits` (uint64): block x group x vector, the lowest bit for the first input of the first row.
    """
    p = params
    return VnniBlocks(p.vectors, p.lanes, matvec_int8.zero_of(p.bits), p.threads, bitmap=p.bitmap)


def reference(weight: np.ndarray, columns: np.ndarray, params: GemvInt8Params) -> np.ndarray:
    """The product (outputs, n) of a weight and columns of activations (inputs, n), in the kernel's integers."""
    return matvec_int8.reference(weight, columns, matvec_int8.zero_of(params.bits))


def build(params: GemvInt8Params, isa: Isa) -> Kernel:
    """The kernel: (begins, scales, parts, [starts, bits], values, bias, x, [residual]) -> y."""
    p = params
    weight: dict[str, tuple[int | None, str]] = {
        "begins": (p.height, "int32"), "scales": (p.height, "float32"), "parts": (p.threads + 1, "int32")}
    if p.bitmap:
        weight |= {"starts": (p.blocks + 1, "int32"), "bits": (p.blocks * p.groups * p.vectors, "uint64")}
    weight["values"] = (None, "int8")
    return kernel(arguments(p.shape, **weight), lambda b: _emit(b, p), llvm_int8(isa) + LLVM_TURNS)


def _emit(b: Buffers, p: GemvInt8Params) -> None:
    activations = matvec_int8.quantized_rows(b, p.shape, matvec_int8.zero_of(p.bits), 0, p.lanes)
    balanced_streams(b, p, lambda blocks, first, count, sums: _blocks(b, p, blocks, (first, count), activations, sums))


def _blocks(b: Buffers, p: GemvInt8Params, blocks: Sequence[Expr], rows: tuple[Expr, int],
            activations: tuple[Expr, int, Expr], sums: Buffer) -> None:
    """The products of some blocks and rows of X, the first and how many, into `sums` (batch, rows of all blocks)."""
    (codes, stride, scales), lanes, (begin, batch) = activations, p.lanes, rows
    firsts = [T.Bind(block * (p.vectors * lanes)) for block in blocks]
    totals = registers(batch * len(blocks) * p.vectors, lanes, "int32")

    def at(n: int, s: int, v: int) -> int:
        return ((n * len(blocks) + s) * p.vectors + v) * lanes

    for n, s, v in np.ndindex(batch, len(blocks), p.vectors):
        store(totals, at(n, s, v), load(b["begins"], firsts[s] + v * lanes, lanes))
    streams = _expanded(b, p, blocks) if p.bitmap else _loaded(b, p, blocks)

    def columns(group: Expr, count: int) -> None:
        for stream in streams:
            stream.ask(group)
        for k in (group + u for u in range(count)):
            x = [T.Bind(splat_four(codes, (begin + n) * stride + k * GROUP, lanes)) for n in range(batch)]
            for s, v in np.ndindex(len(blocks), p.vectors):
                weights = T.Bind(streams[s].next(k, v))
                for n in range(batch):
                    store(totals, at(n, s, v), dot_bytes(load(totals, at(n, s, v), lanes), x[n], weights))

    with T.serial(0, p.groups // UNROLL) as iteration:
        columns(iteration * UNROLL, UNROLL)
    columns(p.groups - p.groups % UNROLL, p.groups % UNROLL)
    for n, s, v in np.ndindex(batch, len(blocks), p.vectors):
        row = firsts[s] + v * lanes
        store(sums, (begin + n) * p.height + row,
              matvec_int8.finished(b, row, load(totals, at(n, s, v), lanes), scales[begin + n], lanes))


@dataclass(frozen=True)
class _Stream:
    """The weight of a block.

    Attributes:
        ask: asks for what lies ahead of a group of columns.
        next: a vector of a group of columns, one after another.

    """

    ask: Callable[[Expr], None]
    next: Callable[[Expr, int], Expr]


def _loaded(b: Buffers, p: GemvInt8Params, blocks: Sequence[Expr]) -> list[_Stream]:
    width = p.lanes * GROUP

    def stream(block: Expr) -> _Stream:
        first = T.Bind(T.Cast("int64", block) * (p.groups * p.vectors * width))
        return _Stream(lambda group: ask_ahead(b["values"], first + group * (p.vectors * width), p.ahead),
                       lambda group, v: load(b["values"], first + (group * p.vectors + v) * width, width))

    return [stream(block) for block in blocks]


def _expanded(b: Buffers, p: GemvInt8Params, blocks: Sequence[Expr]) -> list[_Stream]:
    width, heads = p.lanes * GROUP, registers(len(blocks), 1, "int64")

    def stream(s: int, block: Expr) -> _Stream:
        T.buffer_store(heads, T.Cast("int64", b["starts"][block]), [s])
        first = T.Bind(T.Cast("int64", block) * (p.groups * p.vectors))

        def ask(group: Expr) -> None:
            ask_ahead(b["values"], heads[s], p.ahead)
            ask_ahead(b["bits"], first + group * p.vectors, min(1, p.ahead), BITS_AHEAD)

        def following(group: Expr, v: int) -> Expr:
            bits = T.Bind(b["bits"][first + group * p.vectors + v])
            weights = T.Bind(T.call_llvm_pure_intrin(
                f"int8x{width}", f"llvm.x86.avx512.mask.expand.v{width}i8", load(b["values"], heads[s], width),
                splat(T.int8(0), width), T.reinterpret(f"uint1x{width}", bits)))
            T.buffer_store(heads, heads[s] + T.Cast("int64", T.popcount(bits)), [s])
            return weights

        return _Stream(ask, following)

    return [stream(s, block) for s, block in enumerate(blocks)]


FAMILY = Family("gemv/int8", RowProduct, ("dense",), "int8", partial(candidates, bitmap=False), recipe, build,
                reference, partial(reject, bitmap=False))
BITMAP = Family("bitmap/int8", RowProduct, ("bitmap",), "int8", partial(candidates, bitmap=True), recipe, build,
                reference, partial(reject, bitmap=True))
