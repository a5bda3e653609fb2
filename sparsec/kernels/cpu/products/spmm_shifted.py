"""Sparse convolution whose taps are summed column by column, and shifted when a row of the weight is done.

A tap one pixel to the left or right begins within a vector, so that its loads cross cache lines or need a copy of the
image of their own. Here the non-zeros of every column of the window have sums of their own, `acc[c][q]` for the pixels
`q` that they read, and an output is the sum of `acc[c][p + c]` over the columns c: a shift of registers, once for every
row of the weight and chunk of channels. One copy of the tile serves all taps; image rows begin at whole vectors there,
so that those of a column are aligned as well. The copy takes a third of the L1 cache that a copy for every column does
and a ninth of one for every tap, so that chunks are longer and fewer partial sums wait.

A step takes one non-zero of every column, or as many as its share of the window. Of a column that a row has more
non-zeros in than steps, some take other columns' places, with loads that cross cache lines. Partial sums wait in a
scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.images.padded import keep_lanes, load_lanes, store_lanes
from sparsec.kernels.cpu.products import load_four
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.locality import FULL, L2_SHARE, SCATTERED
from sparsec.kernels.cpu.products.shifted_params import ShiftedParams
from sparsec.kernels.cpu.products.spmm import AHEAD_SHARE, LINE, MAX_AHEAD
from sparsec.kernels.cpu.products.tilings import SPARSE_SHARES, balanced
from sparsec.kernels.cpu.products.walk import finishing_kernel
from sparsec.kernels.emit.activations import finished
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import (
    Buffer,
    Buffers,
    Expr,
    Kernel,
    add_to,
    load,
    parallel,
    prefetch,
    registers,
    splat,
    store,
)
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.tap_columns import TapColumns, expected_steps
from sparsec.target import Target

AHEAD_ROWS = 4  # rows that weights are asked for ahead of their use
SPARE_REGISTERS = 5  # beside the sums: four weights, one of them, and what the compiler moves
LEAST_VECTORS = 4  # of a step, which hide the latency of multiply-adds
TWICE = 1.15  # image rows that tiles compute, at most, as a multiple of those that there are


def reject(layer: StencilProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    lines = layer.stencil.lines
    if isa.neon or isa.lanes <= load_four.FOUR:
        return "its vectors have eight lanes at least, and stores that leave some out"
    if lines is None:
        return "it computes one image at a time"
    if layer.groups > 1 or len(_params(layer, isa, 1, 1).slots) > load_four.FOUR:
        return "it computes convolutions of one group, whose steps have four places at most"
    if layer.stencil.y_origin + lines.height * lines.stride > layer.stencil.y_row_stride:
        return "channels end with the last pixel of an image"
    return _not_near(_params(layer, isa, 1, 1))


def _not_near(one: ShiftedParams) -> str | None:
    """Why sums cannot be shifted to the outputs, or None: they come from a vector and the one beside it."""
    if len(one.columns) == 1:
        return "taps of one column need no shifts"
    if max(abs(one.margins[0] + column) for column in one.columns) > min(one.widths):
        return "taps of a row lie more than a vector apart"
    return None


def _params(layer: StencilProduct, isa: Isa, rows: int, chunk: int) -> ShiftedParams:
    return ShiftedParams(layer.stencil, layer.epilogue, rows, chunk, isa.halves, isa.threads)


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every tile whose sums fit the registers and that computes few image rows twice."""
    assert layer.stencil.lines is not None  # see `reject`
    height = layer.stencil.lines.height
    if isa.threads > len(layer.weight):
        return
    for rows in range(1, height + 1):
        one = _params(layer, isa, rows, 1)
        short = len(one.slots) * rows * len(one.widths) < LEAST_VECTORS and rows < height
        if one.accumulators > isa.registers - SPARE_REGISTERS or one.tiles * rows > TWICE * height or short:
            continue
        channels, nbytes = layer.stencil.channels, 4 * one.channel_step
        for chunk in sorted({balanced(channels, max(1, int(share * target.l1_bytes) // nbytes))
                             for share in SPARSE_SHARES}):
            params = replace(one, chunk=chunk)
            if params.zeros < 1 << recipe(params).bits:
                yield _option(layer, params, target)


def _option(layer: StencilProduct, p: ShiftedParams, target: Target) -> Option:
    steps, strays = layer.memoised(expected_steps, recipe(replace(p, parts=1)))
    values = 4 * len(p.slots) * steps
    lines = max(1, round(values / (LINE * p.stencil.outputs * p.chunks)))
    small = values < target.l2_bytes * AHEAD_SHARE
    p = replace(p, ahead=0 if small or lines > MAX_AHEAD else lines)
    nbytes = int(steps * (4 * len(p.slots) + 8)) + 4 * p.stencil.outputs * p.chunks
    return Option("csr", "spmm/shifted", f"V={p.busy:g} rows={p.rows} chunk={p.chunk}", p, nbytes,
                  work(p, steps, strays, layer.density, target), "f32")


def recipe(params: ShiftedParams) -> TapColumns:
    """What the kernel reads.

    `starts` (int32): first step of every (part, chunk, row), and the end of the last; `rows` (int32): the rows of
    every (part, chunk), those with the most steps first, or -1; `indices` (uint64): by steps, one of each place; lowest
    bits first; `values` (float32): steps x places.
    """
    p = params
    first = p.columns[0]
    return TapColumns(p.parts, p.chunk * len(p.stencil.taps), p.chunks, p.channel_step, p.origin, p.tap_offsets,
                      p.tap_sums, tuple(column - first for column in p.columns), p.slots, tuple(map(int, p.open)),
                      p.zeros)


def work(p: ShiftedParams, steps: float, strays: float, density: float, target: Target) -> Work:
    """What a run costs that takes so many steps, and loads for so many non-zeros that cross cache lines."""
    s, ends = p.stencil, p.tiles * p.stencil.outputs * p.chunks
    weights, slots = steps * (4 * len(p.slots) + 8), steps * len(p.slots)
    stay = weights <= L2_SHARE * target.l2_bytes
    copies = 3 * p.tiles * s.channels * p.copied * sum(p.widths) / s.lanes  # a store takes as long as two loads
    sums = 3 * p.busy if p.chunks > 1 else p.busy
    evicted = SCATTERED * max(0.0, 1 - FULL * target.l1_bytes / (4 * p.chunk * p.channel_step))
    residual = 2 if p.epilogue.residual and not p.in_place else 1
    return Work(
        fmas=p.tiles * slots * p.busy,
        loads=p.tiles * (slots * p.busy + 2 * steps + strays * p.busy) + ends * sums + copies,
        permutes=ends * (len(p.columns) - 1) * p.busy,
        groups=ends, l2_bytes=p.tiles * slots * 4 * s.lanes * p.busy * evicted,
        memory_bytes=weights * (1 if stay else p.tiles) + 4 * (s.x_size + residual * s.y_size),
        kernel="spmm/shifted", pixels=s.pixels, density=density)


def build(params: ShiftedParams, isa: Isa) -> Kernel:
    """The kernel: (starts, rows, indices, values, bias, [mask], x, [residual]) -> y."""
    p = params
    per_part = p.chunks * -(-p.stencil.outputs // p.parts)
    weights: dict[str, tuple[int | None, str]] = {
        "starts": (p.parts * per_part + 1, "int32"), "rows": (p.parts * per_part, "int32"),
        "indices": (None, "uint64"), "values": (None, "float32")}

    def body(b: Buffers) -> None:
        parallel(isa.threads, lambda thread: _share(b, p, thread, isa.threads))

    return finishing_kernel(weights, p.stencil, replace(p.epilogue, in_place=p.in_place), body, load_four.llvm(isa))


def _share(b: Buffers, p: ShiftedParams, thread: Expr, threads: int) -> None:
    """A thread's share of the units of work: the parts of all tiles."""
    s, units = p.stencil, p.tiles * p.parts
    low, high = thread * units // threads, (thread + 1) * units // threads
    _clear(b, p, thread, threads)
    scratch = T.alloc_buffer((p.scratch,), "float32")
    _zero(scratch, 0, p.scratch, s.lanes)
    sums = T.alloc_buffer((s.outputs * p.tile,), "float32") if p.chunks > 1 else None
    per_part = -(-s.outputs // p.parts)
    with T.serial(T.floordiv(low, p.parts), T.floordiv(high + (p.parts - 1), p.parts)) as tile:
        start = T.Bind(T.min(tile * p.rows, p.lines.height - p.rows) * p.lines.stride)
        begin = T.Bind(T.max(low - tile * p.parts, 0))
        end = T.Bind(T.min(high - tile * p.parts, p.parts))
        with T.serial(0, p.chunks) as chunk:
            _copy(b, p, scratch, chunk, start)
            with T.serial(0, end - begin) as unit, T.serial(0, per_part) as index:
                flat = T.Bind(((begin + unit) * p.chunks + chunk) * per_part + index)
                row = T.Bind(b["rows"][flat])
                if s.outputs % p.parts == 0:
                    _row(b, p, scratch, sums, flat, row, chunk, start, tile == T.floordiv(low, p.parts))
                else:
                    with T.If(row >= 0), T.Then():
                        _row(b, p, scratch, sums, flat, row, chunk, start, tile == T.floordiv(low, p.parts))


def _clear(b: Buffers, p: ShiftedParams, thread: Expr, threads: int) -> None:
    """Zero what follows the rows of every channel, and in clean images what lies before them."""
    s = p.stencil
    behind = s.y_origin + p.lines.height * p.lines.stride
    with T.serial(thread * s.outputs // threads, (thread + 1) * s.outputs // threads) as row:
        at = T.Bind(row * s.y_row_stride)
        if s.masked:
            _zero(b["y"], at, s.y_origin, s.lanes)
        _zero(b["y"], at + behind, s.y_row_stride - behind, s.lanes)


def _zero(buffer: Buffer, at: Expr, count: int, lanes: int) -> None:
    with T.serial(0, count // lanes) as vector:
        store(buffer, at + vector * lanes, splat(0.0, lanes))
    store_lanes(buffer, at + count // lanes * lanes, splat(0.0, lanes), count % lanes)


def _copy(b: Buffers, p: ShiftedParams, scratch: Buffer, chunk: Expr, start: Expr) -> None:
    """Copy the image rows that a tile reads of the chunk's channels."""
    s, (left, right) = p.stencil, p.margins
    with T.serial(0, T.min(p.chunk, s.channels - chunk * p.chunk)) as channel:
        x = T.Bind(s.x_origin + (chunk * p.chunk + channel) * s.x_channel_stride + start - left)
        to = T.Bind(p.origin + channel * p.channel_step)
        for base, rows in p.runs:
            with T.serial(0, rows) as row:
                for at, width in zip(range(0, sum(p.widths), s.lanes), p.widths, strict=True):
                    pixels = load_lanes(b["x"], x + base + row * p.lines.stride + at, width, 0,
                                        left + p.lines.width + right - at)
                    store(scratch, to + row * p.pitch + at, pixels)
            to += rows * p.pitch


def _row(b: Buffers, p: ShiftedParams, scratch: Buffer, sums: Buffer | None, flat: Expr, row: Expr, chunk: Expr,
         start: Expr, asks: Expr) -> None:
    """A row of the weight and a chunk of channels: the loop over its steps, then the shifts; it `asks` for weights."""
    lanes, places = p.stencil.lanes, len(p.slots)
    acc = registers(p.accumulators, lanes)
    for register in range(p.accumulators):
        store(acc, register * lanes, splat(0.0, p.widths[register % len(p.widths)]))
    first = T.Bind(b["starts"][flat])
    if p.ahead:
        with T.If(asks), T.Then():
            _prefetch(b, p, first)
    with T.serial(0, b["starts"][flat + 1] - first) as each:
        step = T.Bind(first + each)
        word = T.Bind(b["indices"][step])
        bits = 64 // places
        values = load_four.broadcasts(b["values"], step * places, load_four.FOUR, lanes)
        for slot, number in enumerate(p.slots):
            shifted = T.shift_right(word, T.uint64(bits * slot)) if slot else word
            kept = shifted if slot == places - 1 and bits * places == 64 else T.bitwise_and(
                shifted, T.uint64((1 << bits) - 1))
            _multiply(p, scratch, acc, number, T.Bind(T.Cast("int64", kept)), T.Bind(values(slot)))

    def product(image_row: int, vector: int) -> Expr:
        return _shifted(p, acc, image_row, vector)

    _finish(b, p, sums, row, chunk, start, product)


def _prefetch(b: Buffers, p: ShiftedParams, step: Expr) -> None:
    """Ask for the weights of a row to come."""
    value_bytes, index_bytes = 4 * len(p.slots), 8
    coming = step + -(-AHEAD_ROWS * p.ahead * LINE // value_bytes)
    for name, nbytes, width in (("values", value_bytes, 4), ("indices", index_bytes, 8)):
        for line in range(-(-p.ahead * nbytes // value_bytes)):
            prefetch(b[name], coming * (nbytes // width) + line * (LINE // width))


def _multiply(p: ShiftedParams, scratch: Buffer, acc: Buffer, number: int, offset: Expr, value: Expr) -> None:
    """Add a weight's products to the sums of a number."""
    lanes = p.stencil.lanes
    for image_row in range(p.rows):
        for vector, width in enumerate(p.widths):
            pixels = load(scratch, offset + image_row * p.pitch + vector * lanes, width)
            factor = value if width == lanes else T.Shuffle([value], list(range(width)))
            add_to(acc, _register(p, number, image_row, vector) * lanes, factor * pixels)


def _register(p: ShiftedParams, number: int, image_row: int, vector: int) -> int:
    return (number * p.rows + image_row) * len(p.widths) + vector


def _shifted(p: ShiftedParams, acc: Buffer, image_row: int, vector: int) -> Expr:
    """A vector of an image row of the outputs."""
    lanes, total = p.stencil.lanes, None
    for number, column in enumerate(p.columns):
        parts = [load(acc, _register(p, number, image_row, v) * lanes, width) for v, width in enumerate(p.widths)]
        part = _from(parts, vector, p.margins[0] + column, lanes)
        total = part if total is None else total + part
    return total


def _from(parts: Sequence[Expr], vector: int, shift: int, lanes: int) -> Expr:
    """The lanes of a row of vectors that begin `shift` lanes behind those of one; zeros beyond the row."""
    own = parts[vector]
    width = int(str(own.ty).partition("x")[2])
    if shift == 0:
        return own
    other = vector + (1 if shift > 0 else -1)
    neighbour = parts[other] if 0 <= other < len(parts) else splat(0.0, lanes)
    return _joined(own, neighbour, width, shift, lanes)


def _joined(own: Expr, neighbour: Expr, width: int, shift: int, lanes: int) -> Expr:
    own, neighbour = (_widened(each, lanes) for each in (own, neighbour))
    if shift > 0:
        beyond = [lane + shift - width + lanes for lane in range(width)]
        picked = [lane + shift if lane + shift < width else beyond[lane] for lane in range(width)]
    else:
        picked = [lane + shift if lane + shift >= 0 else 2 * lanes + lane + shift for lane in range(width)]
    return T.Shuffle([own, neighbour], picked)


def _widened(vector: Expr, lanes: int) -> Expr:
    """The vector with lanes that nobody reads, so that all have the same number."""
    width = int(str(vector.ty).partition("x")[2])
    return vector if width == lanes else T.Shuffle([vector] * (lanes // width), list(range(lanes)))


def _finish(b: Buffers, p: ShiftedParams, sums: Buffer | None, row: Expr, chunk: Expr, start: Expr,
            product: Callable[[int, int], Expr]) -> None:
    """Store a row's tile: as a partial sum, or through the epilogue at the end."""
    places = [(image_row, vector) for image_row in range(p.rows) for vector in range(len(p.widths))]
    if sums is None:
        for place in places:
            _store(b, p, row, start, place, product(*place))
        return
    waiting = {(image_row, vector): row * p.tile + image_row * sum(p.widths) + vector * p.stencil.lanes
               for image_row, vector in places}

    def total(place: tuple[int, int]) -> Expr:
        return product(*place) + load(sums, waiting[place], p.widths[place[1]])

    with T.If(chunk == p.chunks - 1):
        with T.Then():
            for place in places:
                _store(b, p, row, start, place, total(place))
        with T.Else(), T.If(chunk == 0):
            with T.Then():
                for place in places:
                    store(sums, waiting[place], product(*place))
            with T.Else():
                for place in places:
                    store(sums, waiting[place], total(place))


def _store(b: Buffers, p: ShiftedParams, row: Expr, start: Expr, place: tuple[int, int], value: Expr) -> None:
    """Write a vector of an image row of the output, and zeros up to the next row."""
    s, (image_row, vector), width = p.stencil, place, p.widths[place[1]]
    inside, stride = p.lines.width - vector * s.lanes, p.lines.stride - vector * s.lanes
    at = T.Bind(s.y_origin + row * s.y_row_stride + start + (image_row * p.lines.stride + vector * s.lanes))
    residual = load_lanes(b["residual"], at, width, 0, inside) if p.epilogue.residual else None
    value = finished(p.epilogue, value + splat(b["bias"][row], width), width, residual)
    store_lanes(b["y"], at, keep_lanes(value, inside, 0.0), stride)
    if vector == len(p.widths) - 1:
        for more in range(width, stride, s.lanes):
            store_lanes(b["y"], at + more, splat(0.0, s.lanes), stride - more)


FAMILY = Family("spmm/shifted", StencilProduct, ("csr",), "fp32", candidates, recipe, build, float_product, reject)
