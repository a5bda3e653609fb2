"""Pooling over the padded flat layout: sliding maxima and averages, and the average of whole images."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat, round_up
from sparsec.kernels.cpu.images import pool_large
from sparsec.kernels.cpu.images.padded import blank, clear_border, load_lanes, number, padded_rows, pixels
from sparsec.kernels.cpu.images.window import Tile, Window, slide, taps, undealt
from sparsec.kernels.emit.extremum import maximum
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import each, shared
from sparsec.kernels.emit.tir import (
    Buffers,
    Expr,
    Kernel,
    add_to,
    held,
    kernel,
    lanes_of,
    load,
    registers,
    splat,
    store,
)


@dataclass(frozen=True)
class PoolParams:
    """A sliding maximum or average.

    Attributes:
        window: the window; ONNX's ceil_mode shows in the target's size.
        average: the mean instead of the maximum.
        ends: (bottom, right) padding, and
        count_padding: whether an average counts padding (ONNX's count_include_pad).

    """

    window: Window
    average: bool = False
    ends: tuple[int, int] = (0, 0)
    count_padding: bool = False


def pack(params: PoolParams, isa: Isa) -> dict[str, np.ndarray]:
    """What an average's sums are multiplied with: `rows` (height,) and `columns` (width rounded up to vectors)."""
    w = params.window
    shape = (w.target.height, w.target.width)
    rows, columns = (_shares(params, axis, np.arange(size)) for axis, size in enumerate(shape))
    return {"rows": rows, "columns": np.pad(columns, (0, -shape[1] % isa.lanes))}


def _shares(params: PoolParams, axis: int, output: np.ndarray) -> np.ndarray:
    """1 / taps that count, along an axis."""
    w = params.window
    size = (w.source.height, w.source.width)[axis]
    low, high = (-w.begins[axis], size + params.ends[axis]) if params.count_padding else (0, size)
    tap = output[:, None] * w.strides[axis] - w.begins[axis] + np.arange(w.kernel[axis]) * w.dilations[axis]
    shares: np.ndarray = (1 / np.maximum(1, ((tap >= low) & (tap < high)).sum(axis=1))).astype(np.float32)
    return shares


def build(params: PoolParams, isa: Isa) -> Kernel:
    """The kernel: x -> y, or for an average (rows, columns, x) -> y."""
    w, lanes = params.window, isa.lanes

    def body(b: Buffers) -> None:
        with shared(w.target.channels, isa) as c:
            clear_border(b["y"], w.target, c, lanes)
            if w.kernel[0] * w.kernel[1] > pool_large.WRITTEN:
                _large(b, params, c, lanes)
                return
            with T.serial(0, w.target.batch) as n:
                slide(b["y"], w, n, c, lanes, lambda tile: (_averages if params.average else _maxima)(b, w, tile),
                      padding=params.average and w.source.clean)

    shares = {"rows": w.target.height, "columns": round_up(w.target.width, lanes)} if params.average else {}
    return kernel({**{name: (size, "float32") for name, size in shares.items()},
                   "x": (w.source.size, w.source.dtype), "y": (w.target.size, w.target.dtype)}, body)


def _large(b: Buffers, params: PoolParams, c: Expr, lanes: int) -> None:
    """The pool of a channel by a large window."""
    w = params.window
    if params.average:
        pool_large.pool(b, w, c, lanes, operator.add, 0.0, lambda total, h, t: total * (
            load(b["columns"], t * lanes, lanes) * splat(b["rows"][h], lanes)))
    else:
        pool_large.pool(b, w, c, lanes, _larger, least(w.source.dtype), lambda total, _h, _t: total)


def least(dtype: str) -> float:
    """What no element of a type is below."""
    return -np.inf if dtype == "float32" else 0


def _maxima(b: Buffers, w: Window, tile: Tile) -> list[Expr]:
    return _combined(b["x"], w, tile, _larger, least(w.source.dtype))


def _larger(a: Expr, b: Expr) -> Expr:
    return held(maximum(held(a), b))


def _averages(b: Buffers, w: Window, tile: Tile) -> list[Expr]:
    share = T.Bind(load(b["columns"], tile.vector * tile.lanes, tile.lanes))
    totals = _combined(b["x"], w, tile, operator.add, 0.0)
    return [total * (share * splat(b["rows"][tile.row + row], tile.lanes)) for row, total in enumerate(totals)]


def _combined(x: Expr, w: Window, tile: Tile, combine: Callable[[Expr, Expr], Expr], neutral: float) -> list[Expr]:
    """What each row of the tile has in its windows: combined along the input rows first, then down them."""
    totals: list[Expr] = [None] * w.block
    for vectors, pairs in taps(x, w, tile, outside=neutral):
        along = T.Bind(reduce(combine, vectors))
        for row, _ in pairs:
            totals[row] = along if totals[row] is None else T.Bind(combine(totals[row], along))
    others = splat(number(neutral, x.dtype), tile.lanes)
    return [others if total is None else undealt(total, w) for total in totals]


def reference(x: np.ndarray, params: PoolParams) -> np.ndarray:
    """The flat output of a flat input; positions that its layout leaves undefined are NaN."""
    w, rows = params.window, padded_rows(params.window.target)
    (sh, sw), (dh, dw), (top, left) = w.strides, w.dilations, w.begins
    images = np.pad(pixels(x, padded_rows(w.source)), (
        (0, 0), (0, 0), (top, rows.height * sh + w.reach[0]), (left, rows.width * sw + w.reach[1])),
        constant_values=0 if params.average else least(w.source.dtype))
    stack = np.stack([images[:, :, i * dh::sh, j * dw::sw][:, :, :rows.height, :rows.width]
                      for i, j in np.ndindex(w.kernel)])
    y = blank(w.target)
    if params.average:
        shares = (_shares(params, axis, np.arange(size)) for axis, size in enumerate((rows.height, rows.width)))
        pixels(y, rows)[...] = stack.sum(axis=0) * np.multiply.outer(*shares)
    else:
        pixels(y, rows)[...] = stack.max(axis=0)
    return y


def build_global_average(source: PaddedFlat, isa: Isa) -> Kernel:
    """The kernel of a global average: x, of the source's layout, -> y, plain (batch, channels)."""
    rows, lanes = padded_rows(source), isa.lanes
    whole = source.width // lanes

    def body(b: Buffers) -> None:
        with shared(source.channels, isa) as c, T.serial(0, source.batch) as n:
            total = registers(1, lanes)
            store(total, 0, splat(0.0, lanes))
            with T.serial(0, source.height) as h:
                start = T.Bind(rows.start(n, c, h))
                each(0, whole, lambda t: add_to(total, 0, load(b["x"], start + t * lanes, lanes)))
                add_to(total, 0, load_lanes(b["x"], start + whole * lanes, lanes, 0, source.width % lanes))
            mean = _sum_lanes(load(total, 0, lanes)) * T.float32(1 / (source.height * source.width))
            T.buffer_store(b["y"], mean, [n * source.channels + c])

    return kernel({"x": (source.size, "float32"), "y": (source.batch * source.channels, "float32")}, body)


def _sum_lanes(vector: Expr) -> Expr:
    """The sum of a vector's lanes, halving it."""
    while (lanes := lanes_of(vector)) > 1:
        low, high = (T.Shuffle([vector], list(range(start, start + lanes // 2))) for start in (0, lanes // 2))
        vector = low + high
    return vector


def global_average_reference(x: np.ndarray, source: PaddedFlat) -> np.ndarray:
    """(batch, channels) means of a flat input."""
    means: np.ndarray = pixels(x, padded_rows(source)).mean(axis=(2, 3), dtype=np.float64).astype(np.float32)
    return means
