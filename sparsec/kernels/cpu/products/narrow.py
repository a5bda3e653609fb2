"""What the product kernels on narrow activations share: their tilings, and the candidates of the sparse ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from sparsec.cost.option import Option, Work
from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.products.layer import StencilProduct, nonzero_blocks
from sparsec.kernels.cpu.products.row_blocks import ROW_BLOCKS, format_of
from sparsec.kernels.cpu.products.spmm import SpmmParams
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.cpu.products.tilings import L1_SHARES, balanced, tile_vectors
from sparsec.kernels.emit.isa import Isa
from sparsec.target import Target

P = TypeVar("P", bound=Hashable)

SHORTER = {"gelu_erf": "gelu_narrow"}  # activations as precise as narrow numbers need them
GROUPS = (1, 2, 4)
MOST_SLOTS = 16  # non-zero blocks in an iteration
SCRATCH_REGISTERS = 6  # inputs, their interleaved halves and the weights


@dataclass(frozen=True)
class NarrowKernel(Generic[P]):
    """How a sparse product computes with narrow activations.

    Attributes:
        params: from the parameters of the float32 kernel to the kernel's.
        work: from these, non-zero blocks, and the bytes of both caches.
        name, codec: the kernel's name and that of its stored values.
        multiple: vectors of a tile that lie in one register.
        step: what `unroll` must be a multiple of.
        activation, weight: bytes of each.
        shares: shares of the L1 cache that a chunk's tile may fill.

    """

    params: Callable[[SpmmParams], P]
    work: Callable[[P, int, int, int], Work]
    name: str
    codec: str
    multiple: int
    step: int
    activation: int
    weight: int
    shares: tuple[float, ...] = L1_SHARES


def narrowed(layer: StencilProduct) -> StencilProduct:
    """The layer with the activation that follows a product of narrow numbers."""
    activation = layer.epilogue.activation
    return replace(layer, epilogue=replace(layer.epilogue, activation=SHORTER.get(activation, activation)))


def narrow_tilings(layer: StencilProduct, target: Target, isa: Isa, vectors: int, row_bytes: int,
                   shares: tuple[float, ...] = L1_SHARES) -> Iterator[Tiling]:
    """Tilings whose chunks fit these shares of the L1 cache; a row of the copied tile has `row_bytes`."""
    s = layer.stencil
    width = row_bytes * len(s.taps)
    for size in {balanced(s.channels, max(1, int(share * target.l1_bytes) // width)) for share in shares}:
        yield Tiling(s, narrowed(layer).epilogue, "im2col", vectors, size, parts=isa.threads)


def sparse_candidates(layer: StencilProduct, target: Target, isa: Isa, kernel: NarrowKernel[P]) -> Iterator[Option]:
    """Every tiling worth pricing."""
    for block, vectors in ((b, v) for b in ROW_BLOCKS for v in _widths(layer.stencil, kernel.multiple)):
        if len(layer.weight) % block:
            continue
        rows, nonzero = len(layer.weight) // block, layer.memoised(nonzero_blocks, block)
        row_bytes = round_up(vectors, kernel.multiple) * isa.lanes * kernel.activation
        for tiling in narrow_tilings(layer, target, isa, vectors, row_bytes, kernel.shares):
            for group, unroll, sets in _shapes(block * vectors, rows, isa, kernel.step):
                plain = SpmmParams(tiling, block, group, unroll, sets)
                if plain.widened(kernel.multiple).word != plain.word:
                    continue
                index, params = 4 if plain.word == "int32" else 2, kernel.params(plain)
                yield Option(format_of(block), kernel.name,
                             f"V={vectors} chunk={tiling.chunk} G={group} U={unroll} S={sets}", params,
                             nonzero * (block * kernel.weight + index) + 4 * rows,
                             kernel.work(params, nonzero, target.l1_bytes, target.l2_bytes), kernel.codec)


def _widths(stencil: Stencil, multiple: int) -> list[int]:
    """Tile widths of whole registers of narrow elements, and others that cover the pixels exactly."""
    exact = [v for v in tile_vectors(stencil) if stencil.vectors % v == 0 and v >= min(multiple, stencil.vectors)]
    return sorted({*tile_vectors(stencil, multiple), *exact})


def _shapes(accumulators: int, rows: int, isa: Isa, step: int) -> list[tuple[int, int, int]]:
    """(group, unroll, sets) for so many accumulators a row block."""
    free = isa.registers - SCRATCH_REGISTERS
    fits = [g for g in GROUPS if g * accumulators <= free and g * isa.threads <= rows]
    return [(g, u, 2 if u > step and 2 * g * accumulators <= min(12, free) else 1)
            for g in fits for u in (step, 2 * step) if g * u <= MOST_SLOTS]
