"""The product kernels on narrow activations as options for a layer, where the precision allows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from sparsec.backends.cpu.products import DENSE_BLOCKS, L1_SHARES, ROW_BLOCKS, Layer, balanced, tile_vectors
from sparsec.cost.option import Option, allows
from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.products import dense, dense_bf16, spmm, spmm_bf16, spmm_int8
from sparsec.kernels.cpu.products.product import Tiling
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit.isa import Isa
from sparsec.target import Target

SHORTER = {"gelu_erf": "gelu_narrow"}  # activations as precise as narrow numbers need them
GROUPS = (1, 2, 4)
MOST_SLOTS = 16  # non-zero blocks in an iteration
SCRATCH_REGISTERS = 6  # inputs, their interleaved halves and the weights


def options(layer: Layer, target: Target, isa: Isa, precision: str,
            ranges: spmm_int8.Ranges | None = None) -> list[Option]:
    """Every tiling worth pricing that computes with fewer bits than float32, as far as the precision allows.

    `ranges` are those of the layer's input where scales of 8-bit integers are static.
    """
    activation = layer.epilogue.activation
    layer = replace(layer, epilogue=replace(layer.epilogue, activation=SHORTER.get(activation, activation)))
    offers: list[Option] = []
    if allows(precision, "bf16"):
        offers += _sparse(layer, target, isa, PAIRS if isa.bf16 else WIDENED)
        offers += _dense_bf16(layer, target, isa) if isa.bf16 else ()
    if allows(precision, "int8") and isa.int8:
        offers += _sparse(layer, target, isa, _fours(isa, ranges))
    return offers


@dataclass(frozen=True)
class Form:
    """A way to compute sparse products with narrow activations.

    Attributes:
        module: the kernel's, with `work`.
        params: from the parameters of the float32 kernel to the kernel's.
        kernel, codec: its name and that of its stored values.
        multiple: vectors of a tile that lie in one register.
        step: what `unroll` must be a multiple of.
        activation, weight: bytes of each.
        shares: shares of the L1 cache that a chunk's tile may fill.

    """

    module: ModuleType
    params: Callable[[spmm.SpmmParams], Any]
    kernel: str
    codec: str
    multiple: int
    step: int
    activation: int
    weight: int
    shares: tuple[float, ...] = L1_SHARES


PAIRS = Form(spmm_bf16, lambda p: spmm_bf16.SpmmBf16Params(p, paired=True), "spmm/bf16", "bf16", 2, 2, 2, 2)
WIDENED = Form(spmm_bf16, lambda p: spmm_bf16.SpmmBf16Params(p, paired=False), "spmm/bf16-widened", "f32", 2, 1, 2, 4)


def _fours(isa: Isa, ranges: spmm_int8.Ranges | None) -> Form:
    """8-bit integers, with static scales where ranges are known."""
    def params(p: spmm.SpmmParams) -> spmm_int8.SpmmInt8Params:
        return spmm_int8.SpmmInt8Params(p, 8 if isa.vnni else 7, ranges is not None, ranges)

    kernel = "spmm/int8" if ranges is None else "spmm/int8-static"
    return Form(spmm_int8, params, kernel, "int8", 4, 4, 1, 1, (*L1_SHARES, 1.0))


def _tilings(layer: Layer, target: Target, isa: Isa, vectors: int, row_bytes: int,
             shares: tuple[float, ...] = L1_SHARES) -> Iterator[Tiling]:
    """Tilings whose chunks fit these shares of the L1 cache; a row of the copied tile has `row_bytes`."""
    s = layer.stencil
    width = row_bytes * len(s.taps)
    for size in {balanced(s.channels, max(1, int(share * target.l1_bytes) // width)) for share in shares}:
        yield Tiling(s, layer.epilogue, "im2col", vectors, size, parts=isa.threads)


def _widths(stencil: Stencil, multiple: int) -> list[int]:
    """Tile widths of whole registers of narrow elements, and others that cover the pixels exactly."""
    exact = [v for v in tile_vectors(stencil) if stencil.vectors % v == 0 and v >= min(multiple, stencil.vectors)]
    return sorted({*tile_vectors(stencil, multiple), *exact})


def _sparse(layer: Layer, target: Target, isa: Isa, form: Form) -> Iterator[Option]:
    for block, vectors in ((b, v) for b in ROW_BLOCKS for v in _widths(layer.stencil, form.multiple)):
        if len(layer.weight) % block:
            continue
        rows = layer.weight.reshape(-1, block, layer.weight.shape[1])
        nonzero = int(np.count_nonzero((rows != 0).any(axis=1)))
        row_bytes = round_up(vectors, form.multiple) * isa.lanes * form.activation
        for tiling in _tilings(layer, target, isa, vectors, row_bytes, form.shares):
            for group, unroll, sets in _shapes(block * vectors, len(rows), isa, form.step):
                plain = spmm.SpmmParams(tiling, block, group, unroll, sets)
                if plain.widened(form.multiple).word != plain.word:
                    continue
                index = 4 if plain.word == "int32" else 2
                yield Option("csr" if block == 1 else f"bcsr {block}x1", form.kernel,
                             f"V={vectors} chunk={tiling.chunk} G={group} U={unroll} S={sets}", form.params(plain),
                             nonzero * (block * form.weight + index) + 4 * len(rows),
                             form.module.work(form.params(plain), nonzero, target.l1_bytes, target.l2_bytes),
                             form.codec)


def _shapes(accumulators: int, rows: int, isa: Isa, step: int) -> list[tuple[int, int, int]]:
    """(group, unroll, sets) for so many accumulators a row block."""
    free = isa.registers - SCRATCH_REGISTERS
    fits = [g for g in GROUPS if g * accumulators <= free and g * isa.threads <= rows]
    return [(g, u, 2 if u > step and 2 * g * accumulators <= min(12, free) else 1)
            for g in fits for u in (step, 2 * step) if g * u <= MOST_SLOTS]


def _dense_bf16(layer: Layer, target: Target, isa: Isa) -> Iterator[Option]:
    outputs = layer.stencil.outputs
    for vectors in tile_vectors(layer.stencil):
        blocks = [r for r in DENSE_BLOCKS if r <= outputs and r * vectors <= isa.registers - 4 and vectors <= 2 * r]
        for tiling in _tilings(layer, target, isa, vectors, 2 * vectors * isa.lanes) if blocks else ():
            if tiling.chunks > 1 and tiling.chunk % 2:
                continue
            for block in blocks[-2:]:
                params = dense_bf16.DenseBf16Params(dense.DenseParams(tiling, block))
                yield Option("dense", "gemm/bf16", f"V={vectors} chunk={tiling.chunk} R={block}", params,
                             2 * layer.weight.size, dense_bf16.work(params, target.l1_bytes, target.l2_bytes), "bf16")
