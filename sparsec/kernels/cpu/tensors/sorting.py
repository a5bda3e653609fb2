"""Sorting rows: the positions of a row's elements in order, ties in their own order."""

from __future__ import annotations

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.extremum import is_nan, is_number
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel
from sparsec.kernels.tensors import SortParams


def reference(x: np.ndarray, params: SortParams) -> np.ndarray:
    """Positions (rows, taken); equal elements keep their order, NaN is larger than any number."""
    rows = x.reshape(params.rows, params.length).astype(np.float64)
    keys = (np.isnan(rows), np.nan_to_num(rows, nan=0.0, posinf=np.inf, neginf=-np.inf))
    nan, value = (-key.astype(np.float64) for key in keys) if params.descending else keys
    return np.lexsort((value, nan), axis=1)[:, :params.taken]


SELECTED = 32  # positions up to which inserting into a short list beats sorting the row


def build(params: SortParams, isa: Isa) -> Kernel:
    """The kernel: (x) -> positions as int64."""
    arguments = {"x": (params.rows * params.length, params.dtype), "positions": (params.rows * params.taken, "int64")}
    emit_row = _insert_row if params.taken <= SELECTED else _sort_row

    def emit(b: Buffers) -> None:
        with (T.serial if isa.threads == 1 else T.parallel)(0, params.rows) as row:
            emit_row(b, params, row)

    return kernel(arguments, emit)


def _ahead(p: SortParams, later: Expr, earlier: Expr) -> Expr:
    """Whether an element overtakes one that came before it; NaN is larger than any number."""
    if "float" not in p.dtype:
        return later > earlier if p.descending else later < earlier
    if p.descending:
        return T.Or(later > earlier, T.And(is_nan(later), is_number(earlier)))
    return T.Or(later < earlier, T.And(is_number(later), is_nan(earlier)))


def _insert_row(b: Buffers, p: SortParams, row: Expr) -> None:
    """A sorted list of the elements so far; few elements find a place in it."""
    values, places = T.alloc_buffer((p.taken,), p.dtype), T.alloc_buffer((p.taken,), "int64")
    hole = T.alloc_buffer((1,), "int32")
    with T.serial(0, p.length) as i:
        value = T.Bind(b["x"][row * p.length + i])
        filled = T.Bind(T.min(i, p.taken))
        with T.If(T.Or(filled < p.taken, _ahead(p, value, values[T.max(filled - 1, 0)]))), T.Then():
            T.buffer_store(hole, T.min(filled, p.taken - 1), [0])
            with T.While(T.And(hole[0] > 0, _ahead(p, value, values[T.max(hole[0] - 1, 0)]))):
                T.buffer_store(values, values[hole[0] - 1], [hole[0]])
                T.buffer_store(places, places[hole[0] - 1], [hole[0]])
                T.buffer_store(hole, hole[0] - 1, [0])
            T.buffer_store(values, value, [hole[0]])
            T.buffer_store(places, T.Cast("int64", i), [hole[0]])
    with T.serial(0, p.taken) as i:
        T.buffer_store(b["positions"], places[i], [row * p.taken + i])


def _sort_row(b: Buffers, p: SortParams, row: Expr) -> None:
    """Runs of doubling length, merged to and fro between two buffers."""
    source, target = (T.alloc_buffer((p.length,), "int64") for _ in range(2))
    with T.serial(0, p.length) as i:
        T.buffer_store(source, T.Cast("int64", i), [i])
    run = 1
    while run < p.length:
        with T.serial(0, -(-p.length // (2 * run))) as pair:
            start = T.Bind(pair * (2 * run))
            _merge(b["x"], row * p.length, source, target, start, run, p)
        source, target, run = target, source, run * 2
    with T.serial(0, p.taken) as i:
        T.buffer_store(b["positions"], source[i], [row * p.taken + i])


def _merge(x: Buffer, base: Expr, source: Buffer, target: Buffer, start: Expr, run: int, p: SortParams) -> None:
    """Merge two neighbouring sorted runs, the first of which begins at `start`."""
    heads, last = T.alloc_buffer((2,), "int32"), p.length - 1
    middle, end = T.Bind(T.min(start + run, p.length)), T.Bind(T.min(start + 2 * run, p.length))
    T.buffer_store(heads, start, [0])
    T.buffer_store(heads, middle, [1])
    with T.serial(0, end - start) as i:
        first, second = (x[base + source[T.min(heads[head], last)]] for head in (0, 1))
        taken = T.Or(heads[0] >= middle, _ahead(p, second, first))
        head = T.Bind(T.Select(T.And(heads[1] < end, taken), 1, 0))
        T.buffer_store(target, source[heads[head]], [start + i])
        T.buffer_store(heads, heads[head] + 1, [head])
