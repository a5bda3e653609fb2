"""The product kernels as options for a layer: which tilings are worth considering, and the call of one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsec.backends.relax.context import KernelCall
from sparsec.cost.option import Option
from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.products import dense, dense_bf16, dense_outputs, spmm, spmm_bf16, spmm_int8
from sparsec.kernels.cpu.products.product import Tiling, pixel_mask
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.target import Target

ROW_BLOCKS = (1, 2, 4, 8)
INTERLEAVES = ((4, 1), (2, 2), (1, 4), (1, 2), (8, 1))  # (group, unroll)
DENSE_BLOCKS = (1, 2, 3, 4, 5, 6, 7, 8, 12)
L1_SHARES = (0.5, 0.85)  # shares of the L1 cache that a chunk's tile may fill
MAX_VECTORS = 20
BAND_ROWS = 128  # rows that a band has at least
MIN_STEPS = 64  # inner steps that a K-chunk has at least, to be worth its partial sums


@dataclass(frozen=True)
class Layer:
    """A constant weight with its geometry, ready for the product kernels.

    Attributes:
        weight: (outputs, channels * taps).
        bias: (outputs,).
        stencil: the geometry.
        epilogue: what follows.
        target: layout of the output where it is an image.

    """

    weight: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    stencil: Stencil
    epilogue: Epilogue
    target: PaddedFlat | None = None

    @functools.cached_property
    def nonzeros(self) -> int:
        """The weights that are not zero."""
        return int(np.count_nonzero(self.weight))


def options(layer: Layer, target: Target, isa: Isa) -> list[Option]:
    """Every tiling worth pricing, dense ones included."""
    offers = [*_dense_options(layer, target, isa), *_dense_outputs_options(layer, target, isa)]
    for block in ROW_BLOCKS:
        if layer.weight.shape[0] % block == 0:
            offers += _sparse_options(layer, target, isa, block)
    return offers


def tile_vectors(stencil: Stencil, multiple: int = 1, threads: int = 1) -> list[int]:
    """Tile widths that compute few vectors twice, multiples of some number; there may be none but for 1.

    Every thread gets tiles of its own where there are enough vectors: what it reads of the layer before, it wrote.
    """
    total = stencil.vectors
    widths = range(multiple, min(total, MAX_VECTORS) + 1, multiple)
    enough = [v for v in widths if stencil.segments * -(-total // v) >= threads] or list(widths)
    if stencil.segments > 1:
        return [v for v in enough if total % v == 0]
    return [v for v in enough if -(-total // v) * v <= 1.1 * total] or enough[-1:]


def _tilings(layer: Layer, target: Target, isa: Isa, vectors: int) -> Iterator[Tiling]:
    s = layer.stencil
    width = vectors * s.lanes * 4
    chunks = {"direct": {s.channels}}
    if s.x_channel_stride == vectors * s.lanes or len(s.taps) == 1:
        chunks["direct"] |= {int(share * target.l1_bytes) // width for share in L1_SHARES}
    if s.x_channel_stride != vectors * s.lanes:
        halo = Tiling(s, layer.epilogue, "halo", vectors, 1).scratch * 4
        chunks["im2col"] = {int(share * target.l1_bytes) // (width * len(s.taps)) for share in L1_SHARES}
        if len(s.taps) > 1 and halo < len(s.taps) * width:
            chunks["halo"] = {int(share * target.l1_bytes) // halo for share in L1_SHARES}
    for mode, sizes in chunks.items():
        for size in {balanced(s.channels, max(1, size)) for size in sizes}:
            for bands in _bands(layer, target, width):
                yield Tiling(s, layer.epilogue, mode, vectors, size, parts=isa.threads * bands, bands=bands)


def _bands(layer: Layer, target: Target, width: int) -> set[int]:
    """Numbers of bands worth considering: one, and what lets a band's weights and a tile's sums share the L2 cache."""
    rows = len(layer.weight)
    held = 6 * layer.nonzeros + rows * width
    bands = -(-held // (target.l2_bytes * 5 // 8))
    return {1, min(bands, rows // BAND_ROWS)} if layer.stencil.segments > 1 and rows >= 2 * BAND_ROWS else {1}


def balanced(channels: int, chunk: int) -> int:
    """The chunk, evened out over all channels."""
    return -(-channels // -(-channels // min(chunk, channels)))


def _sparse_options(layer: Layer, target: Target, isa: Isa, block: int) -> Iterator[Option]:
    rows = layer.weight.reshape(-1, block, layer.weight.shape[1])
    nonzero = int(np.count_nonzero((rows != 0).any(axis=1)))
    registers = isa.registers - 2 - block  # a pixel and the values of a block are held beside the sums
    for vectors in tile_vectors(layer.stencil, threads=isa.threads):
        shapes = [(g, u) for g, u in INTERLEAVES if g * block * vectors <= registers and g * isa.threads <= len(rows)]
        for tiling in _tilings(layer, target, isa, vectors) if shapes else ():
            for group, unroll in shapes:
                sets = 2 if unroll > 1 and 2 * group * block * vectors <= min(12, registers) else 1
                ahead = spmm.lines_ahead(tiling, group, nonzero * block, len(rows) // group, target.l2_bytes)
                params = spmm.SpmmParams(tiling, block, group, unroll, sets, ahead)
                index = 4 if params.word == "int32" else 2
                name = "csr" if block == 1 else f"bcsr {block}x1"
                yield Option(name, f"spmm/{tiling.mode}",
                             f"V={vectors} chunk={tiling.chunk} G={group} U={unroll} S={sets} B={tiling.bands}", params,
                             nonzero * (4 * block + index) + 4 * len(rows),
                             spmm.work(params, nonzero, target.l1_bytes, target.l2_bytes), "f32")


def _dense_options(layer: Layer, target: Target, isa: Isa) -> Iterator[Option]:
    outputs = layer.stencil.outputs
    for vectors in tile_vectors(layer.stencil, threads=isa.threads):
        # Sums in more than three quarters of the registers, wide blocks of few rows, or no room for the weights that
        # several vectors share make LLVM spill.
        blocks = [r for r in DENSE_BLOCKS if r <= outputs and 4 * r * vectors <= 3 * isa.registers and vectors <= 2 * r
                  and (vectors == 1 or r * (vectors + 1) < isa.registers)]
        for tiling in _tilings(layer, target, isa, vectors) if blocks else ():
            for block in blocks[-2:]:
                params = dense.DenseParams(tiling, block)
                yield Option("dense", f"gemm/{tiling.mode}",
                             f"V={vectors} chunk={tiling.chunk} R={block} B={tiling.bands}", params,
                             4 * layer.weight.size, dense.work(params, target.l1_bytes, target.l2_bytes), "f32")


def _dense_outputs_options(layer: Layer, target: Target, isa: Isa) -> Iterator[Option]:
    s = layer.stencil
    if layer.target is None:
        return
    for rows, pixels, vectors in dense_outputs.blockings(s, layer.target, isa):
        column = 4 * (s.x_channel_stride + len(s.taps) * vectors * s.lanes)  # a channel's inputs and weights
        least = -(-MIN_STEPS // len(s.taps))
        for chunk in {balanced(s.channels, max(int(share * target.l1_bytes) // column, least)) for share in L1_SHARES}:
            params = dense_outputs.DenseOutputsParams(s, layer.epilogue, layer.target, rows, pixels, vectors, chunk)
            yield Option("dense", "gemm/outputs", f"P={rows}x{pixels} V={vectors} chunk={chunk}", params,
                         4 * layer.weight.size, dense_outputs.work(params, target.l1_bytes), "f32")


FAMILIES: dict[type, Any] = {
    spmm.SpmmParams: spmm, dense.DenseParams: dense, dense_outputs.DenseOutputsParams: dense_outputs,
    spmm_bf16.SpmmBf16Params: spmm_bf16, spmm_int8.SpmmInt8Params: spmm_int8,
    dense_bf16.DenseBf16Params: dense_bf16}


@functools.lru_cache(maxsize=512)
def build(params: Any, isa: Isa) -> Any:
    """The kernel; layers with equal parameters share the object, and so the compiled code."""
    return FAMILIES[type(params)].build(params, isa)


def call(layer: Layer, params: Any, isa: Isa) -> KernelCall:
    """The kernel of an option with the layer's constants."""
    constants = [*FAMILIES[type(params)].pack(layer.weight, params).values(), layer.bias]
    if layer.target is not None and layer.target.clean:
        constants.append(pixel_mask(layer.target))
    s = layer.stencil
    sizes = (s.x_size, s.y_size) if layer.epilogue.residual else (s.x_size,)
    return KernelCall(build(params, isa), tuple(constants), sizes, s.y_size)
