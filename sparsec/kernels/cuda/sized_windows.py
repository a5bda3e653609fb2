"""What windows of images of any size hold, channels last, on a GPU: as `kernels.cpu.tensors.sized_windows` has them.

Which pixels are in a window is told by axis in tables, -1 for padding; a thread computes an element of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.graph.sized import IM2COL, IM2COL_CODES
from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.cuda.sized_threads import own_element
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel

NUMBERS = ("total", "out_rows", "out_columns", "rows_in", "columns_in", "channels", "rows", "columns", "outputs")
"""Windows of all images, those of an image by axis, pixels of a window by axis, what the images are, and the channels
of the result, which are those of all pixels of a window where these are copied."""
CODES = (IM2COL_CODES,)
"""Kinds of images of codes."""
EXTRA = ("AveragePool", "Resize", "DepthwiseConv", IM2COL_CODES)
"""Kinds that take more than the image: factors by place, weights and then biases, or the code of padding."""


def build(kind: str, half: str) -> Kernel:
    """The kernel: (tables, x, [extra]) -> y, then `NUMBERS`; tables have that of the first axis, then the second one's.

    Args:
        kind: of `graph.sized.WINDOWS`.
        half: the element type of images that are no codes, and of results.

    """
    dtype = "uint8" if kind in CODES else half
    buffers = {"tables": "int32", "x": dtype, **({"extra": "uint8" if kind in CODES else "float32"}
                                                 if kind in EXTRA else {}), "y": dtype}
    return pipeline.sized_func(buffers, NUMBERS, lambda b, told: _emit(b, told, KINDS[kind], dtype))


@dataclass(frozen=True)
class Element:
    """An element of the result: what is known of sizes, its window's places in the tables, its image and channel."""

    b: Buffers
    told: pipeline.Numbers
    dtype: str
    row: Expr
    column: Expr
    image: Expr
    channel: Expr

    def place(self, axis: int, index: Expr) -> Expr:
        """A row, or a column, of the window in the image; -1 outside of it."""
        return T.Bind(self.b["tables"][(self.row if axis == 0 else self.column) + index])

    def pixel(self, row: Expr, column: Expr, channel: Expr) -> Expr:
        """Where a number of the image lies."""
        t = self.told
        return ((self.image * t["rows"] + row) * t["columns"] + column) * t["channels"] + channel


def _emit(b: Buffers, told: pipeline.Numbers, body: Callable[[Element], Expr], dtype: str) -> None:
    total = told["total"] * told["outputs"]
    with own_element(total) as number:
        window, channel = T.Bind(number // told["outputs"]), T.Bind(number % told["outputs"])
        line = T.Bind(window // told["out_columns"])
        column, image = T.Bind(window % told["out_columns"]), T.Bind(line // told["out_rows"])
        behind = told["out_rows"] * told["rows_in"]
        element = Element(b, told, dtype, T.Bind(line % told["out_rows"] * told["rows_in"]),
                          T.Bind(behind + column * told["columns_in"]), image, channel)
        T.buffer_store(b["y"], T.Cast(dtype, body(element)), [number])


def _copied(e: Element) -> Expr:
    """A number of a pixel of the window; padding is 0, or the code that stands for it."""
    channels = e.told["channels"]
    own, pixel = T.Bind(e.channel % channels), T.Bind(e.channel // channels)
    row, column = e.place(0, pixel // e.told["columns_in"]), e.place(1, pixel % e.told["columns_in"])
    found = ptx.registers(1, e.dtype)
    padding = e.b["extra"][0] if e.dtype == "uint8" else T.Cast(e.dtype, T.float32(0))
    T.buffer_store(found, padding, [0])
    with T.If(T.And(row >= 0, column >= 0)), T.Then():
        T.buffer_store(found, e.b["x"][e.pixel(row, column, own)], [0])
    return found[0]


def _over(e: Element, start: Expr, step: Callable[[Expr, Expr, Expr, Expr], Expr]) -> Expr:
    """What all pixels of a window give: `step` takes the result so far, the number, row and column."""
    held = ptx.registers(1, "float32")
    T.buffer_store(held, start, [0])
    with T.serial(0, e.told["rows_in"]) as line:
        row = e.place(0, line)
        with T.If(row >= 0), T.Then(), T.serial(0, e.told["columns_in"]) as index:
            column = e.place(1, index)
            with T.If(column >= 0), T.Then():
                x = T.Bind(T.Cast("float32", e.b["x"][e.pixel(row, column, e.channel)]))
                T.buffer_store(held, step(held[0], x, line, index), [0])
    return held[0]


def _largest(e: Element) -> Expr:
    """NaN where one of them is."""
    return _over(e, T.float32(float("-inf")), lambda held, x, _line, _index: T.Select(
        T.Or(T.isnan(x), x > held), x, held))


def _weighted(e: Element) -> Expr:
    """`extra` has a factor for every place of the tables."""
    extra = e.b["extra"]
    return _over(e, T.float32(0), lambda held, x, line, index: held + extra[e.row + line] * extra[e.column + index] * x)


def _depthwise(e: Element) -> Expr:
    """`extra` has a weight for every pixel of a window and channel, and then the channels' biases."""
    told, extra = e.told, e.b["extra"]
    bias = T.Bind(told["rows_in"] * told["columns_in"] * told["channels"])
    return _over(e, extra[bias + e.channel], lambda held, x, line, index: held + extra[
        (line * told["columns_in"] + index) * told["channels"] + e.channel] * x)


KINDS: dict[str, Callable[[Element], Expr]] = {
    IM2COL: _copied, IM2COL_CODES: _copied, "MaxPool": _largest, "AveragePool": _weighted, "Resize": _weighted,
    "DepthwiseConv": _depthwise}
"""By operator, what an element of the result is."""
