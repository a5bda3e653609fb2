"""The recurrence of RNN, GRU and LSTM: one step after another, each a product with the recurrent weight.

The inputs' share of all gates is computed beforehand, as one product over all steps. Gates are in ONNX's order: i, o,
f, c of an LSTM; z, r, h of a GRU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.operators.recurrence import CELL, EARLY, clipped
from sparsec.kernels.emit.fold import each
from sparsec.kernels.emit.gates import gated
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store
from sparsec.kernels.tensors import GATE_VECTORS, RecurrentParams


def reference(x: np.ndarray, r: np.ndarray, bias: np.ndarray, reset_bias: np.ndarray, peepholes: np.ndarray,
              h: np.ndarray, c: np.ndarray, lengths: np.ndarray, params: RecurrentParams) -> list[np.ndarray]:
    """Y (steps, batch, hidden), the last state and cell, in float64, for the kernel's arguments without padding."""
    act = [clipped(function, params.clip if place < CELL else 0.0) for place, function in enumerate(params.activations)]
    n, y = params.hidden, np.zeros((*x.shape[:2], params.hidden))
    for step in range(params.steps)[::-1 if params.backwards else 1]:
        before, product, going = (h, c), h @ r, (step < lengths)[:, None]
        gates = x[step] + bias + product
        if params.cell == "RNN":
            h = act[0](gates)
        elif params.cell in ("GRU", EARLY):
            z, reset = act[0](gates[:, :n]), act[0](gates[:, n:2 * n])
            inputs = x[step, :, 2 * n:] + bias[2 * n:]
            carried = (reset * (product[:, 2 * n:] + reset_bias) if params.cell == "GRU"
                       else (reset * h) @ r[:, 2 * n:] + reset_bias)
            h = (1 - z) * act[1](inputs + carried) + z * h
        else:
            p = peepholes.reshape(3, n) if params.peepholes else np.zeros((3, n))
            i, f = act[0](gates[:, :n] + p[0] * c), act[0](gates[:, 2 * n:3 * n] + p[2] * c)
            c = f * c + i * act[1](gates[:, 3 * n:])
            h = act[0](gates[:, n:2 * n] + p[1] * c) * act[2](c)
        h, c = (np.where(going, new, old) for new, old in zip((h, c), before, strict=True))
        y[step] = np.where(going, h, 0)
    return [y, h, c]


def build(params: RecurrentParams, isa: Isa) -> Kernel:
    """The kernel: (x, r, bias, reset bias, peepholes, h, c, lengths) -> (y, last state, last cell).

    x is (steps, batch, width), the inputs' share; r (hidden, width), the recurrent weight transposed; bias (width,);
    the reset bias (hidden,) belongs to a GRU's third gate; peepholes are (3 * hidden,), h and c (batch, hidden),
    lengths (batch,) int32. What a cell has no use for may hold anything.
    """
    p, row = params, params.row(isa.lanes)
    state = p.batch * p.hidden
    sizes = {"x": p.steps * p.batch * row, "r": p.hidden * row, "bias": row, "reset_bias": p.hidden,
             "peepholes": 3 * p.hidden, "h": state, "c": state, "lengths": p.batch, "y": p.steps * state,
             "last_h": state, "last_c": state}
    return kernel({name: (size, "int32" if name == "lengths" else "float32") for name, size in sizes.items()},
                  lambda b: _emit(b, params, isa))


@dataclass(frozen=True)
class _Step:
    """What a cell works on: the buffers, its parameters, and where its step and member of the batch begin."""

    b: Buffers
    p: RecurrentParams
    lanes: int
    state: Buffer
    gates: Expr
    x: Expr
    h: Expr

    def gate(self, number: int, index: Expr, lanes: int) -> Expr:
        """Elements of a gate."""
        return load(self.gates, number * self.p.hidden + index, lanes)

    def activate(self, number: int, value: Expr, lanes: int) -> Expr:
        """One of the cell's activations."""
        return gated(self.p, number, value, lanes)


def _emit(b: Buffers, p: RecurrentParams, isa: Isa) -> None:
    """Members of the batch are independent of each other."""
    lanes, row = isa.lanes, p.row(isa.lanes)
    with (T.serial if isa.threads == 1 or p.batch == 1 else T.parallel)(0, p.batch) as member:
        state, gates = T.alloc_buffer((p.hidden,), "float32"), T.alloc_buffer((row,), "float32")
        first = T.Bind(member * p.hidden)
        each(p.hidden, lanes, lambda i, n: store(state, i, load(b["h"], first + i, n)))
        each(p.hidden, lanes, lambda i, n: store(b["last_c"], first + i, load(b["c"], first + i, n)))
        with T.serial(0, p.steps) as t:
            step = T.Bind(p.steps - 1 - t if p.backwards else t)
            at = T.Bind((step * p.batch + member) * p.hidden)
            if p.lengths:
                each(p.hidden, lanes, lambda i, n: store(b["y"], at + i, splat(0.0, n)))
                with T.If(step < b["lengths"][member]), T.Then():
                    _take_step(b, p, lanes, state, gates, (step * p.batch + member) * row, first, at)
            else:
                _take_step(b, p, lanes, state, gates, (step * p.batch + member) * row, first, at)
        each(p.hidden, lanes, lambda i, n: store(b["last_h"], first + i, load(state, i, n)))


def _take_step(b: Buffers, p: RecurrentParams, lanes: int, state: Buffer, gates: Buffer, x: Expr, first: Expr,
               at: Expr) -> None:
    """One step of one member of the batch."""
    CELLS[p.cell](_Step(b, p, lanes, state, gates, T.Bind(x), first))
    each(p.hidden, lanes, lambda i, n: store(b["y"], at + i, load(state, i, n)))


def _product(s: _Step, source: Buffer, first: int, count: int, start: Callable[[Expr, int], Expr]) -> None:
    """Gates [first, first + count) = start + source @ r, and some behind them."""
    row, block = s.p.row(s.lanes), GATE_VECTORS * s.lanes
    with T.serial(0, -(-count // block)) as group:
        column = T.Bind(T.min(first + group * block, row - block))
        sums = registers(GATE_VECTORS, s.lanes)
        for v in range(GATE_VECTORS):
            store(sums, v * s.lanes, start(column + v * s.lanes, s.lanes))
        with T.serial(0, s.p.hidden) as k:
            for v in range(GATE_VECTORS):
                weight = load(s.b["r"], k * row + column + v * s.lanes, s.lanes)
                add_to(sums, v * s.lanes, splat(source[k], s.lanes) * weight)
        for v in range(GATE_VECTORS):
            store(s.gates, column + v * s.lanes, load(sums, v * s.lanes, s.lanes))


def _inputs(s: _Step, column: Expr, lanes: int) -> Expr:
    """The inputs' share and the bias."""
    return load(s.b["x"], s.x + column, lanes) + load(s.b["bias"], column, lanes)


def _rnn(s: _Step) -> None:
    _product(s, s.state, 0, s.p.hidden, lambda column, lanes: _inputs(s, column, lanes))
    each(s.p.hidden, s.lanes, lambda i, n: store(s.state, i, s.activate(0, s.gate(0, i, n), n)))


def _gru(s: _Step) -> None:
    hidden = s.p.hidden
    third = 2 * hidden
    reset_state = T.alloc_buffer((hidden,), "float32")
    _product(s, s.state, 0, third, lambda column, lanes: _inputs(s, column, lanes))
    each(hidden, s.lanes, lambda i, n: store(reset_state, i, s.activate(0, s.gate(1, i, n), n)))
    each(hidden, s.lanes, lambda i, n: store(s.gates, i, s.activate(0, s.gate(0, i, n), n)))
    update = T.alloc_buffer((hidden,), "float32")
    each(hidden, s.lanes, lambda i, n: store(update, i, s.gate(0, i, n)))
    if s.p.cell == EARLY:
        each(hidden, s.lanes, lambda i, n: store(reset_state, i, load(reset_state, i, n) * load(s.state, i, n)))
    source = reset_state if s.p.cell == EARLY else s.state
    _product(s, source, third, hidden, lambda _, lanes: splat(0.0, lanes))

    def finish(i: Expr, lanes: int) -> None:
        carried = s.gate(2, i, lanes) + load(s.b["reset_bias"], i, lanes)
        if s.p.cell != EARLY:
            carried = carried * load(reset_state, i, lanes)
        candidate = s.activate(1, _inputs(s, third + i, lanes) + carried, lanes)
        z = load(update, i, lanes)
        store(s.state, i, (splat(1.0, lanes) - z) * candidate + z * load(s.state, i, lanes))

    each(hidden, s.lanes, finish)


def _lstm(s: _Step) -> None:
    _product(s, s.state, 0, s.p.gates, lambda column, lanes: _inputs(s, column, lanes))

    def seen(value: Expr, peephole: int, i: Expr, lanes: int) -> Expr:
        if not s.p.peepholes:
            return value
        return value + load(s.b["peepholes"], peephole * s.p.hidden + i, lanes) * load(s.b["last_c"], s.h + i, lanes)

    def finish(i: Expr, lanes: int) -> None:
        entering = s.activate(0, seen(s.gate(0, i, lanes), 0, i, lanes), lanes)
        kept = s.activate(0, seen(s.gate(2, i, lanes), 2, i, lanes), lanes)
        new = s.activate(1, s.gate(3, i, lanes), lanes)
        store(s.b["last_c"], s.h + i, kept * load(s.b["last_c"], s.h + i, lanes) + entering * new)
        leaving = s.activate(0, seen(s.gate(1, i, lanes), 1, i, lanes), lanes)
        store(s.state, i, leaving * s.activate(2, load(s.b["last_c"], s.h + i, lanes), lanes))

    each(s.p.hidden, s.lanes, finish)


CELLS: dict[str, Callable[[_Step], None]] = {"RNN": _rnn, "GRU": _gru, EARLY: _gru, "LSTM": _lstm}
