"""What windows of images of any size hold, channels last: copied side by side, their maxima, or sums of them.

Which pixels are in a window is told by axis: a window is as many rows of an image as the table of the first axis has
for it, each of as many pixels as that of the second one has; -1 stands for padding. Strides, dilations, padding and the
scales of a resize are in the tables alone. Images of one axis have a first axis of size 1, and the slices of
volumes lie below each other, so that depth and height are one axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.graph.sized import IM2COL, IM2COL_CODES
from sparsec.kernels.emit.extremum import maximum
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import (
    Buffer,
    Buffers,
    Expr,
    Kernel,
    kernel,
    lanes_of,
    load,
    prefetch,
    registers,
    splat,
    store,
)

SIZES = ("count", "total", "out_rows", "out_columns", "rows_in", "columns_in", "channels", "rows", "columns",
         "outputs")
"""The elements of the argument `sizes`: windows to work on, windows of all images, those of an image by axis, pixels of
a window by axis, what the images are, and the channels of the result. Windows beyond the last one are the last one
again."""

def build(kind: str, isa: Isa) -> Kernel:
    """The kernel: (first, sizes, tables, x, extra) -> y, all but the first three flat float32 or codes of any length.

    `first` is the window to begin with; `tables` has that of the first axis and then that of the second one; `extra`
    is what the kind takes besides.
    """
    arrays = dict.fromkeys(("x", "extra", "y"), (None, "uint8" if kind == IM2COL_CODES else "float32"))
    return kernel({"first": (1, "int64"), "sizes": (len(SIZES), "int64"), "tables": (None, "int64"), **arrays},
                  lambda b: _emit(b, KINDS[kind], isa), views=True)


@dataclass(frozen=True)
class Window:
    """A window: where its pixels' places begin in the tables, what is known of sizes, and the number of its result."""

    b: Buffers
    sizes: dict[str, Expr]
    row: Expr
    column: Expr
    image: Expr
    number: Expr

    def places(self, axis: int, index: Expr) -> Expr:
        """The place of a row, or of a column, of the window in the image; -1 outside of it."""
        first = self.row if axis == 0 else self.column
        return T.Bind(self.b["tables"][first + index])

    def pixel(self, row: Expr, column: Expr) -> Expr:
        """Where a pixel of the image begins."""
        s = self.sizes
        return ((self.image * s["rows"] + row) * s["columns"] + column) * s["channels"]


def _emit(b: Buffers, body: Callable[[Window, Isa], None], isa: Isa) -> None:
    sizes = {name: T.Bind(b["sizes"][index]) for index, name in enumerate(SIZES)}
    first = T.Bind(b["first"][0])
    with shared(sizes["count"], isa) as number:
        body(window_of(b, sizes, T.min(first + number, sizes["total"] - 1), number), isa)


def window_of(b: Buffers, sizes: dict[str, Expr], index: Expr, number: Expr | None = None) -> Window:
    """The window of an index among those of all images, whose result has a number of its own, or the same."""
    window = T.Bind(index)
    lines = T.Bind(T.truncdiv(window, sizes["out_columns"]))
    image = T.Bind(T.truncdiv(lines, sizes["out_rows"]))
    column = T.Bind((window - lines * sizes["out_columns"]) * sizes["columns_in"])
    behind = sizes["out_rows"] * sizes["rows_in"]
    row = T.Bind((lines - image * sizes["out_rows"]) * sizes["rows_in"])
    return Window(b, sizes, row, T.Bind(behind + column), image, window if number is None else number)


def _copied(w: Window, isa: Isa) -> None:
    """All pixels of the window, row by row; those that are neighbours in the image in one go."""
    _copy_whole(w, isa.lanes, lambda n: splat(0.0, n))


def _copied_codes(w: Window, isa: Isa) -> None:
    """The same of codes, of which `extra` has the one that padding has."""
    _copy_whole(w, 4 * isa.lanes, lambda n: T.Broadcast(w.b["extra"][0], n) if n > 1 else w.b["extra"][0])


def _copy_whole(w: Window, lanes: int, padding: Callable[[int], Expr]) -> None:
    begin = T.Bind(w.number * w.sizes["rows_in"] * w.sizes["columns_in"] * w.sizes["channels"])
    copy(w, lanes, padding, w.b["y"], lambda offset: begin + offset)


def copy(w: Window, lanes: int, padding: Callable[[int], Expr], y: Buffer, place: Callable[[Expr], Expr],
         ahead: Expr | None = None) -> None:
    """All pixels of a window, vector by vector, to where `place` says that elements behind its first one go.

    What lies so many elements `ahead` in the image, if that is given, is asked into the L2 cache.
    """
    s, x = w.sizes, w.b["x"]
    width = T.Bind(s["columns_in"] * s["channels"])
    start, end = w.places(1, 0), w.places(1, s["columns_in"] - 1)

    def run(at: Expr, count: Expr, source: Expr | None) -> None:
        def vector(e: Expr, n: int) -> None:
            store(y, place(at + e), padding(n) if source is None else load(x, source + e, n))
            if source is not None and ahead is not None and n > 1:
                prefetch(x, source + e + ahead, level=2)

        _vectors(count, lanes, vector)

    with T.serial(0, s["rows_in"]) as line:
        row = w.places(0, line)
        to = T.Bind(line * width)
        with T.If(row < 0):
            with T.Then():
                run(to, width, None)
            with T.Else(), T.If(T.And(start >= 0, end - start == s["columns_in"] - 1)):
                with T.Then():
                    run(to, width, T.Bind(w.pixel(row, start)))
                with T.Else(), T.serial(0, s["columns_in"]) as index:
                    column, target = w.places(1, index), T.Bind(to + index * s["channels"])
                    with T.If(column < 0):
                        with T.Then():
                            run(target, s["channels"], None)
                        with T.Else():
                            run(target, s["channels"], T.Bind(w.pixel(row, column)))


def _vectors(count: Expr, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """`body` at every vector of so many elements; the last one overlaps that before it, and few go one by one."""
    with T.If(count >= lanes):
        with T.Then(), T.serial(0, T.truncdiv(count + (lanes - 1), lanes)) as vector:
            body(T.Bind(T.min(vector * lanes, count - lanes)), lanes)
        with T.Else(), T.serial(0, count) as element:
            body(element, 1)


def _each(w: Window, at: Expr, lanes: int, start: Expr, step: Callable[[Expr, Expr, Expr, Expr], Expr]) -> None:
    """A vector of channels from all pixels of a window: `step` takes the result so far, pixel, row and column."""
    held = registers(1, lanes)
    store(held, 0, start)
    with T.serial(0, w.sizes["rows_in"]) as line:
        row = w.places(0, line)
        with T.If(row >= 0), T.Then(), T.serial(0, w.sizes["columns_in"]) as index:
            column = w.places(1, index)
            with T.If(column >= 0), T.Then():
                pixel = load(w.b["x"], w.pixel(row, column) + at, lanes)
                store(held, 0, step(load(held, 0, lanes), pixel, line, index))
    store(w.b["y"], w.number * w.sizes["channels"] + at, load(held, 0, lanes))


def _largest(w: Window, isa: Isa) -> None:
    _vectors(w.sizes["channels"], isa.lanes, lambda at, n: _each(
        w, at, n, splat(-math.inf, n), lambda held, pixel, _row, _column: maximum(pixel, held)))


def _weighted(w: Window, isa: Isa) -> None:
    """`extra` has a factor for every place of the tables."""
    def step(held: Expr, pixel: Expr, line: Expr, index: Expr) -> Expr:
        factor = w.b["extra"][w.row + line] * w.b["extra"][w.column + index]
        return held + splat(factor, lanes_of(pixel)) * pixel

    _vectors(w.sizes["channels"], isa.lanes, lambda at, n: _each(w, at, n, splat(0.0, n), step))


def _depthwise(w: Window, isa: Isa) -> None:
    """`extra` has a weight for every pixel of a window and channel, and then the channels' biases."""
    s, extra = w.sizes, w.b["extra"]
    bias = T.Bind(s["rows_in"] * s["columns_in"] * s["channels"])

    def channels(at: Expr, n: int) -> None:
        _each(w, at, n, load(extra, bias + at, n), lambda held, pixel, line, index: held + load(
            extra, (line * s["columns_in"] + index) * s["channels"] + at, n) * pixel)

    _vectors(s["channels"], isa.lanes, channels)


KINDS: dict[str, Callable[[Window, Isa], None]] = {
    IM2COL: _copied, IM2COL_CODES: _copied_codes, "MaxPool": _largest, "AveragePool": _weighted, "Resize": _weighted,
    "DepthwiseConv": _depthwise}
"""By operator, what is done to a window."""
