"""Reductions over one axis of a tensor in ONNX's order, (outer, length, inner)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.extremum import maximum, minimum
from sparsec.kernels.emit.fold import Combine, fold_row
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel, load, registers, splat, store
from sparsec.kernels.tensors import ReduceParams

VECTORS = 4  # of columns that are reduced side by side


@dataclass(frozen=True)
class Reduction:
    """What happens to an element, how elements combine, what the empty reduction is, and its numpy counterpart."""

    element: Callable[[Expr], Expr]
    combine: Combine
    neutral: float
    numpy: Callable[..., np.ndarray]


def _identity(x: Expr) -> Expr:
    return x


def _add(a: Expr, b: Expr) -> Expr:
    return a + b


REDUCTIONS: dict[str, Reduction] = {
    "l1": Reduction(T.abs, _add, 0.0, lambda x, axis: np.abs(x).sum(axis)),
    "max": Reduction(_identity, maximum, -np.inf, np.max),
    "min": Reduction(_identity, minimum, np.inf, np.min),
    "prod": Reduction(_identity, lambda a, b: a * b, 1.0, np.prod),
    "sum": Reduction(_identity, _add, 0.0, np.sum),
    "sum_of_squares": Reduction(lambda x: x * x, _add, 0.0, lambda x, axis: (x * x).sum(axis)),
}


def reference(x: np.ndarray, params: ReduceParams) -> np.ndarray:
    """Y (outer, inner), in float64."""
    tensor = x.reshape(params.outer, params.length, params.inner).astype(np.float64)
    return REDUCTIONS[params.name].numpy(tensor, axis=1) * params.factor


def build(params: ReduceParams, isa: Isa) -> Kernel:
    """The kernel: (x) -> y, for tensors that are not empty."""
    emit = _emit_rows if params.inner == 1 else _emit_columns
    return kernel({"x": (params.outer * params.length * params.inner, "float32"),
                   "y": (params.outer * params.inner, "float32")}, lambda b: emit(b, params, isa))


def _emit_rows(b: Buffers, p: ReduceParams, isa: Isa) -> None:
    reduction = REDUCTIONS[p.name]
    with (T.serial if isa.threads == 1 else T.parallel)(0, p.outer) as row:
        total = fold_row(p.length, isa.lanes, reduction.neutral, reduction.combine,
                         lambda index, lanes: reduction.element(load(b["x"], row * p.length + index, lanes)))
        store(b["y"], row, total * T.float32(p.factor))


def _emit_columns(b: Buffers, p: ReduceParams, isa: Isa) -> None:
    """Several vectors of columns at a time; the last ones overlap their neighbours."""
    reduction, lanes = REDUCTIONS[p.name], min(isa.lanes, 1 << (p.inner.bit_length() - 1))
    vectors = min(VECTORS, p.inner // lanes)
    units = -(-p.inner // (vectors * lanes))
    with (T.serial if isa.threads == 1 else T.parallel)(0, p.outer * units) as unit:
        column = T.Bind(T.min(T.floormod(unit, units) * (vectors * lanes), p.inner - vectors * lanes))
        start = T.Bind(T.floordiv(unit, units) * (p.length * p.inner) + column)
        sums = registers(vectors, lanes)
        for v in range(vectors):
            store(sums, v * lanes, splat(reduction.neutral, lanes))
        with T.serial(0, p.length) as k:
            for v in range(vectors):
                element = reduction.element(load(b["x"], start + k * p.inner + v * lanes, lanes))
                store(sums, v * lanes, reduction.combine(load(sums, v * lanes, lanes), element))
        for v in range(vectors):
            at = T.floordiv(unit, units) * p.inner + column + v * lanes
            store(b["y"], at, load(sums, v * lanes, lanes) * splat(p.factor, lanes))
