"""Dense weight times codes: every four columns of a tile are interleaved once, for all rows.

A register block of rows x vectors of pixels then takes one load for every vector and one broadcast for every row in a
step of four columns. The columns of a weight stand as (channel, tap).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.codes import walk
from sparsec.kernels.cpu.codes.layer import CodesProduct, integer_product
from sparsec.kernels.cpu.codes.tilings import TILE_SHARE, balanced
from sparsec.kernels.cpu.codes.walk import Sums, Tiling
from sparsec.kernels.cpu.products.tiles import LoadTile
from sparsec.kernels.emit.codes import FOUR, dot, interleaved, splat_four
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, load, registers, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import Target

DENSE_BLOCKS = (6, 4, 3, 2, 1)


@dataclass(frozen=True)
class DenseParams:
    """A kernel: mode direct, a chunk of all channels or of a multiple of four, and `block` rows of a register block."""

    tiling: Tiling
    block: int

    @property
    def blocks(self) -> int:
        """Row blocks; the last one overlaps its neighbour where they do not come out even."""
        return -(-self.tiling.stencil.outputs // self.block)

    @property
    def fours(self) -> int:
        """Fours of columns in a chunk."""
        return -(-self.tiling.chunk * len(self.tiling.stencil.taps) // FOUR)


def candidates(layer: CodesProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Options of every tiling worth pricing: register blocks, and chunks whose interleaved tile fits the L2 cache."""
    s = layer.stencil
    blocks = [r for r in DENSE_BLOCKS if r <= s.outputs and (r + 1) * FOUR + 2 <= isa.registers][:2] or [1]
    size = max(FOUR, int(TILE_SHARE * target.l2_bytes) // (s.lanes * len(s.taps)) // FOUR * FOUR)
    for chunk in {s.channels, min(s.channels, -(-balanced(s.channels, size) // FOUR) * FOUR)}:
        for block in blocks:
            params = DenseParams(Tiling(s, layer.finish, "direct", 1, chunk, isa.threads), block)
            yield Option("dense", "qgemm", f"V=1 chunk={chunk} R={block}", params, layer.weight.size,
                         work(params, isa))


def pack(weight: np.ndarray, params: DenseParams) -> dict[str, np.ndarray]:
    """The kernel's `values` (int32: four bytes), chunk x block x four x row, of a weight (outputs, columns) of int8."""
    p, t, s = params, params.tiling, params.tiling.stencil
    rows = np.minimum(np.arange(p.blocks) * p.block, s.outputs - p.block)[:, None] + np.arange(p.block)
    columns, taps = t.chunk * len(s.taps), len(s.taps)
    padded = np.zeros((s.outputs, t.chunks, p.fours * FOUR), np.int8)
    for chunk in range(t.chunks):
        part = weight[:, chunk * columns:min((chunk + 1) * columns, s.channels * taps)]
        padded[:, chunk, :part.shape[1]] = part
    fours = padded.reshape(s.outputs, t.chunks, p.fours, FOUR)[rows]  # blocks x block x chunk x four x 4
    return {"values": np.ascontiguousarray(fours.transpose(2, 0, 3, 1, 4)).reshape(-1).view(np.int32)}


def work(params: DenseParams, isa: Isa) -> Work:
    """What a run costs."""
    p, t, s = params, params.tiling, params.tiling.stencil
    tiles, vectors = s.segments * t.tiles, FOUR * t.vectors
    steps = tiles * p.blocks * t.chunks * p.fours
    copies = tiles * t.chunks * p.fours * vectors
    added = 18 if t.finish.residual or t.finish.shifted else 0
    ends = tiles * p.blocks * p.block * t.vectors * (18 + added + 8 * (t.chunks - 1))
    dots = 1 if isa.vnni else 5
    return Work(fmas=steps * p.block * vectors * dots + 2 * copies + ends * 2 / 3,
                loads=steps * (p.block + vectors) + 4 * copies, groups=tiles * p.blocks * t.chunks,
                memory_bytes=s.outputs * s.inner + t.memory_bytes, kernel="qgemm", pixels=s.pixels)


def build(params: DenseParams, isa: Isa) -> Kernel:
    """The kernel: (values, *Finish, [keep, fill, border], x, …) -> y."""
    p, t = params, params.tiling

    def inner(b: Buffers, source: Buffer, _base: Expr, part: Expr, chunk: Expr, sums: Sums) -> None:
        first, end = part * p.blocks // t.parts, (part + 1) * p.blocks // t.parts
        with T.serial(first, end) as block:
            _block(b, source, p, block, chunk, sums)

    count = t.chunks * p.blocks * p.fours * p.block
    return walk.build(t, isa, {"values": (count, "int32")}, inner, p.blocks * p.block, partial(_prepare, p))


def _block(b: Buffers, source: Buffer, p: DenseParams, block: Expr, chunk: Expr, sums: Sums) -> None:
    """The product of a register block for one chunk."""
    t, words, vectors = p.tiling, p.tiling.words, FOUR * p.tiling.vectors
    acc = registers(p.block * vectors, words, "int32")
    start = T.Bind(T.min(block * p.block, t.stencil.outputs - p.block))
    for r in range(p.block):
        sums.begin(acc, r * vectors, start + r, block * p.block + r)
    with T.serial(0, p.fours) as four:
        pixels = [T.Bind(load(source, (four * vectors + v) * t.stencil.lanes, t.stencil.lanes)) for v in range(vectors)]
        for r in range(p.block):
            at = ((chunk * p.blocks + block) * p.fours + four) * p.block + r
            weights = splat_four(b["values"][at], words)
            for v in range(vectors):
                place = (r * vectors + v) * words
                store(acc, place, dot(load(acc, place, words), pixels[v], weights))
    for r in range(p.block):
        sums.end(acc, r * vectors, start + r, block * p.block + r)


def _prepare(p: DenseParams, b: Buffers, t: Tiling) -> LoadTile:
    """The stage: a chunk's tile, four columns interleaved."""
    s, taps, wide = t.stencil, t.stencil.taps, FOUR * t.vectors * t.stencil.lanes
    scratch = T.alloc_buffer((p.fours * wide,), "uint8")

    def columns(x: Expr, target: Expr, count: int) -> None:
        """The fours of `count` columns from the channel at `x` on."""
        for four in range(-(-count // FOUR)):
            at = [min(FOUR * four + i, count - 1) for i in range(FOUR)]  # weights of columns beyond the last are zero
            for vector in range(t.vectors):
                rows = [T.Bind(load(b["x"], x + k // len(taps) * s.x_channel_stride + taps[k % len(taps)]
                                    + vector * s.lanes, s.lanes)) for k in at]
                for part in range(FOUR):
                    place = target + four * wide + (FOUR * vector + part) * s.lanes
                    store(scratch, place, interleaved(rows, part))

    def load_tile(chunk: Expr, x: Expr) -> tuple[Expr, Expr]:
        first = T.Bind(x + chunk * (t.chunk * s.x_channel_stride))
        with T.serial(0, T.min(t.chunk, s.channels - chunk * t.chunk) // FOUR) as four:
            columns(T.Bind(first + four * (FOUR * s.x_channel_stride)), four * (len(taps) * wide), FOUR * len(taps))
        rest = s.channels % FOUR
        if rest:
            with T.If(chunk == t.chunks - 1), T.Then():
                whole = (s.channels - (t.chunks - 1) * t.chunk) // FOUR
                columns(first + whole * FOUR * s.x_channel_stride, whole * len(taps) * wide, rest * len(taps))
        return scratch, T.int64(0)

    return load_tile


FAMILY = Family("qgemm", CodesProduct, ("dense",), "", candidates, unstored(pack), build, integer_product)
