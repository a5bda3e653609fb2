"""Sparse weight times codes: K-chunked CSR and R x 1 block CSR, four non-zeros of a row at a time.

The four non-zeros' codes are interleaved in registers, eight instructions for four vectors of pixels, and multiplied
by one dot product for each vector and row of a block. Row groups are packed as those of `products.spmm`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.codes import walk
from sparsec.kernels.cpu.codes.layer import CodesProduct, integer_product
from sparsec.kernels.cpu.codes.tilings import tilings, widths
from sparsec.kernels.cpu.codes.walk import Sums, Tiling
from sparsec.kernels.cpu.products import row_blocks
from sparsec.kernels.cpu.products.layer import nonzero_blocks
from sparsec.kernels.cpu.products.row_blocks import ROW_BLOCKS, RowBlocks, format_of
from sparsec.kernels.emit.codes import FOUR, dot, interleaved, splat_four
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, load, registers, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import Target

GROUPS = (1, 2, 4, 8)
SHARED = 0.75  # what an instruction takes of a dot product's time: interleavings and dot products share three ports
DECODED = 1.5  # vector instructions that reading four indices takes as long as
EXPOSED = 0.25  # of what comes from the L2 cache, beside interleavings that take longer
MOST_UNIT = 64  # codes that an index may count
REAL_SUMS = 8  # vectors of sums beside which the registers hold what float32 results take


@dataclass(frozen=True)
class SparseParams(RowBlocks):
    """A kernel.

    Attributes:
        tiling: geometry and tiling.
        block: R of the R x 1 blocks.
        group: row blocks in flight.
        unroll: non-zero blocks of a row per iteration, a multiple of four.

    """

    tiling: Tiling
    block: int = 1
    group: int = 1
    unroll: int = 4

    @property
    def accumulators(self) -> int:
        """Vector registers that hold sums."""
        return self.group * self.block * FOUR * self.tiling.vectors

    @property
    def index_unit(self) -> int:
        """Codes that an index counts."""
        return math.gcd(MOST_UNIT, self.tiling.channel_step, *self.tiling.tap_offsets)


def candidates(layer: CodesProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every tiling worth pricing, of all row blocks that divide the outputs."""
    for block in ROW_BLOCKS:
        if len(layer.weight) % block == 0:
            yield from _candidates(layer, target, isa, block)


def _candidates(layer: CodesProduct, target: Target, isa: Isa, block: int) -> Iterator[Option]:
    rows, nonzero = len(layer.weight) // block, layer.memoised(nonzero_blocks, block)
    free = isa.registers - (10 if isa.vnni else 12) if isa.registers > 16 else 8
    for vectors in widths(layer.stencil, max(1, free // (FOUR * block))):
        free = min(free, REAL_SUMS) if layer.finish.real else free
        groups = [g for g in GROUPS if g * block * FOUR * vectors <= free and g * isa.threads <= rows] or (
            [1] if block == vectors == 1 else [])
        for tiling in dict.fromkeys(tilings(layer, target, isa, vectors)) if groups else ():
            for group in groups:
                params = SparseParams(tiling, block, group)
                index = 4 if params.word == "int32" else 2
                yield Option(format_of(block), f"qspmm/{tiling.mode}",
                             f"V={vectors} chunk={tiling.chunk} G={group}", params,
                             nonzero * (block + index) + 4 * rows, work(params, nonzero, isa, target.l1_bytes))


def pack(weight: np.ndarray, params: SparseParams) -> dict[str, np.ndarray]:
    """The kernel's arrays for a weight (outputs, channels * taps) of int8; see `products.row_blocks.recipe`.

    `values` (int32) are four consecutive non-zeros of a row as bytes: iteration x four x member x row of the block.
    """
    p = params
    arrays = row_blocks.recipe(p).pack(weight)
    fours = arrays["values"].reshape(-1, FOUR, p.group * p.block).swapaxes(1, 2)
    return arrays | {"values": np.ascontiguousarray(fours).astype(np.int8).ravel().view(np.int32)}


def work(params: SparseParams, nonzero_blocks: int, isa: Isa, l1_bytes: int) -> Work:
    """What a run costs for a weight with that many non-zero R x 1 blocks."""
    p, t, s = params, params.tiling, params.tiling.stencil
    tiles = s.segments * t.tiles
    loops = p.blocks * t.chunks
    fours = (nonzero_blocks + loops * ((p.unroll - 1) / 2 + (0.5 if p.group > 1 else 0))) / FOUR
    # A dot product a vector and row, and two interleavings a vector on one port of three.
    dots = p.block * (1 if isa.vnni else 5)
    ends = p.blocks * p.block * t.vectors * (18 + (18 if t.finish.residual or t.finish.shifted else 0)) + (
        p.blocks * p.block * t.vectors * 8 * (t.chunks - 1))
    loads = fours * (FOUR * t.vectors * (1 + t.crossing) + p.block + 2) + p.blocks * p.block * t.vectors * 4 * t.chunks
    resident = t.chunk * s.lanes * (-(-(t.tile + s.reach) // s.lanes) if t.mode == "halo" else
                                    t.vectors + (min(len(s.taps), 3) if s.reach else 0))
    missed = EXPOSED * max(0.0, 1 - l1_bytes / resident) * fours * FOUR * t.vectors * s.lanes
    weights = fours * FOUR * (p.block + (4 if p.word == "int32" else 2))
    return Work(
        fmas=tiles * (fours * (FOUR * t.vectors * (dots + 2) + DECODED) + ends) * SHARED,
        loads=tiles * loads + 2 * t.copied, groups=tiles * loops / p.group, l2_bytes=tiles * missed,
        memory_bytes=weights + t.memory_bytes, kernel=f"qspmm/{t.mode}", pixels=s.pixels,
        density=nonzero_blocks / max(1, p.blocks * s.inner))


def build(params: SparseParams, isa: Isa) -> Kernel:
    """The kernel: (starts, rows, indices, values, *Finish, [keep, fill, border], x, …) -> y."""
    p, t = params, params.tiling

    def inner(b: Buffers, source: Buffer, base: Expr, part: Expr, chunk: Expr, sums: Sums) -> None:
        row_blocks.each_group(b, p, part, chunk, lambda _, head: _group(b, source, base, p, head, sums))

    weights = row_blocks.arguments(p) | {"values": (None, "int32")}
    return walk.build(t, isa, weights, inner, t.stencil.outputs)


def _group(b: Buffers, source: Buffer, base: Expr, p: SparseParams, head: row_blocks.Head, sums: Sums) -> None:
    """One group of row blocks: the loop over its non-zeros, then its rows' results."""
    acc = registers(p.accumulators, p.tiling.words, "int32")
    for row, register in row_blocks.each_row(p, head, FOUR * p.tiling.vectors, missing=True):
        sums.begin(acc, register, row, row)
    with T.serial(0, head.steps) as step:
        _multiply(b, source, base, acc, p, T.Bind(head.first + step))
    for row, register in row_blocks.each_row(p, head, FOUR * p.tiling.vectors):
        sums.end(acc, register, row, row)


def _multiply(b: Buffers, source: Buffer, base: Expr, acc: Buffer, p: SparseParams, step: Expr) -> None:
    """One iteration: `unroll` / 4 fours of non-zero blocks of each of the group's row blocks."""
    t, words, fours = p.tiling, p.tiling.words, p.unroll // FOUR
    at = [index * T.int64(p.index_unit) + base for index in row_blocks.indices(b, p, step)]
    for four, member in np.ndindex(fours, p.group):
        offsets = [at[(FOUR * four + i) * p.group + member] for i in range(FOUR)]
        for vector in range(t.vectors):
            rows = [T.Bind(load(source, offset + vector * t.stencil.lanes, t.stencil.lanes)) for offset in offsets]
            for r in range(p.block):
                weights = splat_four(b["values"][((step * fours + four) * p.group + member) * p.block + r], words)
                for part in range(FOUR):
                    register = (((member * p.block + r) * t.vectors + vector) * FOUR + part) * words
                    store(acc, register, dot(load(acc, register, words), interleaved(rows, part), weights))


FAMILY = Family("qspmm", CodesProduct, ("csr", "bcsr"), "", candidates, unstored(pack), build, integer_product)
