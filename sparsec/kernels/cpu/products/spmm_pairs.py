"""Sparse weight times dense activations in pairs of rows that share the loads of the inputs which both multiply.

One row after the other, a sparse product loads a vector of inputs for every multiply-add, and picks every weight: it is
bound by loads, or by the port of the picks, at three quarters of what multiply-adds allow on processors that do as many
loads as multiply-adds. Two rows of a weight at half density have half of their columns in common. A step takes `shared`
columns that both rows have, a load for two multiply-adds, and `single` ones of each, so that loads and multiply-adds
come evenly; partners are found anew in every chunk, so that each pair of rows of a 2:4 weight takes equally many steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.locality import brought_bytes, waited_bytes
from sparsec.kernels.cpu.products.row_blocks import FloatRows, Head, arguments, each_group, each_row, each_row_to_come
from sparsec.kernels.cpu.products.spmm import AHEAD_SHARE, LINE, MAX_AHEAD, OUTPUTS_AHEAD
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.cpu.products.tilings import SPARSE_SHARES, tile_vectors, tilings
from sparsec.kernels.cpu.products.walk import Finish, Stage, build_product, float_tile
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, load, prefetch, registers, splat, store
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.row_pairs import RowPairs, expected_steps
from sparsec.target import Target

LEAST_DENSITY = 0.3  # at which pairs have enough columns in common
STEPS = ((5, 3), (3, 2))
"""(shared, single) columns of a step."""
REGISTERS = 32
LEAST_SUMS = 12  # vectors of sums that hide the latency of multiply-adds
AHEAD_GROUPS = 8  # groups that weights are asked for ahead of their use: pairs are soon done
BAND_SHARE = 1 / 8  # of the L2 cache that a band's sums take where one tile holds all pixels
BAND_ROWS = 128  # rows that a band has at least
INDEX_LOADS = 0.5  # what an index costs, in loads
LOAD_INDEX = """
define linkonce_odr i64 @sparsec_load_index(ptr %indices, i64 %index) alwaysinline nounwind {
  %at = getelementptr i16, ptr %indices, i64 %index
  %narrow = load volatile i16, ptr %at, align 2
  %wide = zext i16 %narrow to i64
  ret i64 %wide
}
"""
# Volatile: LLVM would load several indices as a vector and take them apart again, on the ports of multiply-adds.


@dataclass(frozen=True)
class PairsParams(FloatRows):
    """A product kernel for pairs of rows.

    Attributes:
        tiling: geometry, epilogue and tiling.
        group: rows in flight, an even number.
        shared: columns of a step that both rows of a pair multiply.
        single: columns of a step that one row multiplies, for each.
        ahead: cache lines of values that every group asks for, as in `SpmmParams`.
        block, unroll: of `RowBlocks`; rows lie by themselves here, and so do steps.

    """

    tiling: Tiling
    group: int
    shared: int
    single: int
    ahead: int = 0
    block: int = 1
    unroll: int = 1

    @property
    def word(self) -> str:
        """Type of an index; each is loaded by itself."""
        return "uint16"

    @property
    def pairs(self) -> int:
        """Pairs of rows in flight."""
        return self.group // 2


def reject(layer: StencilProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if layer.density < LEAST_DENSITY:
        return f"of {layer.density:.0%} non-zeros rows have too few in common"
    if layer.groups > 1:
        return "rows of different groups have no inputs in common"
    if layer.density == 1:
        return "the weight is dense"
    return "the processor has too few registers for the sums of two rows" if isa.registers < REGISTERS else None


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every tiling worth pricing."""
    rows = len(layer.weight)
    for vectors in tile_vectors(layer.stencil, threads=isa.threads):
        group = next((g for g in (2, 4) if g * vectors >= LEAST_SUMS and g * vectors <= isa.registers - 5), None)
        if group is None or group * isa.threads > rows:
            continue
        for each in tilings(layer, target, isa, vectors, SPARSE_SHARES):
            for shared, single in STEPS:
                tiling = _banded(_even_chunk(each, shared + single), isa, target)
                params = PairsParams(tiling, group, shared, single)
                if params.reach < 1 << 16:
                    columns = tiling.chunk * len(layer.stencil.taps)
                    steps = layer.memoised(expected_steps, columns, shared, single)
                    yield _option(replace(params, ahead=_lines_ahead(params, steps, target.l2_bytes)), steps, target)


def _even_chunk(tiling: Tiling, step: int) -> Tiling:
    """The tiling with a chunk in which 2:4 weights take whole steps, where a chunk has so many channels."""
    multiple = 2 * step
    return replace(tiling, chunk=max(multiple, tiling.chunk // multiple * multiple)
                   ) if multiple < tiling.chunk < tiling.stencil.channels else tiling


def _banded(tiling: Tiling, isa: Isa, target: Target) -> Tiling:
    """The tiling in bands of rows whose sums stay near between chunks, where one tile holds all pixels."""
    s = tiling.stencil
    bands = round(4 * s.outputs * tiling.tile / (BAND_SHARE * target.l2_bytes))
    bands = min(bands, s.outputs // BAND_ROWS // isa.threads)
    banded = tiling.mode == "direct" and s.segments * tiling.tiles == 1 and tiling.chunks > 1 and bands > 1
    return replace(tiling, parts=isa.threads * bands, bands=bands) if banded else tiling


def _lines_ahead(p: PairsParams, steps: float, l2_bytes: int) -> int:
    """The `ahead` of a kernel, see `spmm.lines_ahead`."""
    t = p.tiling
    values = 8 * (p.shared + p.single) * steps * p.pairs
    small = values * t.chunks * p.groups * t.parts < l2_bytes * AHEAD_SHARE
    return 0 if small else min(MAX_AHEAD, max(1, round(values / LINE)))


def _option(params: PairsParams, steps: float, target: Target) -> Option:
    p, t = params, params.tiling
    nbytes = steps * t.chunks * -(-p.blocks // 2) * (8 * (p.shared + p.single) + 2 * (p.shared + 2 * p.single))
    detail = f"V={t.vectors} chunk={t.chunk} G={p.group} step={p.shared}+{p.single} B={t.bands}"
    return Option("csr", f"spmm/pairs-{t.mode}", detail, p, int(nbytes) + 4 * p.blocks * t.chunks,
                  work(p, steps, target.l1_bytes, target.l2_bytes), "f32")


def recipe(params: PairsParams) -> RowPairs:
    """What the kernel reads.

    `starts` (int32): first step of every (part, chunk, group), and the end of the last; `rows` (int32): (part, chunk,
    group, pair, 2), or -1; `indices` (uint16): steps x pairs x (shared columns, then single ones, the pair's rows in
    turns); `values` (float32): steps x pairs x (shared + single) x 2.
    """
    p, t = params, params.tiling
    return RowPairs(p.pairs, p.groups, p.shared, p.single, t.parts, t.chunk * len(t.stencil.taps), t.chunks,
                    t.channel_step, t.tap_offsets, p.index_unit)


def work(params: PairsParams, steps: float, l1_bytes: int, l2_bytes: int) -> Work:
    """What a run costs where a pair of rows takes so many steps in a chunk."""
    p, t, s = params, params.tiling, params.tiling.stencil
    loops = -(-p.blocks // 2) * t.chunks
    taken, tiles, traffic = steps * loops, s.segments * t.tiles, t.traffic()
    columns, values = p.shared + 2 * p.single, 2 * (p.shared + p.single)
    stores = p.blocks * t.vectors * (3 if t.chunks > 1 else 1) * t.chunks
    weights = taken * (4 * values + 2 * columns)
    groups, inner = loops / p.pairs, min(t.chunk, s.channels) * len(s.taps)
    read = 1 - max(0.0, 1 - steps * columns / inner) ** p.pairs  # share of a chunk's inputs that a group reads
    return Work(
        fmas=tiles * taken * values * t.vectors,
        loads=tiles * (taken * (columns * (t.vectors * (1 + t.crossing) + INDEX_LOADS) + values) + stores)
        + traffic.loads,
        groups=tiles * groups,
        l2_bytes=tiles * waited_bytes(t, taken * columns, weights / groups, l1_bytes, read),
        memory_bytes=brought_bytes(t, weights, l2_bytes) + traffic.memory_bytes,
        kernel=f"spmm/{t.reads}", pixels=s.pixels, density=min(1.0, taken * values / max(1, p.blocks * s.inner)))


def build(params: PairsParams, isa: Isa) -> Kernel:
    """The kernel: (starts, rows, indices, values, bias, [mask], x, [residual]) -> y."""
    def inner(b: Buffers, source: Buffer, base: Expr, part: Expr, chunk: Expr, finish: Finish) -> None:
        def one(index: Expr, head: Head) -> None:
            finish.request(part * params.groups + index, params.groups * params.tiling.parts)
            finish.request_cold(index, params.groups, lambda: each_row_to_come(b, params, head.flat, OUTPUTS_AHEAD))
            _group(b, source, base, params, head, finish)

        each_group(b, params, part, chunk, one)

    weights = arguments(params) | {"values": (None, "float32")}
    stage = Stage(float_tile, LOAD_INDEX)
    return build_product(params.tiling, isa, weights, inner, params.tiling.stencil.outputs, stage)


def _group(b: Buffers, source: Buffer, base: Expr, p: PairsParams, head: Head, finish: Finish) -> None:
    """One group of pairs: the loop over its steps, then its rows' results."""
    lanes = p.tiling.stencil.lanes
    acc = registers(p.group * p.tiling.vectors, lanes)
    for register in range(p.group * p.tiling.vectors):
        store(acc, register * lanes, splat(0.0, lanes))
    _prefetch(b, p, head.first)
    with T.serial(0, head.steps) as step:
        for pair in range(p.pairs):
            _multiply(b, source, base, acc, p, T.Bind((head.first + step) * p.pairs + pair), pair)
    for row, register in each_row(p, head, p.tiling.vectors):
        finish(row, row, partial(_sum, acc, p, register))


def _sum(acc: Buffer, p: PairsParams, first: int, vector: int) -> Expr:
    """A vector of a row's sums, which begin in a register."""
    lanes = p.tiling.stencil.lanes
    return load(acc, (first + vector) * lanes, lanes)


def _prefetch(b: Buffers, p: PairsParams, step: Expr) -> None:
    """Ask for the weights of a group to come."""
    value_bytes, index_bytes = 8 * (p.shared + p.single) * p.pairs, 2 * (p.shared + 2 * p.single) * p.pairs
    coming = step + -(-AHEAD_GROUPS * p.ahead * LINE // value_bytes)
    for name, nbytes, width in (("values", value_bytes, 4), ("indices", index_bytes, 2)):
        for line in range(-(-p.ahead * nbytes // value_bytes)):
            prefetch(b[name], coming * (nbytes // width) + line * (LINE // width))


def _multiply(b: Buffers, source: Buffer, base: Expr, acc: Buffer, p: PairsParams, step: Expr, pair: int) -> None:
    """One step of a pair, shared columns and single ones in turns."""
    lanes, vectors = p.tiling.stencil.lanes, p.tiling.vectors
    first, index = T.Bind(step * (2 * (p.shared + p.single))), T.Bind(step * (p.shared + 2 * p.single))

    def offset(slot: int) -> Expr:
        at = T.call_extern("int64", "sparsec_load_index", b["indices"].access_ptr("r"),
                           T.Cast("int64", index + slot))
        return T.Bind(at * T.int64(p.index_unit) + base)

    def weight(slot: int) -> Expr:
        return splat(b["values"][first + slot], lanes)

    def accumulate(side: int, vector: int, product: Expr) -> None:
        add_to(acc, ((2 * pair + side) * vectors + vector) * lanes, product)

    for slot in range(max(p.shared, p.single)):
        if slot < p.shared:
            at, weights = offset(slot), [weight(2 * slot + side) for side in (0, 1)]
            for vector in range(vectors):
                pixel = T.Bind(load(source, at + vector * lanes, lanes))
                for side in (0, 1):
                    accumulate(side, vector, weights[side] * pixel)
        for side in (0, 1) if slot < p.single else ():
            at = offset(p.shared + 2 * slot + side)
            for vector in range(vectors):
                accumulate(side, vector, weight(2 * (p.shared + slot) + side)
                           * load(source, at + vector * lanes, lanes))


FAMILY = Family("spmm/pairs", StencilProduct, ("csr",), "fp32", candidates, recipe, build, float_product, reject)
