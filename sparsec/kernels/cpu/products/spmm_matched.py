"""Sparse weight times dense activations in pairs of rows that have more columns in common than chance gives.

One row after the other, a sparse product loads a vector of inputs for every multiply-add and its partial sums besides,
so that on processors that do as many loads as multiply-adds it is bound by loads. Of some hundred rows of 10 %
non-zeros each finds a partner with which it has a third of its columns in common, anew in every chunk: with what these
share, loads are fewer than multiply-adds, and partial sums cost next to nothing. `spmm_pairs` does so for weights of
which 30 % and more are not zero, in steps of several columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.products import load_four, load_two
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.locality import brought_bytes, waited_bytes
from sparsec.kernels.cpu.products.row_blocks import FloatRows
from sparsec.kernels.cpu.products.spmm import halved, lines_ahead
from sparsec.kernels.cpu.products.spmm_pairs import LOAD_INDEX, REGISTERS
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.cpu.products.tilings import sparse_tilings
from sparsec.kernels.cpu.products.walk import Finish, Stage, build_product, float_tile
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, load, prefetch, registers, splat, store
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.matched_rows import Expected, MatchedRows, expected_steps
from sparsec.target import Target

LEAST_DENSITY = 0.03  # from which on rows have columns in common
PAIR = 2  # rows in flight
LEAST_VECTORS = 2  # whose sums hide the latency of multiply-adds, for the next pair follows at once
HELD = 7  # registers beside the sums: inputs, and weights
HEAD = 4  # numbers in the head of a pair
LINE = 64  # bytes of a cache line
AHEAD = 8  # pairs that weights, and outputs before the first sums, are asked for ahead of their use
VALUE_LOADS = 0.5  # what a load of two or four weights costs, in loads of a vector


@dataclass(frozen=True)
class MatchedParams(FloatRows):
    """A product kernel for matched rows.

    Attributes:
        tiling: geometry, epilogue and tiling.
        ahead: cache lines of values that every pair asks for, as in `SpmmParams`.
        group, block, unroll: of `RowBlocks`: a pair of rows that lie by themselves, and so do steps.

    """

    tiling: Tiling
    ahead: int = 0
    group: int = PAIR
    block: int = 1
    unroll: int = 1


def reject(layer: StencilProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if layer.density < LEAST_DENSITY:
        return f"of {layer.density:.0%} non-zeros rows have too few in common"
    if layer.groups > 1:
        return "rows of different groups have no inputs in common"
    if layer.density == 1:
        return "the weight is dense"
    if not load_four.suits(isa):
        return "the processor has no permutes that take weights apart"
    return "the processor has too few registers for the sums of two rows" if isa.registers < REGISTERS else None


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every tiling worth pricing."""
    rows = len(layer.weight)
    for vectors, whole, parts in sparse_tilings(layer, target, isa):
        if vectors < LEAST_VECTORS or PAIR * vectors > isa.registers - HELD or PAIR * isa.threads > rows:
            continue
        for tiling in (halved(each, isa) for each in (*whole, *parts)):
            ahead = lines_ahead(tiling, PAIR, layer.nonzeros, rows // PAIR, target.l2_bytes)
            params = MatchedParams(tiling, ahead)
            if params.reach < 1 << 16:
                steps = layer.memoised(expected_steps, tiling.chunk * len(layer.stencil.taps))
                yield _option(params, steps, target)


def _option(params: MatchedParams, steps: Expected, target: Target) -> Option:
    p, t = params, params.tiling
    entries = (2 * steps.sharing + steps.alone) * t.chunks * -(-p.blocks // PAIR)
    last = f" last={t.last.busy_vectors:g}" if t.last else ""
    return Option("csr", f"spmm/matched-{t.mode}", f"V={t.widest:g} chunk={t.chunk} B={t.bands}{last}", p,
                  int(12 * entries) + 8 * p.blocks * t.chunks, work(p, steps, target.l1_bytes, target.l2_bytes), "f32")


def recipe(params: MatchedParams) -> MatchedRows:
    """What the kernel reads.

    `starts` (int32): the first entry of every (part, chunk); `heads` (int32): of every (part, chunk, pair) its steps
    with a shared column, its steps without, and its two rows, -1 for none, and zeros behind the last; `indices`
    (uint16) and `values` (float32): two an entry, where a step with a shared column has two entries (that column, one
    of the first row's own, one of the second's, none; the weights of the shared and of the own ones) and a step
    without has one.
    """
    p, t = params, params.tiling
    return MatchedRows(p.groups, t.parts, t.chunk * len(t.stencil.taps), t.chunks, t.channel_step,
                       t.tap_offsets, p.index_unit)


def work(params: MatchedParams, steps: Expected, l1_bytes: int, l2_bytes: int) -> Work:
    """What a run costs where a pair of rows takes so many steps in a chunk."""
    p, t, s = params, params.tiling, params.tiling.stencil
    loops = -(-p.blocks // PAIR) * t.chunks
    tiles, traffic = s.segments * t.tiles, t.traffic()
    columns, values = 3 * steps.sharing + 2 * steps.alone, 4 * steps.sharing + 2 * steps.alone
    stores = p.blocks * t.busy_vectors * (3 if t.chunks > 1 else 1) * t.chunks
    weights = 6 * values
    read = min(1.0, columns / (min(t.chunk, s.channels) * len(s.taps)))
    return Work(
        fmas=tiles * loops * values * t.busy_vectors,
        loads=tiles * (loops * (columns * t.busy_vectors * (1 + t.crossing)
                                + VALUE_LOADS * (steps.sharing + steps.alone)) + stores) + traffic.loads,
        groups=tiles * loops,
        l2_bytes=tiles * waited_bytes(t, loops * columns, weights, l1_bytes, read),
        memory_bytes=brought_bytes(t, loops * weights, l2_bytes) + traffic.memory_bytes,
        kernel=f"spmm/matched-{t.reads}", pixels=s.pixels,
        density=min(1.0, loops * values / max(1, p.blocks * s.inner)))


def build(params: MatchedParams, isa: Isa) -> Kernel:
    """The kernel: (starts, heads, indices, values, bias, [mask], x, [residual]) -> y."""
    p, t = params, params.tiling
    groups = t.parts * t.chunks * p.groups
    arrays: dict[str, tuple[int | None, str]] = {
        "starts": (t.parts * t.chunks, "int32"), "heads": ((groups + 1) * HEAD, "int32"), "indices": (None, "uint16"),
        "values": (None, "float32")}

    def inner(b: Buffers, source: Buffer, base: Expr, part: Expr, chunk: Expr, finish: Finish) -> None:
        _pairs(b, source, base, replace(p, tiling=finish.tiling), part, T.Bind(part * t.chunks + chunk), finish)

    stage = Stage(float_tile, LOAD_INDEX + load_four.llvm(isa) + load_two.llvm(isa))
    return build_product(t, isa, arrays, inner, t.stencil.outputs, stage)


def _pairs(b: Buffers, source: Buffer, base: Expr, p: MatchedParams, part: Expr, turn: Expr, finish: Finish) -> None:
    """The pairs of a part in a chunk, the number `turn` of all of these.

    The head of each is read while the one before multiplies, as by `row_blocks.each_group`.
    """
    coming, head = (registers(HEAD + 1, 1, "int32") for _ in range(2))  # and the first entry
    first = T.Bind(turn * p.groups)
    _read(b, first, coming)
    store(coming, HEAD, b["starts"][turn])
    with T.serial(0, p.groups) as index:
        flat = T.Bind(first + index)
        finish.request(part * p.groups + index, p.groups * p.tiling.parts)
        finish.request_cold(index, p.groups, lambda: _rows_to_come(b, p, flat))
        for field in range(HEAD + 1):
            store(head, field, load(coming, field, 1))
        sharing, alone, *rows, entry = (T.Bind(load(head, field, 1)) for field in range(HEAD + 1))
        _read(b, flat + 1, coming)
        store(coming, HEAD, entry + 2 * sharing + alone)
        _pair(b, source, base, p, (sharing, alone, entry), rows, finish)


def _read(b: Buffers, flat: Expr, head: Buffer) -> None:
    """Read the head of a pair."""
    for field in range(HEAD):
        store(head, field, b["heads"][flat * HEAD + field])


def _rows_to_come(b: Buffers, p: MatchedParams, flat: Expr) -> Iterator[Expr]:
    """The rows of the pair that follows some pairs later, of the last one where there is none; some may be -1."""
    last = p.tiling.parts * p.tiling.chunks * p.groups - 1
    coming = T.Bind(T.min(flat + AHEAD, last))
    for side in range(PAIR):
        yield T.Bind(b["heads"][coming * HEAD + 2 + side])


def _pair(b: Buffers, source: Buffer, base: Expr, p: MatchedParams, steps: tuple[Expr, Expr, Expr], rows: list[Expr],
          finish: Finish) -> None:
    """One pair of rows: the loops over its steps with shared columns and without, then its results.

    `steps` are the numbers of both, and the first entry.
    """
    t, (sharing, alone, entry) = p.tiling, steps
    sums = registers(PAIR * t.vectors, t.stencil.lanes)
    for register in range(PAIR * t.vectors):
        store(sums, register * t.stencil.lanes, splat(0.0, t.widths[register % t.vectors]))
    _prefetch(b, p, entry)
    for begin, count, entries, multiply in ((entry, sharing, 2, _share), (entry + 2 * sharing, alone, 1, _alone)):
        first = T.Bind(begin)
        with T.serial(0, count) as step:
            multiply(b, source, base, sums, p, T.Bind(2 * (first + step * entries)))
    short = t.stencil.outputs % (PAIR * t.parts) != 0
    for side, row in enumerate(rows):
        with T.If(row >= 0) if short else nullcontext(), T.Then() if short else nullcontext():
            finish(row, row, partial(_sum, sums, p, side * t.vectors))


def _sum(sums: Buffer, p: MatchedParams, first: int, vector: int) -> Expr:
    """A vector of a row's sums, which begin in a register."""
    return load(sums, (first + vector) * p.tiling.stencil.lanes, p.tiling.widths[vector])


def _prefetch(b: Buffers, p: MatchedParams, entry: Expr) -> None:
    """Ask for the weights of a pair to come, from the entry that lies so many lines behind."""
    coming = (entry + -(-AHEAD * p.ahead * LINE // 8)) * 2
    for name, width, lines in (("values", 4, p.ahead), ("indices", 2, -(-p.ahead // 2))):
        for line in range(lines):
            prefetch(b[name], coming + line * (LINE // width))


def _share(b: Buffers, source: Buffer, base: Expr, sums: Buffer, p: MatchedParams, at: Expr) -> None:
    """A step: a column of both rows, and one of each."""
    weights = load_four.broadcasts(b["values"], at, load_four.FOUR, p.tiling.stencil.lanes)
    factors = [T.Bind(weights(slot)) for slot in range(load_four.FOUR)]
    shared, *own = (_offset(b, base, p, at + slot) for slot in range(3))
    for vector in range(p.tiling.vectors):
        pixel = T.Bind(_input(source, p, shared, vector))
        for side in (0, 1):
            _accumulate(sums, p, side, vector, factors[side], pixel)
    for vector in range(p.tiling.vectors):
        for side in (0, 1):
            _accumulate(sums, p, side, vector, factors[2 + side], _input(source, p, own[side], vector))


def _alone(b: Buffers, source: Buffer, base: Expr, sums: Buffer, p: MatchedParams, at: Expr) -> None:
    """A step: a column of each row."""
    weights = load_two.broadcasts(b["values"], at, p.tiling.stencil.lanes)
    for side in (0, 1):
        factor, offset = T.Bind(weights(side)), _offset(b, base, p, at + side)
        for vector in range(p.tiling.vectors):
            _accumulate(sums, p, side, vector, factor, _input(source, p, offset, vector))


def _offset(b: Buffers, base: Expr, p: MatchedParams, at: Expr) -> Expr:
    """Where the inputs of an index begin."""
    index = T.call_extern("int64", "sparsec_load_index", b["indices"].access_ptr("r"), T.Cast("int64", at))
    return T.Bind(index * T.int64(p.index_unit) + base)


def _input(source: Buffer, p: MatchedParams, offset: Expr, vector: int) -> Expr:
    return load(source, offset + vector * p.tiling.stencil.lanes, p.tiling.widths[vector])


def _accumulate(sums: Buffer, p: MatchedParams, side: int, vector: int, factor: Expr, pixel: Expr) -> None:
    """Add to a vector of the sums of one of the rows."""
    lanes, width = p.tiling.stencil.lanes, p.tiling.widths[vector]
    narrowed = factor if width == lanes else T.Shuffle([factor], list(range(width)))
    add_to(sums, (side * p.tiling.vectors + vector) * lanes, narrowed * pixel)


FAMILY = Family("spmm/matched", StencilProduct, ("csr",), "fp32", candidates, recipe, build, float_product, reject)
