"""RNN, GRU and LSTM: one product for the inputs of all steps, then the recurrence by the backend's kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import Operator, are_float, slice_at
from sparsec.backends.relax.importer.products import product
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.operators.recurrence import EARLY, GATES
from sparsec.graph.recurrent import DEFAULTS, activations_of
from sparsec.kernels.tensors import RecurrentParams

op = relax.op


def recur(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """All directions of a layer."""
    cell, attributes = node.op_type, node.attributes
    x, w, r, b, lengths, h, c, p = [*node.inputs, *[None] * 8][:8]
    batchwise = bool(attributes.get_int("layout", 0))
    resets_early = cell == "GRU" and not attributes.get_int("linear_before_reset", 0)
    order = (1, 0, 2) if batchwise else (0, 1, 2)
    steps, batch, inputs = (context.shape(x)[axis] for axis in order)
    directions, hidden = context.shape(r)[0], context.shape(r)[2]
    refuse_rare(context, node)
    ends = context.flat(lengths) if lengths is not None else context.constant(np.full(batch, steps, np.int32))
    rows = context.tensor(x) if not batchwise else op.permute_dims(context.tensor(x), order)
    rows = context.bb.emit(op.reshape(context.bb.emit(rows), (-1,)))
    functions = activations_of(node) or ()
    outputs: list[list[relax.Expr]] = [[], [], []]
    for direction in range(directions):
        count = len(DEFAULTS[cell])
        params = RecurrentParams(
            EARLY if resets_early else cell, steps, batch, hidden, functions[direction * count:(direction + 1) * count],
            backwards=direction == 1 or attributes.get_string("direction", "forward") == "reverse",
            peepholes=p is not None, lengths=lengths is not None, clip=attributes.get_float("clip", 0.0) or 0.0)
        width = params.row(context.isa.lanes)
        shares = product(context, rows, (steps * batch, inputs), _transposed(context, w, direction, width),
                         (inputs, width))
        arguments = [shares, _transposed(context, r, direction, width), *_biases(context, b, direction, params, width),
                     _part(context, p, direction, 3 * hidden),
                     *(_state(context, value, direction, params, batchwise=batchwise) for value in (h, c)), ends]
        state = batch * hidden
        result = context.run(params, arguments, steps * state, state, state)
        shapes = ((steps, batch, hidden), (batch, hidden), (batch, hidden))
        for collected, part, shape in zip(outputs, range(3), shapes, strict=True):
            collected.append(context.bb.emit(op.reshape(context.bb.emit(result[part]), shape)))
    return _results(context, outputs, batchwise=batchwise)


def refuse_rare(context: LoweringContext, node: ir.Node) -> None:
    """Raise UnsupportedOperatorError for what no kernel is there for."""
    reasons = {
        "the attribute input_forget": bool(node.attributes.get_int("input_forget", 0)),
        f"the activations {node.attributes.get_strings('activations', ())}": activations_of(node) is None,
        "another element type than float32": not are_float(context, node.inputs[0]),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedOperatorError(reason)


def _transposed(context: LoweringContext, value: ir.Value | None, direction: int, width: int) -> relax.Expr:
    """A direction's weight (gates, columns) as (columns, width), flat."""
    array, (_, gates, _) = context.array(value), context.shape(value)
    if array is not None:
        return context.constant(np.pad(array[direction].T, ((0, 0), (0, width - gates))).reshape(-1))
    taken = slice_at(context, context.tensor(value), direction)
    padded = op.nn.pad(context.bb.emit(op.permute_dims(taken)), (0, 0, 0, width - gates))
    return context.bb.emit(op.reshape(context.bb.emit(padded), (-1,)))


def _biases(context: LoweringContext, value: ir.Value | None, direction: int, params: RecurrentParams,
            width: int) -> list[relax.Expr]:
    """The gates' bias, and the recurrent bias of a GRU's third gate, which the reset gate may scale."""
    gates, hidden = params.gates, params.hidden
    if value is None:
        return [context.constant(np.zeros(width, np.float32)), context.constant(np.zeros(hidden, np.float32))]
    both = context.bb.emit(op.reshape(slice_at(context, context.tensor(value), direction), (2, gates)))
    given, fed_back = (slice_at(context, both, k) for k in (0, 1))
    mask = np.ones(gates, np.float32)
    if params.cell in ("GRU", EARLY):
        mask[2 * hidden:] = 0
    bias = op.add(given, op.multiply(fed_back, relax.const(mask)))
    third = op.strided_slice(fed_back, [0], [gates - hidden], [gates])
    return [context.bb.emit(op.nn.pad(context.bb.emit(bias), (0, width - gates))), context.bb.emit(third)]


def _part(context: LoweringContext, value: ir.Value | None, direction: int, size: int) -> relax.Expr:
    """A direction's row of an optional input; zeros if absent."""
    if value is None:
        return context.constant(np.zeros(size, np.float32))
    return slice_at(context, context.tensor(value), direction)


def _state(context: LoweringContext, value: ir.Value | None, direction: int, params: RecurrentParams, *,
           batchwise: bool) -> relax.Expr:
    """A direction's initial state (batch, hidden), flat; zeros if absent."""
    size = params.batch * params.hidden
    if value is None:
        return context.constant(np.zeros(size, np.float32))
    taken = slice_at(context, context.tensor(value), direction, 1 if batchwise else 0)
    return context.bb.emit(op.reshape(taken, (size,)))


def _results(context: LoweringContext, outputs: list[list[relax.Expr]], *, batchwise: bool) -> list[relax.Expr]:
    """Y, Y_h and Y_c of all directions in ONNX's order of axes."""
    results = [op.stack(parts, axis) for parts, axis in zip(outputs, (1, 0, 0), strict=True)]
    if batchwise:
        results = [op.permute_dims(context.bb.emit(result), axes)
                   for result, axes in zip(results, ([2, 0, 1, 3], [1, 0, 2], [1, 0, 2]), strict=True)]
    return results


OPERATORS: dict[str, Operator] = dict.fromkeys(GATES, recur)
