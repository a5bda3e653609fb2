"""Softmax and LogSoftmax over one axis of a tensor in ONNX's order, (outer, length, inner)."""

from __future__ import annotations

import numpy as np
from scipy import special
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.activations import exp_normal
from sparsec.kernels.emit.fold import each, fold_row
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel, load, registers, splat, store
from sparsec.kernels.tensors import SoftmaxParams

LOWEST = -float(np.finfo(np.float32).max)
UNDERFLOW = -87.0  # e^x below is no normal number; it becomes 0


def reference(x: np.ndarray, params: SoftmaxParams) -> np.ndarray:
    """Y (outer, length, inner), in float64."""
    function = special.log_softmax if params.log else special.softmax
    return np.asarray(function(x.reshape(params.outer, params.length, params.inner).astype(np.float64), axis=1))


def build(params: SoftmaxParams, isa: Isa) -> Kernel:
    """The kernel: (x) -> y."""
    size = params.outer * params.length * params.inner
    emit = _emit_rows if params.inner == 1 else _emit_columns
    return kernel({"x": (size, "float32"), "y": (size, "float32")}, lambda b: emit(b, params, isa))


def _exp(x: Expr, lanes: int) -> Expr:
    return T.Select(x < splat(UNDERFLOW, lanes), splat(0.0, lanes), exp_normal(x, lanes))


def _emit_rows(b: Buffers, p: SoftmaxParams, isa: Isa) -> None:
    """A row at a time: its maximum, the exponentials and their sum, the quotients."""
    with (T.serial if isa.threads == 1 else T.parallel)(0, p.outer) as row:
        def x(index: Expr, lanes: int) -> Expr:
            return load(b["x"], row * p.length + index, lanes)

        top = T.Bind(fold_row(p.length, isa.lanes, LOWEST, T.max, x))

        def exponential(index: Expr, lanes: int) -> Expr:
            value = _exp(x(index, lanes) - splat(top, lanes), lanes)
            if p.log:
                return value
            store(b["y"], row * p.length + index, value)
            return load(b["y"], row * p.length + index, lanes)

        total = T.Bind(fold_row(p.length, isa.lanes, 0.0, lambda a, c: a + c, exponential))
        factor = T.Bind(T.log(total) if p.log else T.float32(1) / total)

        def finish(index: Expr, lanes: int) -> None:
            at = row * p.length + index
            value = (x(index, lanes) - splat(top, lanes) - splat(factor, lanes) if p.log
                     else load(b["y"], at, lanes) * splat(factor, lanes))
            store(b["y"], at, value)

        each(p.length, isa.lanes, finish)


def _emit_columns(b: Buffers, p: SoftmaxParams, isa: Isa) -> None:
    """A vector of columns at a time; the last one overlaps its neighbour."""
    lanes = min(isa.lanes, 1 << (p.inner.bit_length() - 1))
    vectors = -(-p.inner // lanes)
    with (T.serial if isa.threads == 1 else T.parallel)(0, p.outer * vectors) as unit:
        column = T.min(T.floormod(unit, vectors) * lanes, p.inner - lanes)
        start = T.Bind(T.floordiv(unit, vectors) * (p.length * p.inner) + column)
        top, total = registers(1, lanes), registers(1, lanes)
        store(top, 0, splat(LOWEST, lanes))
        store(total, 0, splat(0.0, lanes))
        with T.serial(0, p.length) as k:
            store(top, 0, T.max(load(top, 0, lanes), load(b["x"], start + k * p.inner, lanes)))
        with T.serial(0, p.length) as k:
            value = _exp(load(b["x"], start + k * p.inner, lanes) - load(top, 0, lanes), lanes)
            store(b["y"], start + k * p.inner, value)
            store(total, 0, load(total, 0, lanes) + load(b["y"], start + k * p.inner, lanes))
        if p.log:
            store(total, 0, T.log(load(total, 0, lanes)))
        with T.serial(0, p.length) as k:
            at = start + k * p.inner
            finished = (load(b["x"], at, lanes) - load(top, 0, lanes) - load(total, 0, lanes) if p.log
                        else load(b["y"], at, lanes) / load(total, 0, lanes))
            store(b["y"], at, finished)
