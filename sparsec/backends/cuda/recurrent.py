"""RNN, GRU and LSTM step by step in float32: a session replays the steps' kernels as one graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.cuda.context import CudaContext
from sparsec.backends.relax.importer.node import slice_at
from sparsec.backends.relax.importer.recurrent import refuse_rare
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.operators.recurrence import CELL, Activation
from sparsec.graph.recurrent import DEFAULTS, activations_of

op = relax.op
MOST_STEPS = 256
"""Steps from which on compiling them one by one takes minutes."""
ACTIVATIONS: dict[str, Callable[[relax.Expr, float, float], relax.Expr]] = {
    "sigmoid": lambda x, _a, _b: op.sigmoid(x), "tanh": lambda x, _a, _b: op.tanh(x),
    "relu": lambda x, _a, _b: op.nn.relu(x), "leaky_relu": lambda x, alpha, _b: op.nn.leakyrelu(x, alpha),
    "hard_sigmoid": lambda x, alpha, beta: op.clip(op.add(op.multiply(x, relax.const(alpha)), relax.const(beta)), 0, 1)}


@dataclass(frozen=True)
class _Cell:
    """A direction's weights, (gates, columns) and (gates,), and what its gates pass through."""

    kind: str
    hidden: int
    recurrent: relax.Expr
    fed_back: relax.Expr
    peepholes: relax.Expr | None
    activations: list[Callable[[relax.Expr], relax.Expr]]
    early: bool

    def gates(self, rows: relax.Expr, first: int, count: int) -> relax.Expr:
        """Some gates of (batch, gates)."""
        return op.strided_slice(rows, [1], [first * self.hidden], [(first + count) * self.hidden])

    def weights(self, first: int, count: int) -> relax.Expr:
        """Those of some gates as (hidden, columns)."""
        return op.permute_dims(op.strided_slice(self.recurrent, [0], [first * self.hidden],
                                                [(first + count) * self.hidden]))

    def bias(self, first: int, count: int) -> relax.Expr:
        """The recurrent bias of some gates."""
        return op.strided_slice(self.fed_back, [0], [first * self.hidden], [(first + count) * self.hidden])

    def peephole(self, number: int) -> relax.Expr:
        """What a gate sees the cell by."""
        return op.strided_slice(self.peepholes, [0], [number * self.hidden], [(number + 1) * self.hidden])

    def step(self, share: relax.Expr, h: relax.Expr, c: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
        """The next hidden state and cell, from what the inputs of a step give."""
        if self.kind == "RNN":
            return self.activations[0](op.add(share, self._fed(h, 0, 1))), c
        return self._gru(share, h, c) if self.kind == "GRU" else self._lstm(share, h, c)

    def _fed(self, h: relax.Expr, first: int, count: int) -> relax.Expr:
        return op.add(op.matmul(h, self.weights(first, count)), self.bias(first, count))

    def _gru(self, share: relax.Expr, h: relax.Expr, c: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
        f, g = self.activations
        both = f(op.add(self.gates(share, 0, 2), self._fed(h, 0, 2)))
        z, r = self.gates(both, 0, 1), self.gates(both, 1, 1)
        candidate = self._fed(op.multiply(r, h), 2, 1) if self.early else op.multiply(r, self._fed(h, 2, 1))
        new = g(op.add(self.gates(share, 2, 1), candidate))
        return op.add(op.multiply(op.subtract(relax.const(1.0), z), new), op.multiply(z, h)), c

    def _lstm(self, share: relax.Expr, h: relax.Expr, c: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
        f, g, last = self.activations
        rows = op.add(share, self._fed(h, 0, 4))
        i, o, forget, new = (self.gates(rows, number, 1) for number in range(4))
        if self.peepholes is not None:
            i, forget = op.add(i, op.multiply(self.peephole(0), c)), op.add(forget, op.multiply(self.peephole(2), c))
        c = op.add(op.multiply(f(forget), c), op.multiply(f(i), g(new)))
        if self.peepholes is not None:
            o = op.add(o, op.multiply(self.peephole(1), c))
        return op.multiply(f(o), last(c)), c


def lower(context: CudaContext, node: ir.Node) -> bool:
    """Emit all directions of a layer."""
    refuse_rare(context, node)
    x, w, r, b, lengths, h0, c0, peepholes = [*node.inputs, *[None] * 8][:8]
    attributes, kind = node.attributes, node.op_type
    batchwise = bool(attributes.get_int("layout", 0))
    rows = context.tensor(x)
    rows = context.bb.emit(op.permute_dims(rows, [1, 0, 2])) if batchwise else rows
    steps, batch, _ = (int(size) for size in rows.ty.shape)
    directions, gates, hidden = context.shape(r)
    if steps > MOST_STEPS:
        raise UnsupportedOperatorError(f"{steps} steps, and kernels are written out for up to {MOST_STEPS}")
    functions, clip = activations_of(node) or (), attributes.get_float("clip", 0.0) or 0.0
    count, results = len(DEFAULTS[kind]), []
    for direction in range(directions):
        bias = (relax.const(np.zeros(2 * gates, np.float32)) if b is None
                else slice_at(context, context.tensor(b), direction))
        given, fed_back = (context.bb.emit(op.strided_slice(bias, [0], [k * gates], [(k + 1) * gates])) for k in (0, 1))
        weight = op.permute_dims(slice_at(context, context.tensor(w), direction))
        shares = context.bb.emit(op.add(op.matmul(rows, context.bb.emit(weight)), given))
        cell = _Cell(kind, hidden, slice_at(context, context.tensor(r), direction), fed_back,
                     None if peepholes is None else slice_at(context, context.tensor(peepholes), direction),
                     [_function(each, clip if place < CELL else 0.0)
                      for place, each in enumerate(functions[direction * count:(direction + 1) * count])],
                     not attributes.get_int("linear_before_reset", 0))
        h, c = (_state(context, value, direction, (batch, hidden), batchwise) for value in (h0, c0))
        backwards = direction == 1 or attributes.get_string("direction", "forward") == "reverse"
        results.append(_steps(context, cell, shares, (h, c), lengths, backwards))
    _bind(context, node, results, batchwise)
    return True


def _function(activation: Activation, clip: float) -> Callable[[relax.Expr], relax.Expr]:
    """An activation of numbers that are brought within bounds before; 0 for none."""
    def function(x: relax.Expr) -> relax.Expr:
        bounded = op.clip(x, -clip, clip) if clip else x
        return ACTIVATIONS[activation.name](bounded, activation.alpha, activation.beta)

    return function


def _steps(context: CudaContext, cell: _Cell, shares: relax.Expr, state: tuple[relax.Expr, relax.Expr],
           lengths: ir.Value | None, backwards: bool) -> tuple[relax.Expr, ...]:  # noqa: FBT001 - ONNX's attribute
    """All hidden states (steps, batch, hidden), and the last ones of (batch, hidden)."""
    steps = int(shares.ty.shape[0])
    h, c, found = *state, {}
    for step in reversed(range(steps)) if backwards else range(steps):
        share = slice_at(context, shares, step)
        new, cells = (context.bb.emit(each) for each in cell.step(share, h, c))
        if lengths is None:
            h, c, found[step] = new, cells, new
            continue
        alive = op.greater(op.reshape(context.tensor(lengths), (-1, 1)), relax.const(step, context.dtype(lengths)))
        alive = context.bb.emit(alive)
        found[step] = context.bb.emit(op.where(alive, new, relax.const(0.0)))
        h, c = context.bb.emit(op.where(alive, new, h)), context.bb.emit(op.where(alive, cells, c))
    return context.bb.emit(op.stack([found[step] for step in range(steps)], 0)), h, c


def _state(context: CudaContext, value: ir.Value | None, direction: int, shape: tuple[int, int],
           batchwise: bool) -> relax.Expr:  # noqa: FBT001 - ONNX's attribute
    """A direction's initial state; zeros if absent."""
    if value is None:
        return relax.const(np.zeros(shape, np.float32))
    return slice_at(context, context.tensor(value), direction, 1 if batchwise else 0)


def _bind(context: CudaContext, node: ir.Node, results: list[tuple[relax.Expr, ...]],
          batchwise: bool) -> None:  # noqa: FBT001 - ONNX's attribute
    """Bind Y, Y_h and Y_c of all directions in ONNX's order of axes."""
    for number, (axis, order) in enumerate(((1, [2, 0, 1, 3]), (0, [1, 0, 2]), (0, [1, 0, 2]))):
        if number < len(node.outputs) and node.outputs[number].name:
            joined = context.bb.emit(op.stack([each[number] for each in results], axis))
            context.bind(node.outputs[number], context.bb.emit(op.permute_dims(joined, order)) if batchwise else joined)
