"""Dense grouped convolution: every group's rows multiply the channels of that group alone.

A group's channels are a K-chunk and a section of the walk: its rows are finished at once, without partial sums. The
inner loop is that of `dense.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.products.dense import multiply
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.locality import brought_bytes, waited_bytes
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.cpu.products.tilings import DENSE_BLOCKS, aligned_copies, tile_vectors
from sparsec.kernels.cpu.products.walk import Finish, build_product
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, vectors_from
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.blocks import GroupBlocks
from sparsec.target import Target

SCRATCH_SHARE = 0.5
"""The share of the L2 cache that a group's tile may fill."""


@dataclass(frozen=True)
class DenseGroupsParams:
    """A kernel.

    Attributes:
        tiling: geometry, epilogue and tiling; a chunk and a section are a group's channels.
        block: rows of the register block; no more than a group has.

    """

    tiling: Tiling
    block: int

    @property
    def outputs(self) -> int:
        """Rows of a group."""
        return self.tiling.stencil.outputs // self.tiling.chunks

    @property
    def blocks(self) -> int:
        """Row blocks of a group; the last one overlaps its neighbour where they do not come out even."""
        return -(-self.outputs // self.block)

    @property
    def inner(self) -> int:
        """Columns of a group: channels x taps."""
        return self.tiling.chunk * len(self.tiling.stencil.taps)


def reject(layer: StencilProduct, _isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    return "it has one group" if layer.groups == 1 else None


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every tiling worth pricing."""
    s = layer.stencil
    for vectors in tile_vectors(s, threads=isa.threads):
        blocks = [r for r in DENSE_BLOCKS if r <= s.outputs // layer.groups and vectors <= 3 * r
                  and 4 * r * vectors <= 3 * isa.registers and (vectors == 1 or r * (vectors + 1) < isa.registers)]
        for mode in ("direct", "halo", aligned_copies(s, layer.epilogue, vectors)) if blocks else ():
            # Row blocks of a group overlap: what is computed twice cannot begin with a residual in its own place.
            tiling = Tiling(s, replace(layer.epilogue, in_place=False), mode, vectors, s.channels // layer.groups,
                            sections=layer.groups)
            if 4 * tiling.scratch > SCRATCH_SHARE * target.l2_bytes:
                continue
            for block in blocks[-2:]:
                params = DenseGroupsParams(tiling, block)
                yield Option("dense", f"gemm/groups/{mode}", f"V={vectors} groups={layer.groups} R={block}", params,
                             layer.weight.nbytes // layer.groups, work(params, target.l1_bytes, target.l2_bytes), "f32")


def recipe(params: DenseGroupsParams) -> GroupBlocks:
    """What the kernel reads: `values`, see `GroupBlocks`."""
    return GroupBlocks(params.tiling.chunks, params.blocks, params.block)


def work(params: DenseGroupsParams, l1_bytes: int, l2_bytes: int) -> Work:
    """What one run does, for the cost model to price."""
    p, t, s = params, params.tiling, params.tiling.stencil
    blocks, tiles, traffic = t.chunks * p.blocks, s.segments * t.tiles, t.traffic()
    steps = blocks * p.inner
    return Work(
        fmas=tiles * steps * p.block * t.vectors,
        loads=tiles * (steps * (t.vectors * (1 + t.crossing) + p.block) + blocks * p.block * t.vectors)
        + traffic.loads,
        groups=tiles * blocks,
        l2_bytes=tiles * waited_bytes(t, steps, 4 * p.block * p.inner, l1_bytes),
        memory_bytes=brought_bytes(t, 4 * steps * p.block, l2_bytes) + traffic.memory_bytes,
        kernel=f"gemm/{t.reads}", pixels=s.pixels)


def build(params: DenseGroupsParams, isa: Isa) -> Kernel:
    """The kernel: (values, bias, [mask], x, [residual]) -> y."""
    p, t = params, params.tiling

    def inner(b: Buffers, source: Buffer, base: Expr, _part: Expr, chunk: Expr, finish: Finish) -> None:
        with T.serial(0, p.blocks) as block:
            weights = T.Bind((chunk * p.blocks + block) * (p.inner * p.block))
            acc = multiply(b, source, base, t, p.block, weights, t.chunk)
            row = T.Bind(chunk * p.outputs + T.min(block * p.block, p.outputs - p.block))
            for r in range(p.block):
                finish(row + r, row + r, vectors_from(acc, r * t.vectors * t.stencil.lanes, t.stencil.lanes))

    size = t.chunks * p.blocks * p.block * p.inner
    return build_product(t, isa, {"values": (size, "float32")}, inner, t.stencil.outputs)


FAMILY = Family("gemm/groups", StencilProduct, ("dense",), "fp32", candidates, recipe, build, float_product, reject)
