"""Sums, differences and products of two quantised tensors, and tables of codes, over images or tiles of tokens.

Rows of codes (channels of images, or all tokens at once) are gone through by vectors; junk between images becomes what
stands for zero where the layout asks for it. One operand may have a single code for every row, as the gates of
squeeze-and-excitation have (Hu et al. 2018, section 3). The arithmetic is that of `sparsec::QBinary`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat, Tiled
from sparsec.kernels.cpu.codes import walk
from sparsec.kernels.emit.codes import FOUR, fenced, llvm_codes, narrowed, rounded, spread
from sparsec.kernels.emit.intrinsics_int8 import permute_bytes
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import alone, shared
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel, load, splat, store

A_ZERO, B_ZERO, Y_ZERO, LOW, HIGH = range(5)
"""Places of the constants in `codes`."""


@dataclass(frozen=True)
class RowsOfCodes:
    """Where codes lie: `count` rows of `vectors` vectors, the first vector at `origin`."""

    count: int
    stride: int
    origin: int
    vectors: int
    size: int
    clean: bool

    @property
    def whole(self) -> bool:
        """Whether the vectors are all there is."""
        return self.origin == 0 and not self.clean


def rows_of(layout: PaddedFlat | Tiled, lanes: int) -> RowsOfCodes:
    """The rows of a layout, for vectors of so many codes."""
    if isinstance(layout, Tiled):
        rows = layout.batch * layout.tiles
        return RowsOfCodes(rows, layout.features * layout.width, 0, layout.features * layout.width // lanes,
                           layout.size, clean=False)
    return RowsOfCodes(layout.channels, layout.channel_stride, layout.origin, layout.vectors, layout.size, layout.clean)


def rows_of_channels(layout: PaddedFlat | Tiled, lanes: int) -> RowsOfCodes:
    """The rows of a layout that hold one channel of an image, or one feature of a tile's tokens."""
    if isinstance(layout, Tiled):
        rows = layout.batch * layout.tiles * layout.features
        return RowsOfCodes(rows, layout.width, 0, layout.width // lanes, layout.size, clean=False)
    return rows_of(layout, lanes)


@dataclass(frozen=True)
class BinaryParams:
    """y = a function b, of one geometry.

    Attributes:
        rows: where all that is no single code lies.
        function: add, sub or mul, or lookup for a table of a's codes.
        single: the operand that has one code for a row, "a" or "b", or "".
        singles: how many codes it has, which the rows take in turn.
        single_type: their type, as they are in ONNX.

    """

    rows: RowsOfCodes
    function: str
    single: str = ""
    singles: int = 0
    single_type: str = "uint8"


def pack(zero_points: tuple[int, int, int], bounds: tuple[int, int], ratios: tuple[float, float]) -> list[np.ndarray]:
    """The constants of a binary kernel: zero points of a, b and y, bounds of y, and factors of a and b."""
    return [np.array([*zero_points, *bounds], np.int32), np.array(ratios, np.float32)]


def mask_arrays(layout: PaddedFlat | Tiled) -> list[np.ndarray]:
    """The masks that the kernels take where the layout's padding is clean."""
    return walk.masks(layout) if isinstance(layout, PaddedFlat) and layout.clean else []


def build(params: BinaryParams, isa: Isa) -> Kernel:
    """The kernel: (codes, ratios, [keep, fill, border], a, b) -> y, or for a lookup (table, [keep, fill], a) -> y."""
    p, lanes, isa = params, FOUR * isa.lanes, alone(isa, params.rows.size)
    table = p.function == "lookup"
    arguments: dict[str, tuple[int | None, str]] = {"table": (256, "uint8")} if table else {
        "codes": (5, "int32"), "ratios": (2, "float32")}
    if p.rows.clean:
        arguments |= walk.mask_arguments(p.rows.vectors * lanes)
    for name in ("a", "y") if table else ("a", "b", "y"):
        arguments[name] = (p.singles, p.single_type) if name == p.single else (p.rows.size, "uint8")

    def body(b: Buffers) -> None:
        with shared(p.rows.count, isa) as row:
            _row(b, p.rows, lanes, row, _looked_up(b, isa) if table else _binary(b, p, row, isa))

    return kernel(arguments, body, llvm_codes(isa))


def _row(b: Buffers, rows: RowsOfCodes, lanes: int, row: Expr, result: Callable[[Expr], Expr]) -> None:
    base = T.Bind(row * rows.stride)
    if rows.clean:
        border = T.Bind(T.Broadcast(b["border"][0], lanes))
        for begin, end in ((0, rows.origin), (rows.origin + rows.vectors * lanes, rows.stride)):
            with T.serial(0, (end - begin) // lanes) as vector:
                store(b["y"], base + begin + vector * lanes, border)
    with T.serial(0, rows.vectors) as vector:
        at = T.Bind(base + rows.origin + vector * lanes)
        value = result(at)
        if rows.clean:
            keep, fill = (load(b[name], vector * lanes, lanes) for name in ("keep", "fill"))
            value = T.bitwise_or(T.bitwise_and(value, keep), fill)
        store(b["y"], at, value)


def _binary(b: Buffers, p: BinaryParams, row: Expr, isa: Isa) -> Callable[[Expr], Expr]:
    lanes, function = isa.lanes, p.function
    places = {"a": A_ZERO, "b": B_ZERO}
    if p.single:
        code = T.Cast("int32", b[p.single][T.floormod(row, p.singles)]) - b["codes"][places[p.single]]
        single = T.Bind(splat(T.Cast("float32", code), lanes))

    def word(place: int) -> Expr:
        return T.Broadcast(b["codes"][place], lanes)

    def ratio(place: int) -> Expr:
        return splat(b["ratios"][place], lanes)

    def part(codes: dict[str, Expr], index: int) -> Expr:
        left, right = (single if name == p.single else
                       T.Cast(f"float32x{lanes}", spread(codes[name], index) - word(place))
                       for name, place in places.items())
        if function == "mul":
            return rounded(fenced(left * right) * ratio(0))
        left, right = fenced(left * ratio(0)), fenced(right * ratio(1))
        return rounded(left + right if function == "add" else left - right)

    def result(at: Expr) -> Expr:
        codes = {name: T.Bind(load(b[name], at, FOUR * lanes)) for name in places if name != p.single}
        zero = T.Broadcast(T.Cast("int16", b["codes"][Y_ZERO]), 2 * lanes)
        value = narrowed([part(codes, index) for index in range(FOUR)], zero)
        low, high = (T.Broadcast(T.Cast("uint8", b["codes"][place]), FOUR * lanes) for place in (LOW, HIGH))
        return T.min(T.max(T.Bind(value), low), high)

    return result


def _looked_up(b: Buffers, isa: Isa) -> Callable[[Expr], Expr]:
    count = FOUR * isa.lanes

    def in_registers(at: Expr) -> Expr:
        codes = T.Bind(load(b["a"], at, count))
        low, high = (permute_bytes(load(b["table"], half, count), codes, load(b["table"], half + count, count))
                     for half in (0, 2 * count))
        return T.Select(codes >= T.Broadcast(T.uint8(128), count), high, low)

    def one_by_one(at: Expr) -> Expr:
        return T.Shuffle([b["table"][b["a"][at + lane]] for lane in range(count)], list(range(count)))

    return in_registers if isa.permute_bytes else one_by_one
