"""Tensors of float32 to codes and back, in one flat buffer: QuantizeLinear, DynamicQuantizeLinear, DequantizeLinear.

One scale and one zero point for the whole tensor. Results are those of ONNX's reference, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

from tvm.tirx.script.builder import ir as T

from sparsec.graph.codes import offset_of
from sparsec.graph.layout import Tiled
from sparsec.kernels.cpu.images.padded import load_lanes, store_lanes
from sparsec.kernels.cpu.images.reformat_padded import flip
from sparsec.kernels.emit.codes import FOUR, SIDES, llvm_codes, narrowed, narrowed_in_order, quotient, rounded, whole
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import alone, shared
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, lanes_of, load, registers, splat, store
from sparsec.kernels.tensors import CodesParams, FlatRangeParams

LARGEST = 255  # code
FAR = 65536.0  # beyond which numbers in units of the scale saturate
EXTREME = 2.0 ** 100  # scales up to here, and from its reciprocal on, whose quotients a reciprocal gives exactly


@dataclass(frozen=True)
class RangeParams:
    """The kernel that finds scale and zero point of tokens; what pads tiles is not looked at."""

    layout: Tiled


@dataclass(frozen=True)
class EndsParams:
    """The kernel that finds scale and zero point from what is known of so many parts of a range."""

    parts: int


def build_range(params: RangeParams, isa: Isa) -> Kernel:
    """The kernel: x -> (scale, zero point), both float32 (1,)."""
    layout = params.layout
    return range_kernel(layout.size, layout.batch * layout.tiles * layout.features,
                        lambda b, row, found: _row(b, layout, row, isa.lanes, found), isa)


def build_flat_range(params: FlatRangeParams, isa: Isa) -> Kernel:
    """The kernel: x -> (scale, zero point), both float32 (1,)."""
    wide = FOUR * isa.lanes
    layout = Tiled(1, params.size, 1, wide)
    return range_kernel(params.size, layout.tiles, lambda b, row, found: _row(b, layout, row, isa.lanes, found), isa)


def range_kernel(size: int, rows: int, look: Callable[[Buffers, Expr, Buffer], None], isa: Isa) -> Kernel:
    """The kernel: x (size) -> (scale, zero point), both float32 (1,).

    `look` emits what a row adds to the range: (buffers, row, two vectors: the least and the largest of each lane).
    """
    isa = alone(isa, 4 * size)
    lanes, threads = isa.lanes, isa.threads

    def body(b: Buffers) -> None:
        ends = T.alloc_buffer((SIDES * threads * lanes,), "float32")

        def part(thread: Expr) -> None:
            found = registers(SIDES, lanes)
            for side in range(SIDES):
                store(found, side * lanes, splat(0.0, lanes))
            with T.serial(thread * rows // threads, (thread + 1) * rows // threads) as row:
                look(b, row, found)
            for side in range(SIDES):
                store(ends, (thread * SIDES + side) * lanes, load(found, side * lanes, lanes))

        if threads == 1:
            part(0)
        else:
            with T.parallel(0, threads) as thread:
                part(thread)
        _put_scale(b, ends, threads, lanes)

    return kernel({"x": (size, "float32"), "scale": (1, "float32"), "zero_point": (1, "float32")}, body,
                  llvm_codes(isa))


def widen_range(found: Buffer, x: Expr) -> None:
    """Let a range take a vector in."""
    lanes, x = lanes_of(x), T.Bind(x)
    store(found, 0, T.min(load(found, 0, lanes), x))
    store(found, lanes, T.max(load(found, lanes, lanes), x))


def build_ends(params: EndsParams, isa: Isa) -> Kernel:
    """The kernel: ends -> (scale, zero point), both float32 (1,)."""
    return kernel({"ends": (params.parts * SIDES * isa.lanes, "float32"), "scale": (1, "float32"),
                   "zero_point": (1, "float32")}, lambda b: _put_scale(b, b["ends"], params.parts, isa.lanes),
                  llvm_codes(isa))


def _put_scale(b: Buffers, ends: Buffer, parts: int, lanes: int) -> None:
    """Scale and zero point of a range, whose ends are by part a vector of the least and one of the largest."""
    least, most = (reduce(function, [ends[(part * SIDES + side) * lanes + lane] for part in range(parts)
                                     for lane in range(lanes)])
                   for side, function in ((0, T.min), (1, T.max)))
    least, most = T.Bind(least), T.Bind(most)
    scale = T.Bind(T.Select(most == least, T.float32(1.0), (most - least) / T.float32(float(LARGEST))))
    zero = T.min(T.max(T.float32(0.0) - least / scale, T.float32(0.0)), T.float32(float(LARGEST)))
    T.buffer_store(b["scale"], scale, [0])
    rounded_zero = registers(1, lanes)
    store(rounded_zero, 0, whole(splat(zero, lanes)))
    T.buffer_store(b["zero_point"], rounded_zero[0], [0])


def _row(b: Buffers, layout: Tiled, row: Expr, lanes: int, found: Buffer) -> None:
    """A feature of a tile: `found` takes the smaller and the larger values."""
    width = layout.width
    rest = layout.tokens % width

    def vectors(count: int) -> None:
        for at in range(0, count, lanes):
            widen_range(found, load_lanes(b["x"], row * width + at, lanes, 0, count - at))

    if not rest:
        vectors(width)
        return
    with T.If(T.floormod(T.floordiv(row, layout.features), layout.tiles) == layout.tiles - 1):
        with T.Then():
            vectors(rest)
        with T.Else():
            vectors(width)


def build_flat(params: CodesParams, isa: Isa) -> Kernel:
    """The kernel: (scale, zero point, x) -> y, the first two float32 (1,), one of x and y codes."""
    types, isa = (params.dtype, "float32") if params.back else ("float32", params.dtype), alone(isa, 4 * params.size)

    def body(b: Buffers) -> None:
        if params.back:
            _dequantize(b, params, isa)
            return
        for units in divided(b["scale"][0], isa):
            _quantize(b, params, units, isa)

    return kernel({"scale": (1, "float32"), "zero_point": (1, "float32"), "x": (params.size, types[0]),
                   "y": (params.size, types[1])}, body, llvm_codes(isa))


def divided(scale: Expr, isa: Isa) -> Iterator[Callable[[Expr], Expr]]:
    """What divides vectors by a scale, as a division rounds; what is emitted for each runs for scales that it suits.

    Quotients of more than `FAR` are cut off there, those below -`FAR` may be anything below, or NaN; NaN stays.
    """
    lanes = isa.lanes
    divisor = T.Bind(splat(scale, lanes))
    most = T.Bind(divisor * splat(FAR, lanes))

    def by_division(x: Expr) -> Expr:
        return T.min(splat(FAR, lanes), T.max(splat(-FAR, lanes), x / divisor))

    if not isa.fused:
        yield by_division
        return
    reciprocal = T.Bind(splat(1.0, lanes) / divisor)
    with T.If(T.And(scale > T.float32(1 / EXTREME), scale < T.float32(EXTREME))):
        with T.Then():
            yield lambda x: quotient(T.Bind(T.min(most, x)), divisor, reciprocal)
        with T.Else():
            yield by_division


def _quantize(b: Buffers, p: CodesParams, units: Callable[[Expr], Expr], isa: Isa) -> None:
    """Codes of a buffer, four vectors at a time; NaN becomes the least."""
    lanes, wide = isa.lanes, FOUR * isa.lanes
    zero = T.Bind(T.Broadcast(T.Cast("int16", b["zero_point"][0] + T.float32(offset_of(p.dtype))), 2 * lanes))

    def put(at: Expr, end: int) -> None:
        vectors = [load_lanes(b["x"], at + part * lanes, lanes, 0, end - part * lanes) for part in range(FOUR)]
        codes = (narrowed if p.interleaved else narrowed_in_order)([rounded(units(x)) for x in vectors], zero)
        if p.dtype == "int8":
            codes = T.bitwise_xor(T.reinterpret(f"int8x{wide}", codes), flip("int8", wide))
        store_lanes(b["y"], at, codes, end)

    with shared(p.size // wide, isa) as four:
        put(T.Bind(four * wide), wide)
    if p.size % wide:
        put(p.size // wide * wide, p.size % wide)


def _dequantize(b: Buffers, p: CodesParams, isa: Isa) -> None:
    lanes = isa.lanes
    scale, zero = (T.Bind(splat(b[name][0], lanes)) for name in ("scale", "zero_point"))

    def put(at: Expr, end: int) -> None:
        codes = T.Cast(f"int32x{lanes}", load_lanes(b["x"], at, lanes, 0, end))
        store_lanes(b["y"], at, (T.Cast(f"float32x{lanes}", codes) - zero) * scale, end)

    with shared(p.size // lanes, isa) as vector:
        put(T.Bind(vector * lanes), lanes)
    if p.size % lanes:
        put(p.size // lanes * lanes, p.size % lanes)
