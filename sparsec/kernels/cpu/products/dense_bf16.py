"""Dense weight times dense activations in bf16 pairs, with float32 sums: a register block of rows x vectors.

Neighbouring channels are interleaved on their way to the L1 cache, so that one vdpbf16ps multiplies a vector of pairs
straight from memory. It needs AVX512_BF16 or Arm's bfdot; without it arithmetic bounds the dense product, and narrow
inputs gain nothing. The walk is `walk.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.cost.roofline import ROUNDED
from sparsec.kernels.cpu.products import dense
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.narrow import narrow_tilings
from sparsec.kernels.cpu.products.tiles import LoadTile
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.cpu.products.tilings import DENSE_BLOCKS, tile_vectors
from sparsec.kernels.cpu.products.walk import Finish, Stage, build_product
from sparsec.kernels.emit import intrinsics
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, load, registers, splat, store, vectors_from
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import Target


@dataclass(frozen=True)
class DenseBf16Params:
    """A dense product kernel on bf16 pairs.

    Attributes:
        dense: the float32 kernel that it follows: mode im2col, an even chunk where there are several.

    """

    dense: dense.DenseParams

    @property
    def pairs(self) -> int:
        """Pairs of channels; the last one of an odd number is half empty."""
        return -(-self.dense.tiling.stencil.channels // 2)

    @property
    def chunk(self) -> int:
        """Pairs of channels in a K-chunk."""
        return -(-self.dense.tiling.chunk // 2)


def reject(_layer: StencilProduct, isa: Isa) -> str | None:
    """Why there is no such kernel, or None."""
    return None if isa.bf16 else "no dot products of bf16 pairs"


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every tiling worth pricing."""
    outputs = layer.stencil.outputs
    for vectors in tile_vectors(layer.stencil):
        blocks = [r for r in DENSE_BLOCKS if r <= outputs and r * vectors <= isa.registers - 4 and vectors <= 2 * r]
        for tiling in narrow_tilings(layer, target, isa, vectors, 2 * vectors * isa.lanes) if blocks else ():
            if tiling.chunks > 1 and tiling.chunk % 2:
                continue
            for block in blocks[-2:]:
                params = DenseBf16Params(dense.DenseParams(tiling, block))
                yield Option("dense", "gemm/bf16", f"V={vectors} chunk={tiling.chunk} R={block}", params,
                             2 * layer.weight.size, work(params, target.l1_bytes, target.l2_bytes), "bf16")


def pack(weight: np.ndarray, params: DenseBf16Params) -> dict[str, np.ndarray]:
    """The kernel's array for a weight (outputs, channels * taps): `values` (int32), (row block, pair, tap, block)."""
    s, block = params.dense.tiling.stencil, params.dense.block
    even = np.zeros((s.outputs, 2 * params.pairs, len(s.taps)), np.float32)
    even[:, :s.channels] = weight.reshape(s.outputs, s.channels, -1)
    rows = dense.block_rows(params.dense)[:, None] + np.arange(block)
    pairs = even.reshape(s.outputs, params.pairs, 2, -1)[rows].transpose(0, 2, 4, 1, 3)  # block, pair, tap, row, 2
    return {"values": pairs.astype(ml_dtypes.bfloat16).ravel().view(np.int32)}


def reference(weight: np.ndarray, columns: np.ndarray, _params: DenseBf16Params) -> np.ndarray:
    """The product (outputs, n) of a weight and what pixels see, (channels * taps, n), on the kernel's operands."""
    narrow, seen = (each.astype(ml_dtypes.bfloat16).astype(np.float32) for each in (weight, columns))
    product: np.ndarray = narrow @ seen
    return product


def work(params: DenseBf16Params, l1_bytes: int, l2_bytes: int) -> Work:
    """What one run does, for the cost model to price."""
    p = params.dense
    full, copy = dense.work(p, l1_bytes, l2_bytes), p.tiling.traffic()
    return replace(full, fmas=full.fmas / 2, loads=copy.loads + (full.loads - copy.loads) / 2,
                   kernel=full.kernel + ROUNDED)


def build(params: DenseBf16Params, isa: Isa) -> Kernel:
    """The kernel: (values, bias, [mask], x, [residual]) -> y."""
    p, t = params.dense, params.dense.tiling
    total = t.parts * p.blocks * p.block * params.pairs * len(t.stencil.taps)

    def prepare(b: Buffers, _tiling: Tiling) -> LoadTile:
        scratch = T.alloc_buffer((params.chunk * t.channel_step,), "int32")

        def load_tile(chunk: Expr, x: Expr) -> tuple[Expr, Expr]:
            _copy_pairs(b, scratch, params, chunk, x)
            return scratch, T.int64(0)

        return load_tile

    def inner(b: Buffers, source: Buffer, _base: Expr, part: Expr, chunk: Expr, finish: Finish) -> None:
        with T.serial(0, p.blocks) as block:
            _row_block(b, source, params, T.Bind(part * p.blocks + block), chunk, finish)

    return build_product(t, isa, {"values": (total, "int32")}, inner, t.parts * p.blocks * p.block,
                         Stage(prepare, intrinsics.llvm_bf16(isa)))


def _copy_pairs(b: Buffers, scratch: Buffer, params: DenseBf16Params, chunk: Expr, x: Expr) -> None:
    """Copy every tap of the chunk's tile, two channels a word."""
    t, s = params.dense.tiling, params.dense.tiling.stencil
    with T.serial(0, T.min(params.chunk, params.pairs - chunk * params.chunk)) as pair:
        channel = T.Bind((chunk * params.chunk + pair) * 2)
        # The missing partner of a last odd channel is that channel itself, with weight zero.
        rows = [T.Bind(x + T.min(channel + i, s.channels - 1) * s.x_channel_stride) for i in (0, 1)]
        for tap, offset in enumerate(s.taps):
            for vector in range(t.vectors):
                low, high = (load(b["x"], row + offset + vector * s.lanes, s.lanes) for row in rows)
                place = (pair * len(s.taps) + tap) * t.tile + vector * s.lanes
                store(scratch, place, intrinsics.pairs_bf16(low, high))


def _row_block(b: Buffers, source: Buffer, params: DenseBf16Params, block: Expr, chunk: Expr, finish: Finish) -> None:
    p, t, s = params.dense, params.dense.tiling, params.dense.tiling.stencil
    lanes, taps = s.lanes, len(s.taps)
    acc = registers(p.accumulators, lanes)
    for register in range(p.accumulators):
        store(acc, register * lanes, splat(0.0, lanes))
    weights = T.Bind((block * params.pairs + chunk * params.chunk) * taps * p.block)
    with T.serial(0, T.min(params.chunk, params.pairs - chunk * params.chunk)) as pair:
        for tap, vector in np.ndindex(taps, t.vectors):
            at = T.Cast("int64", pair * taps + tap) * T.int64(t.tile) + T.int64(vector * lanes)
            pixels = load(source, at, lanes)
            for r in range(p.block):
                value = splat(b["values"][weights + (pair * taps + tap) * p.block + r], lanes)
                register = (r * t.vectors + vector) * lanes
                store(acc, register, intrinsics.dot_pairs(load(acc, register, lanes), pixels, value))
    row = T.Bind(T.min(block * p.block, s.outputs - p.block))
    for r in range(p.block):
        finish(row + r, block * p.block + r, vectors_from(acc, r * t.vectors * lanes, lanes))


FAMILY = Family("gemm/bf16", StencilProduct, ("dense",), "bf16", candidates, unstored(pack), build, reference, reject)
