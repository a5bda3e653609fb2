"""Tensors of float32 to codes and back, in one flat buffer: QuantizeLinear, DynamicQuantizeLinear, DequantizeLinear.

One scale and one zero point for the whole tensor. Results are those of ONNX's reference, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import Tiled
from sparsec.kernels.cpu.images.padded import load_lanes
from sparsec.kernels.emit.codes import llvm_codes, rounded, whole
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, registers, splat, store

LARGEST = 255.0  # code
FAR = 65536.0  # beyond which numbers in units of the scale saturate


@dataclass(frozen=True)
class RangeParams:
    """The kernel that finds scale and zero point of tokens; what pads tiles is not looked at."""

    layout: Tiled


@dataclass(frozen=True)
class FlatParams:
    """The kernel that quantises a buffer of a multiple of the lanes, or dequantises it."""

    size: int
    back: bool = False


def build_range(params: RangeParams, isa: Isa) -> Kernel:
    """The kernel: x -> (scale, zero point), both float32 (1,)."""
    layout, lanes, threads = params.layout, isa.lanes, isa.threads

    def body(b: Buffers) -> None:
        ends = T.alloc_buffer((2 * threads * lanes,), "float32")

        def part(thread: Expr) -> None:
            found = registers(2, lanes)
            store(found, 0, splat(0.0, lanes))
            store(found, lanes, splat(0.0, lanes))
            rows = layout.batch * layout.tiles
            first, end = thread * rows * layout.features // threads, (thread + 1) * rows * layout.features // threads
            with T.serial(first, end) as row:
                _row(b, layout, row, lanes, found)
            for side in range(2):
                store(ends, (thread * 2 + side) * lanes, load(found, side * lanes, lanes))

        if threads == 1:
            part(0)
        else:
            with T.parallel(0, threads) as thread:
                part(thread)
        least, most = (reduce(function, [ends[(t * 2 + side) * lanes + lane] for t in range(threads)
                                         for lane in range(lanes)])
                       for side, function in ((0, T.min), (1, T.max)))
        least, most = T.Bind(least), T.Bind(most)
        scale = T.Bind(T.Select(most == least, T.float32(1.0), most - least) / T.float32(LARGEST))
        zero = T.min(T.max(T.float32(0.0) - least / scale, T.float32(0.0)), T.float32(LARGEST))
        T.buffer_store(b["scale"], scale, [0])
        rounded_zero = registers(1, lanes)
        store(rounded_zero, 0, whole(splat(zero, lanes)))
        T.buffer_store(b["zero_point"], rounded_zero[0], [0])

    return kernel({"x": (layout.size, "float32"), "scale": (1, "float32"), "zero_point": (1, "float32")}, body,
                  llvm_codes(isa))


def _row(b: Buffers, layout: Tiled, row: Expr, lanes: int, found: Buffer) -> None:
    """A feature of a tile: `found` takes the smaller and the larger values."""
    width = layout.width
    rest = layout.tokens % width

    def vectors(count: int) -> None:
        for at in range(0, count, lanes):
            x = T.Bind(load_lanes(b["x"], row * width + at, lanes, 0, count - at))
            store(found, 0, T.min(load(found, 0, lanes), x))
            store(found, lanes, T.max(load(found, lanes, lanes), x))

    if not rest:
        vectors(width)
        return
    with T.If(T.floormod(T.floordiv(row, layout.features), layout.tiles) == layout.tiles - 1):
        with T.Then():
            vectors(rest)
        with T.Else():
            vectors(width)


def build_flat(params: FlatParams, isa: Isa) -> Kernel:
    """The kernel: (scale, zero point, x) -> y, the first two float32 (1,), one of x and y codes."""
    lanes = isa.lanes
    types = ("uint8", "float32") if params.back else ("float32", "uint8")

    def body(b: Buffers) -> None:
        scale, zero = (T.Bind(splat(b[name][0], lanes)) for name in ("scale", "zero_point"))
        convert = _back(scale, zero, lanes) if params.back else _forth(scale, zero, lanes)
        with shared(params.size // lanes, isa) as vector:
            store(b["y"], vector * lanes, convert(load(b["x"], vector * lanes, lanes)))

    return kernel({"scale": (1, "float32"), "zero_point": (1, "float32"), "x": (params.size, types[0]),
                   "y": (params.size, types[1])}, body, llvm_codes(isa))


def _forth(scale: Expr, zero: Expr, lanes: int) -> Callable[[Expr], Expr]:
    def convert(x: Expr) -> Expr:
        units = T.min(splat(FAR, lanes), T.max(splat(-FAR, lanes), x / scale))
        codes = whole(units) + zero
        codes = T.min(splat(LARGEST, lanes), T.max(splat(0.0, lanes), codes))
        return T.Cast(f"uint8x{lanes}", rounded(codes))

    return convert


def _back(scale: Expr, zero: Expr, lanes: int) -> Callable[[Expr], Expr]:
    def convert(codes: Expr) -> Expr:
        return (T.Cast(f"float32x{lanes}", T.Cast(f"int32x{lanes}", codes)) - zero) * scale

    return convert
