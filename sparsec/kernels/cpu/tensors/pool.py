"""Maximum and average pooling of images in ONNX's order, rows before columns.

The rows of a window are combined into one padded row, which stays in the L1 cache; then the columns are.
"""

from __future__ import annotations

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import round_up
from sparsec.kernels.emit.extremum import maximum
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, registers, splat, store
from sparsec.kernels.tensors import PoolParams

UNROLLED = 16
"""Columns of a window up to which their combination is written out."""


def reference(x: np.ndarray, params: PoolParams, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Y (planes, *output), in float64; `rows` and `columns` are an average's factors."""
    p, reduce = params, np.sum if params.average else np.max
    y = x.reshape(p.planes, *p.image).astype(np.float64)
    for axis in (0, 1):
        taken = []
        for o in range(p.output[axis]):
            covered = o * p.stride[axis] - p.before[axis] + np.arange(p.kernel[axis]) * p.dilation[axis]
            inside = covered[(covered >= 0) & (covered < p.image[axis])]
            taken.append(reduce(y.take(inside, axis=axis + 1), axis=axis + 1, initial=p.neutral))
        y = np.stack(taken, axis=axis + 1)
    return y * rows[:, None] * columns if p.average else y


def build(params: PoolParams, isa: Isa) -> Kernel:
    """The kernel: (x, [row factors, column factors]) -> y."""
    p = params
    sizes = {"x": p.planes * p.image[0] * p.image[1], "y": p.planes * p.output[0] * p.output[1]}
    factors = {"rows": p.output[0], "columns": p.output[1]} if p.average else {}
    arguments = {"x": sizes["x"], **factors, "y": sizes["y"]}
    return kernel({name: (size, "float32") for name, size in arguments.items()}, lambda b: _emit(b, params, isa))


def _combine(p: PoolParams, a: Expr, b: Expr) -> Expr:
    return a + b if p.average else maximum(a, b)


def _lanes(length: int, isa: Isa) -> int:
    """Lanes of the widest vector that a row holds."""
    return min(isa.lanes, 1 << (length.bit_length() - 1))


def _emit(b: Buffers, p: PoolParams, isa: Isa) -> None:
    reach = (p.output[1] - 1) * p.stride[1] + (p.kernel[1] - 1) * p.dilation[1] + 1
    length = round_up(max(reach, p.before[1] + p.image[1]) + isa.lanes, isa.lanes)
    with (T.serial if isa.threads == 1 else T.parallel)(0, p.planes) as plane:
        row = T.alloc_buffer((length,), "float32")
        with T.serial(0, length // isa.lanes) as v:
            store(row, v * isa.lanes, splat(p.neutral, isa.lanes))
        with T.serial(0, p.output[0]) as o:
            _combine_rows(b, p, isa, row, plane, o)
            _combine_columns(b, p, isa, row, plane, o)


def _combine_rows(b: Buffers, p: PoolParams, isa: Isa, row: Buffer, plane: Expr, o: Expr) -> None:
    """The rows under output row `o`, into the middle of the padded row."""
    (height, width), lanes, dilation = p.image, _lanes(p.image[1], isa), p.dilation[0]
    top = T.Bind(o * p.stride[0] - p.before[0])
    first = T.Bind(T.max(0, T.floordiv(dilation - 1 - top, dilation)))
    last = T.Bind(T.min(p.kernel[0], T.floordiv(height - top + dilation - 1, dilation)))
    with T.serial(0, -(-width // lanes)) as v:
        column = T.Bind(T.min(v * lanes, width - lanes))
        total = registers(1, lanes)
        store(total, 0, splat(p.neutral, lanes))
        with T.serial(0, T.max(0, last - first)) as k:
            at = (plane * height + top + (first + k) * dilation) * width + column
            store(total, 0, _combine(p, load(total, 0, lanes), load(b["x"], at, lanes)))
        store(row, p.before[1] + column, load(total, 0, lanes))


def _combine_columns(b: Buffers, p: PoolParams, isa: Isa, row: Expr, plane: Expr, o: Expr) -> None:
    """The padded row's columns under each output of row `o`."""
    width, lanes = p.output[1], _lanes(p.output[1], isa)
    with T.serial(0, -(-width // lanes)) as v:
        column = T.Bind(T.min(v * lanes, width - lanes))
        total = _total(p, row, column, lanes)
        if p.average:
            total = total * load(b["columns"], column, lanes) * splat(b["rows"][o], lanes)
        store(b["y"], (plane * p.output[0] + o) * width + column, total)


def _total(p: PoolParams, row: Buffer, column: Expr, lanes: int) -> Expr:
    """What outputs from `column` on cover, combined; wide windows are a loop, whose code stays small."""
    def value(k: Expr) -> Expr:
        return _strided(row, column * p.stride[1] + k * p.dilation[1], p.stride[1], lanes)

    total = registers(1, lanes)  # named in between: written as one term, a NaN-aware maximum of n has 3^n
    store(total, 0, value(0))
    if p.kernel[1] > UNROLLED:
        with T.serial(1, p.kernel[1]) as k:
            store(total, 0, _combine(p, load(total, 0, lanes), value(k)))
    else:
        for k in range(1, p.kernel[1]):
            store(total, 0, _combine(p, load(total, 0, lanes), value(k)))
    return load(total, 0, lanes)


def _strided(row: Buffer, index: Expr, stride: int, lanes: int) -> Expr:
    """Every `stride`-th element of a row from `index` on."""
    if stride == 2 and lanes > 1:
        pair = [load(row, index, lanes), load(row, index + lanes, lanes)]
        return T.Shuffle(pair, [2 * lane for lane in range(lanes)])
    return row[T.Ramp(index, stride, lanes) if lanes > 1 else index]
