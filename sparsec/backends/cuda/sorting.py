"""TopK by counting: an element's place is the number of those before it, in all threads at once."""

from __future__ import annotations

import math

import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.cuda.context import CudaContext
from sparsec.backends.relax.importer.node import compute
from sparsec.kernels.emit.extremum import is_nan
from sparsec.kernels.emit.tir import Expr

op = relax.op


def lower(context: CudaContext, node: ir.Node) -> bool:
    """Emit TopK; of equal elements the first comes first, NaN is larger than all."""
    dims, shape = context.shape(node.inputs[0]), context.shape(node.outputs[0])
    axis = node.attributes.get_int("axis", -1) % len(dims)
    last = [i for i in range(len(dims)) if i != axis] + [axis]
    x, floats = context.tensor(node.inputs[0]), "float" in context.dtype(node.inputs[0])
    rows, length, taken = math.prod(dims) // max(dims[axis], 1), dims[axis], shape[axis]
    largest = bool(node.attributes.get_int("largest", 1))
    turned = context.bb.emit(op.permute_dims(x, last)) if axis != len(dims) - 1 else x
    flat = context.bb.emit(op.reshape(turned, (rows, length)))
    other, at = te.reduce_axis((0, length), name="other"), te.reduce_axis((0, length), name="at")

    def above(a: Expr, b: Expr) -> Expr:
        if not floats:
            return a > b
        return tirx.any(tirx.all(is_nan(a), tirx.Not(is_nan(b))), a > b)

    def before(i: tuple[Expr, ...], values: te.Tensor) -> Expr:
        mine, theirs = values[i[0], i[1]], values[i[0], other.var]
        ahead, behind = (above(theirs, mine), above(mine, theirs)) if largest else (above(mine, theirs),
                                                                                  above(theirs, mine))
        equal = tirx.all(tirx.Not(ahead), tirx.Not(behind), other.var < i[1])
        return te.sum(tirx.Select(tirx.any(ahead, equal), tirx.const(1, "int64"), tirx.const(0, "int64")), axis=other)

    def position(i: tuple[Expr, ...], places: te.Tensor) -> Expr:
        found = places[i[0], at.var] == i[1].astype("int64")
        return te.sum(tirx.Select(found, at.var.astype("int64"), tirx.const(0, "int64")), axis=at)

    places = compute(context, "places", (rows, length), before, flat)
    positions = compute(context, "positions", (rows, taken), position, places)
    positions = context.bb.emit(op.reshape(positions, tuple(shape[i] for i in last)))
    if axis != len(dims) - 1:
        positions = context.bb.emit(op.permute_dims(positions, [last.index(i) for i in range(len(dims))]))
    context.bind(node.outputs[0], context.bb.emit(op.gather_elements(x, positions, axis)))
    context.bind(node.outputs[1], positions)
    return True
