"""The product kernels on narrow activations as options for a layer, where the precision allows them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsec.backends.cpu.products import DENSE_BLOCKS, L1_SHARES, ROW_BLOCKS, Layer, balanced, tile_vectors
from sparsec.kernels import dense, dense_bf16, spmm, spmm_bf16
from sparsec.kernels.isa import Isa
from sparsec.kernels.product import Tiling
from sparsec.option import Option, allows
from sparsec.target import Target

INTERLEAVES = ((4, 2), (2, 2), (2, 4), (1, 2), (1, 4))  # (group, unroll)
SCRATCH_REGISTERS = 6  # inputs, their interleaved halves and the weights


def options(layer: Layer, target: Target, isa: Isa, precision: str) -> list[Option]:
    """Every tiling worth pricing that computes with fewer bits than float32, as far as the precision allows."""
    if not allows(precision, "bf16"):
        return []
    return [*_sparse_bf16(layer, target, isa), *(_dense_bf16(layer, target, isa) if isa.bf16 else ())]


def _tilings(layer: Layer, target: Target, isa: Isa, vectors: int, element: int) -> Iterator[Tiling]:
    """Tilings with a chunk of `element` bytes a pixel in the L1 cache."""
    s = layer.stencil
    width = vectors * s.lanes * len(s.taps) * element
    for size in {balanced(s.channels, max(1, int(share * target.l1_bytes) // width)) for share in L1_SHARES}:
        yield Tiling(s, layer.epilogue, "im2col", vectors, size, parts=isa.threads)


def _sparse_bf16(layer: Layer, target: Target, isa: Isa) -> Iterator[Option]:
    for block, vectors in ((b, v) for b in ROW_BLOCKS for v in tile_vectors(layer.stencil, 2)):
        if len(layer.weight) % block:
            continue
        rows = layer.weight.reshape(-1, block, layer.weight.shape[1])
        nonzero = int(np.count_nonzero((rows != 0).any(axis=1)))
        for tiling in _tilings(layer, target, isa, vectors, 2):
            for group, unroll, sets in _shapes(block * vectors, len(rows), isa):
                plain = spmm.SpmmParams(tiling, block, group, unroll, sets)
                params = spmm_bf16.SpmmBf16Params(plain, isa.bf16)
                index = 4 if plain.word == "int32" else 2
                nbytes = nonzero * (block * (2 if isa.bf16 else 4) + index) + 4 * len(rows)
                name = "csr bf16" if block == 1 else f"bcsr {block}x1 bf16"
                yield Option(name, f"spmm/{'bf16' if isa.bf16 else 'bf16-widened'}",
                             f"V={vectors} chunk={tiling.chunk} G={group} U={unroll} S={sets}", params, nbytes,
                             spmm_bf16.work(params, nonzero, target.l1_bytes, target.l2_bytes))


def _shapes(accumulators: int, rows: int, isa: Isa) -> list[tuple[int, int, int]]:
    """(group, unroll, sets) for so many accumulators a row block."""
    free = isa.registers - SCRATCH_REGISTERS
    return [(group, unroll, 2 if unroll > 2 and 2 * group * accumulators <= min(12, free) else 1)
            for group, unroll in INTERLEAVES if group * accumulators <= free and group * isa.threads <= rows]


def _dense_bf16(layer: Layer, target: Target, isa: Isa) -> Iterator[Option]:
    outputs = layer.stencil.outputs
    for vectors in tile_vectors(layer.stencil):
        blocks = [r for r in DENSE_BLOCKS if r <= outputs and r * vectors <= isa.registers - 4 and vectors <= 2 * r]
        for tiling in _tilings(layer, target, isa, vectors, 2) if blocks else ():
            if tiling.chunks > 1 and tiling.chunk % 2:
                continue
            for block in blocks[-2:]:
                params = dense_bf16.DenseBf16Params(dense.DenseParams(tiling, block))
                yield Option("dense bf16", "gemm/bf16", f"V={vectors} chunk={tiling.chunk} R={block}", params,
                             2 * layer.weight.size, dense_bf16.work(params, target.l1_bytes, target.l2_bytes))
