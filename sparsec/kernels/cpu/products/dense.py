"""Dense weight times dense activations: a register block of rows x vectors, for MatMul and Conv alike.

The inner loop broadcasts one weight for each of `block` rows and multiplies it with `vectors` vectors of pixels, so
that a step of K costs block + vectors loads for block * vectors FMAs. The walk is `walk.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.locality import brought_bytes, waited_bytes
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.cpu.products.tilings import DENSE_BLOCKS, tile_vectors, tilings
from sparsec.kernels.cpu.products.walk import Finish, build_product
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import (
    Buffer,
    Buffers,
    Expr,
    Kernel,
    add_to,
    load,
    prefetch,
    registers,
    splat,
    store,
    vectors_from,
)
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.blocks import OverlappingBlocks
from sparsec.target import Target

PREFETCH = 512  # floats that weights are asked for ahead of their use


@dataclass(frozen=True)
class DenseParams:
    """A dense product kernel.

    Attributes:
        tiling: geometry, epilogue and tiling.
        block: rows of the register block; no more than there are outputs.

    """

    tiling: Tiling
    block: int

    @property
    def blocks(self) -> int:
        """Row blocks of one part; the last one overlaps its neighbour where they do not come out even."""
        return -(-self.tiling.stencil.outputs // (self.block * self.tiling.parts))

    @property
    def accumulators(self) -> int:
        """Vector registers that hold sums."""
        return self.block * self.tiling.vectors


def block_rows(p: DenseParams) -> np.ndarray:
    """First row of every block, (parts * blocks,)."""
    start = np.arange(p.tiling.parts * p.blocks) * p.block
    return np.minimum(start, p.tiling.stencil.outputs - p.block)


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every tiling worth pricing."""
    outputs = layer.stencil.outputs
    for vectors in tile_vectors(layer.stencil, threads=isa.threads):
        # Sums in more than three quarters of the registers, wide blocks of few rows, or no room for the weights that
        # several vectors share make LLVM spill.
        blocks = [r for r in DENSE_BLOCKS if r <= outputs and 4 * r * vectors <= 3 * isa.registers and vectors <= 3 * r
                  and (vectors == 1 or r * (vectors + 1) < isa.registers)]
        for tiling in tilings(layer, target, isa, vectors) if blocks else ():
            for block in blocks[-2:]:
                params = DenseParams(tiling, block)
                yield Option("dense", f"gemm/{tiling.mode}",
                             f"V={vectors} chunk={tiling.chunk} R={block} B={tiling.bands}", params,
                             layer.weight.nbytes, work(params, target.l1_bytes, target.l2_bytes), "f32")


def recipe(params: DenseParams) -> OverlappingBlocks:
    """What the kernel reads: `values`, see `OverlappingBlocks`."""
    t = params.tiling
    return OverlappingBlocks(t.parts, params.blocks, params.block, t.chunk * len(t.stencil.taps))


def work(params: DenseParams, l1_bytes: int, l2_bytes: int) -> Work:
    """What one run does, for the cost model to price."""
    p, t, s = params, params.tiling, params.tiling.stencil
    blocks, tiles = t.parts * p.blocks, s.segments * t.tiles
    steps = blocks * s.inner
    traffic = t.traffic()
    streamed = 4 * p.block * min(t.chunk, s.channels) * len(s.taps)
    stores = blocks * p.block * t.vectors * (3 if t.chunks > 1 else 1) * t.chunks
    return Work(
        fmas=tiles * steps * p.block * t.vectors,
        loads=tiles * (steps * (t.vectors * (1 + t.crossing) + p.block) + stores) + traffic.loads,
        groups=tiles * blocks * t.chunks,
        l2_bytes=tiles * waited_bytes(t, steps, streamed, l1_bytes),
        memory_bytes=brought_bytes(t, 4 * steps * p.block, l2_bytes) + traffic.memory_bytes,
        kernel=f"gemm/{t.reads}", pixels=s.pixels)


def build(params: DenseParams, isa: Isa) -> Kernel:
    """The kernel: (values, bias, [mask], x, [residual]) -> y."""
    t = params.tiling
    total = t.parts * params.blocks * params.block * t.stencil.inner

    def inner(b: Buffers, source: Buffer, base: Expr, part: Expr, chunk: Expr, finish: Finish) -> None:
        columns = t.chunk * len(t.stencil.taps)
        width = T.Bind(T.min(columns, t.stencil.inner - chunk * columns))
        start = T.Bind(params.blocks * params.block * (part * t.stencil.inner + chunk * columns))
        with T.serial(0, params.blocks) as block:
            finish.request(part * params.blocks + block, params.blocks * t.parts)
            weights = T.Bind(start + block * (width * params.block))
            _row_block(b, source, base, params, T.Bind(part * params.blocks + block), weights, chunk, finish)

    return build_product(t, isa, {"values": (total, "float32")}, inner, t.parts * params.blocks * params.block)


def _row_block(b: Buffers, source: Buffer, base: Expr, p: DenseParams, block: Expr, weights: Expr, chunk: Expr,
               finish: Finish) -> None:
    t, s = p.tiling, p.tiling.stencil
    acc = multiply(b, source, base, t, p.block, weights, T.min(t.chunk, s.channels - chunk * t.chunk))
    row = T.Bind(T.min(block * p.block, s.outputs - p.block))
    for r in range(p.block):
        finish(row + r, block * p.block + r, vectors_from(acc, r * t.vectors * s.lanes, s.lanes))


def multiply(b: Buffers, source: Buffer, base: Expr, t: Tiling, block: int, weights: Expr, channels: Expr) -> Buffer:
    """The sums of `block` rows of a tile over some channels, (block, vectors, lanes) in registers."""
    lanes, taps = t.stencil.lanes, len(t.stencil.taps)
    acc = registers(block * t.vectors, lanes)
    for register in range(block * t.vectors):
        store(acc, register * lanes, splat(0.0, lanes))
    with T.serial(0, channels) as channel:
        for tap, tap_offset in enumerate(t.tap_offsets):
            # The hardware's prefetcher stops at every page, where a cold weight would wait for memory.
            prefetch(b["values"], weights + (channel * taps + tap) * block + PREFETCH)
            for vector in range(t.vectors):
                at = base + T.Cast("int64", channel) * T.int64(t.channel_step) + T.int64(tap_offset + vector * lanes)
                pixel = load(source, at, lanes)
                for r in range(block):
                    value = splat(b["values"][weights + (channel * taps + tap) * block + r], lanes)
                    add_to(acc, (r * t.vectors + vector) * lanes, value * pixel)
    return acc


FAMILY = Family("gemm", StencilProduct, ("dense",), "fp32", candidates, recipe, build, float_product)
