"""Transposition of a batch of matrices in squares of one SIMD vector a side, inside registers."""

from __future__ import annotations

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Kernel, kernel, load, registers, store
from sparsec.kernels.tensors import TransposeParams


def reference(x: np.ndarray, params: TransposeParams) -> np.ndarray:
    """Y (batch, columns, rows)."""
    return x.reshape(params.batch, params.rows, params.columns).swapaxes(1, 2)


def build(params: TransposeParams, isa: Isa) -> Kernel:
    """The kernel: (x) -> y, for matrices with at least `isa.lanes` rows and columns."""
    size = params.batch * params.rows * params.columns
    return kernel({"x": (size, "float32"), "y": (size, "float32")}, lambda b: _emit(b, params, isa))


def _emit(b: Buffers, p: TransposeParams, isa: Isa) -> None:
    """Squares in the order of Y; the last ones of a side overlap their neighbours."""
    lanes = isa.lanes
    down, along = -(-p.columns // lanes), -(-p.rows // lanes)
    with (T.serial if isa.threads == 1 else T.parallel)(0, p.batch * down) as unit:
        start = T.Bind(T.floordiv(unit, down) * (p.rows * p.columns))
        column = T.Bind(T.min(T.floormod(unit, down) * lanes, p.columns - lanes))
        with T.serial(0, along) as tile:
            row = T.Bind(T.min(tile * lanes, p.rows - lanes))
            square = registers(lanes, lanes)
            for r in range(lanes):
                store(square, r * lanes, load(b["x"], start + (row + r) * p.columns + column, lanes))
            _transpose_square(square, lanes)
            for r in range(lanes):
                store(b["y"], start + (column + r) * p.rows + row, load(square, r * lanes, lanes))


def _transpose_square(square: Buffer, lanes: int) -> None:
    """Exchange halves, quarters, … of pairs of rows."""
    step = lanes // 2
    while step:
        for r in range(lanes):
            if not r & step:
                pair = [load(square, r * lanes, lanes), load(square, (r + step) * lanes, lanes)]
                low = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
                high = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
                exchanged = registers(1, lanes)
                store(exchanged, 0, T.Shuffle(pair, low))
                store(square, (r + step) * lanes, T.Shuffle(pair, high))
                store(square, r * lanes, load(exchanged, 0, lanes))
        step //= 2
