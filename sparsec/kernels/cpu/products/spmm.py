"""Sparse weight times dense activations: K-chunked CSR and R x 1 block CSR, for MatMul and Conv alike.

Within a chunk the kernel takes `group` row blocks with independent accumulators, and per iteration `unroll` non-zero
blocks of each. Row blocks are sorted by their count in every chunk, so that a group's rows end together. Cost from
L1: about (vectors + 1/2) / 2 cycles per non-zero where a core loads two vectors a cycle. The walk is `walk.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.products import load_four, separable
from sparsec.kernels.cpu.products.layer import StencilProduct, nonzero_blocks
from sparsec.kernels.cpu.products.locality import brought_bytes, waited_bytes
from sparsec.kernels.cpu.products.row_blocks import (
    ROW_BLOCKS,
    FloatRows,
    Head,
    arguments,
    each_group,
    each_row,
    each_row_to_come,
    format_of,
    indices,
    recipe,
)
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.cpu.products.tilings import joined, sectioned, sparse_tilings
from sparsec.kernels.cpu.products.walk import Finish, Stage, build_product, float_tile
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
)
from sparsec.kernels.family import Family, float_product
from sparsec.target import Target

INTERLEAVES = ((4, 1), (2, 2), (1, 4), (1, 2), (8, 1))  # (group, unroll)
LINE = 64  # bytes of a cache line
INDEX_LOADS = 0.5  # what an index costs, in loads: its share of a word and its extraction
MANY_ROWS, ENDS_WAIT = 8, 2.3  # rows whose end takes so long that weights to come are not asked for; what a byte adds
MAX_AHEAD = 16  # cache lines
AHEAD_SHARE = 0.2  # of the L2 cache: smaller weights are not asked for ahead
AHEAD_GROUPS = 4  # groups that weights are asked for ahead of their use: the time of a read from memory
OUTPUTS_AHEAD = 4  # groups that outputs are asked for ahead of the first sums


@dataclass(frozen=True)
class SpmmParams(FloatRows):
    """A sparse product kernel.

    Attributes:
        tiling: geometry, epilogue and tiling.
        block: R of the R x 1 blocks: rows that share their positions.
        group: row blocks in flight.
        unroll: non-zero blocks of a row per iteration.
        sets: accumulator sets that consecutive non-zeros alternate between, to hide the latency of FMA.
        ahead: cache lines of values that every group asks for, about as many as it reads itself; 0 leaves that to the
            processor, which is best for weights that stay in its caches.

    """

    tiling: Tiling
    block: int = 1
    group: int = 1
    unroll: int = 4
    sets: int = 1
    ahead: int = 0

    @property
    def accumulators(self) -> int:
        """Vector registers that hold sums."""
        return self.group * self.block * self.tiling.vectors * self.sets

    @property
    def loads_four(self) -> bool:
        """Whether one load brings four values; blocks of several rows are not bound by their loads."""
        return self.block == 1 and self.group * self.unroll % load_four.FOUR == 0

    def widened(self, multiple: int) -> SpmmParams:
        """The kernel with a tile of a multiple of so many vectors."""
        return replace(self, tiling=replace(self.tiling, vectors=round_up(self.tiling.vectors, multiple)))


def lines_ahead(tiling: Tiling, group: int, nonzeros: int, groups: int, l2_bytes: int) -> int:
    """The `ahead` of a kernel for a weight: none where its values fill little of the L2 cache.

    And none where a group has more rows than vectors, so that it ends too soon, or reads more than can be asked for:
    such requests only crowd out the processor's own.
    """
    lines = max(1, round(4 * nonzeros / (LINE * groups * tiling.turns)))
    small = 4 * nonzeros < l2_bytes * AHEAD_SHARE
    return 0 if small or group > tiling.vectors or lines > MAX_AHEAD else lines


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every tiling worth pricing, of all row blocks that divide the outputs."""
    for block in ROW_BLOCKS:
        if len(layer.weight) % block == 0:
            yield from _candidates(layer, target, isa, block)


def _candidates(layer: StencilProduct, target: Target, isa: Isa, block: int) -> Iterator[Option]:
    rows, nonzero = len(layer.weight) // block, layer.memoised(nonzero_blocks, block)
    free = isa.registers - 2 - block  # a pixel and the values of a block are held beside the sums
    for vectors, whole, parts in sparse_tilings(layer, target, isa):
        shapes = [(g, u) for g, u in INTERLEAVES if g * block * vectors <= free and g * isa.threads <= rows]
        bands, sections = joined(layer, target, isa, whole), sectioned(whole, layer.groups)
        for tiling in (halved(each, isa) for each in (*whole, *bands, *parts, *sections)):
            for group, unroll in _within(shapes, tiling, block):
                sets = 2 if unroll > 1 and 2 * group * block * vectors <= min(12, free) else 1
                ahead = lines_ahead(tiling, group, nonzero * block, rows // group, target.l2_bytes)
                params = SpmmParams(tiling, block, group, unroll, sets, ahead)
                index = 4 if params.word == "int32" else 2
                yield Option(format_of(block), f"spmm/{tiling.mode}" + ("+depthwise" if tiling.joined else ""),
                             f"V={tiling.widest:g} chunk={tiling.chunk} G={group} U={unroll} S={sets} "
                             f"B={tiling.bands}" + (f" sections={tiling.sections}" if tiling.sections > 1 else "")
                             + (f" rows={tiling.joined.rows}" if tiling.joined else "")
                             + (f" last={tiling.last.busy_vectors:g}" if tiling.last else ""),
                             params,
                             nonzero * (4 * block + index) + 4 * rows,
                             work(params, nonzero, target.l1_bytes, target.l2_bytes), "f32",
                             joined=tiling.joined is not None)


def _within(shapes: list[tuple[int, int]], tiling: Tiling, block: int) -> list[tuple[int, int]]:
    """The (group, unroll) that every part of a section has enough rows for; blocks of rows lie in one section."""
    rows = tiling.stencil.outputs // tiling.sections
    return shapes if tiling.sections == 1 else [
        (g, u) for g, u in shapes if rows % block == 0 and g * tiling.parts <= rows // block]


def halved(tiling: Tiling, isa: Isa) -> Tiling:
    """The tiling with half a vector at its end where that is enough and takes less time than a whole one."""
    s = tiling.stencil
    enough = (tiling.ends or tiling.vectors == s.vectors) and s.segments == 1 and 2 * s.tail >= s.lanes
    return replace(tiling, half=True) if isa.halves and enough else tiling


def work(params: SpmmParams, nonzero_blocks: int, l1_bytes: int, l2_bytes: int) -> Work:
    """What a run costs for a weight with that many non-zero R x 1 blocks."""
    p, t, s = params, params.tiling, params.tiling.stencil
    loops = p.blocks * t.turns
    inner = s.inner // t.sections  # columns that a row may have non-zeros in
    slots = nonzero_blocks + loops * ((p.unroll - 1) / 2 + (0.3 if p.group > 1 else 0))
    tiles = s.segments * t.tiles
    pixels = t.busy_vectors * (1 + t.crossing)
    traffic = t.traffic()
    density = nonzero_blocks / max(1, p.blocks * inner)
    # Inputs that no row multiplies are not read.
    unread = 4 * s.x_size * (1 - density) ** p.section_blocks if t.mode == "direct" else 0
    groups, weights = p.blocks / p.group, slots * (4 * p.block + 2)
    brought = brought_bytes(t, weights, l2_bytes)
    touched = groups * inner * (1 - max(0.0, 1 - slots / (p.blocks * inner)) ** p.group)
    stores = p.blocks * p.block * t.busy_vectors * (3 if t.turns > 1 else 1) * t.turns
    return Work(
        fmas=tiles * slots * p.block * t.busy_vectors,
        loads=tiles * (slots * (pixels + (0.25 if p.loads_four else p.block) + INDEX_LOADS) + stores) + traffic.loads,
        groups=tiles * loops / p.group,
        l2_bytes=tiles * waited_bytes(t, touched, weights / (groups * t.turns), l1_bytes,
                                      touched / (groups * inner))
        + (ENDS_WAIT * brought if p.group >= MANY_ROWS else 0), memory_bytes=brought + traffic.memory_bytes - unread,
        kernel=f"spmm/{t.reads}", pixels=s.pixels, density=density)


def build(params: SpmmParams, isa: Isa) -> Kernel:
    """The kernel: (starts, rows, indices, values, [behind, behind_bias], bias, [mask], x, [residual]) -> y."""
    four, bands = load_four.suits(isa) and params.loads_four, params.tiling.joined
    behind = {} if bands is None else separable.arguments(bands.behind)
    return build_with(params, isa, {"values": (None, "float32"), **behind},
                      partial(group, multiply=_multiply_by_four if four else _multiply),
                      Stage(float_tile, load_four.llvm(isa) if four else ""))


Group = Callable[[Buffers, Buffer, Expr, SpmmParams, Head, Finish], None]
"""Emits one group of row blocks: (buffers, source, base, params, head, finish)."""
Multiply = Callable[[Buffers, Buffer, Expr, Buffer, SpmmParams, Expr], None]
"""Emits one iteration: (buffers, source, base, accumulators, params, iteration)."""


def build_with(params: SpmmParams, isa: Isa, values: dict[str, tuple[int | None, str]], emit: Group,
               stage: Stage) -> Kernel:
    """The kernel (starts, rows, indices, *values, …) with groups that `emit` computes of inputs that `stage` brings."""
    def inner(b: Buffers, source: Buffer, base: Expr, part: Expr, chunk: Expr, finish: Finish) -> None:
        p = replace(params, tiling=finish.tiling)

        def one(index: Expr, head: Head) -> None:
            finish.request(part * params.groups + index, params.groups * params.tiling.parts)
            finish.request_cold(index, params.groups, lambda: each_row_to_come(b, params, head.flat, OUTPUTS_AHEAD))
            emit(b, source, base, p, head, finish)

        each_group(b, params, part, chunk, one)

    weights = arguments(params) | values
    return build_product(params.tiling, isa, weights, inner, params.tiling.stencil.outputs, stage)


def group(b: Buffers, source: Buffer, base: Expr, p: SpmmParams, head: Head, finish: Finish,
          multiply: Multiply) -> None:
    """One group of row blocks: the loop over its non-zeros, then its rows' results."""
    lanes, widths = p.tiling.stencil.lanes, p.tiling.widths
    acc = registers(p.accumulators, lanes)
    for register in range(p.accumulators):
        store(acc, register * lanes, splat(0.0, widths[register % len(widths)]))
    _prefetch(b, p, head.first)
    with T.serial(0, head.steps) as step:
        multiply(b, source, base, acc, p, T.Bind(head.first + step))
    add_sets(acc, p)
    for row, register in each_row(p, head, p.tiling.vectors):
        finish(row, row, partial(_sum, acc, p, register))


def _sum(acc: Buffer, p: SpmmParams, first: int, vector: int) -> Expr:
    """A vector of a row's sums, which begin in a register."""
    return load(acc, (first + vector) * p.tiling.stencil.lanes, p.tiling.widths[vector])


def _prefetch(b: Buffers, p: SpmmParams, step: Expr) -> None:
    """Ask for the weights of a group to come, from the iteration that lies so many lines behind `step`."""
    slots = p.group * p.unroll
    value_bytes, index_bytes = 4 * slots * p.block, (4 if p.word == "int32" else 2) * slots
    coming = step + -(-AHEAD_GROUPS * p.ahead * LINE // value_bytes)
    for name, nbytes, width in (("values", value_bytes, 4), ("indices", index_bytes, index_bytes // p.words)):
        for line in range(-(-p.ahead * nbytes // value_bytes)):
            prefetch(b[name], coming * (nbytes // width) + line * (LINE // width))


def add_sets(acc: Buffer, p: SpmmParams) -> None:
    """Add up the accumulator sets in the first one."""
    lanes, widths = p.tiling.stencil.lanes, p.tiling.widths
    one_set = p.group * p.block * p.tiling.vectors
    for register in range(one_set):
        for other in range(1, p.sets):
            more = load(acc, (other * one_set + register) * lanes, widths[register % len(widths)])
            add_to(acc, register * lanes, more)


def _multiply(b: Buffers, source: Buffer, base: Expr, acc: Buffer, p: SpmmParams, step: Expr) -> None:
    """One iteration: `unroll` non-zero blocks of each of the group's row blocks, their values one by one."""
    count, lanes = p.unroll * p.group * p.block, p.tiling.stencil.lanes
    _multiply_add(b, source, base, acc, p, step, lambda slot: splat(b["values"][step * count + slot], lanes))


def _multiply_by_four(b: Buffers, source: Buffer, base: Expr, acc: Buffer, p: SpmmParams, step: Expr) -> None:
    """One iteration: `unroll` non-zero blocks of each of the group's row blocks, their values four by four."""
    count, lanes = p.unroll * p.group * p.block, p.tiling.stencil.lanes
    values = load_four.broadcasts(b["values"], step * count, count, lanes)
    _multiply_add(b, source, base, acc, p, step, lambda slot: T.Bind(values(slot)))


def _multiply_add(b: Buffers, source: Buffer, base: Expr, acc: Buffer, p: SpmmParams, step: Expr,
                  value: Callable[[int], Expr]) -> None:
    lanes, widths = p.tiling.stencil.lanes, p.tiling.widths
    for slot, index in enumerate(indices(b, p, step)):
        offset = index * T.int64(p.index_unit) + base
        target = (slot // p.group % p.sets) * p.group + slot % p.group
        values = [value(slot * p.block + r) for r in range(p.block)]
        for vector, width in enumerate(widths):
            pixel = load(source, offset + vector * lanes, width)
            for r in range(p.block):
                factor = values[r] if width == lanes else T.Shuffle([values[r]], list(range(width)))
                add_to(acc, ((target * p.block + r) * len(widths) + vector) * lanes, factor * pixel)


FAMILY = Family("spmm", StencilProduct, ("csr", "bcsr"), "fp32", candidates, recipe, build, float_product)
