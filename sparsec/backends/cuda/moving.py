"""Operators that move elements and compute nothing leave half precision as it is.

Otherwise halves would become floats and halves again, in kernels of their own wherever a reshape lies between.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import ir as tvm_ir
from tvm import relax, te, tirx

from sparsec.backends.cuda.context import CudaContext, dtype_of
from sparsec.backends.relax.importer import OPERATORS
from sparsec.backends.relax.importer.node import Indices, compute
from sparsec.graph.shapes import static_shape
from sparsec.kernels.emit.tir import Expr

CAST = tvm_ir.Op.get("relax.astype")
VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that move nothing either."""
MOVES = ("Concat", "Expand", "Gather", "Slice", "Split", "Tile", "Transpose")


def lower(context: CudaContext, node: ir.Node) -> bool:
    """Emit an operator of `VIEWS`, or one of `MOVES` whose floats are all stored narrow; False for others."""
    shapes = [static_shape(value) for value in (*node.inputs, *node.outputs) if value is not None]
    if node.domain or any(shape is None or 0 in shape for shape in shapes):
        return False
    if node.op_type in VIEWS or _takes_all(context, node):
        return _view(context, node)
    if node.op_type == "Gather" and context.array(node.inputs[1]) is None:
        return _gather(context, node)
    floats = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
    narrow = [value in context.env and dtype_of(context.env[value]) == context.half for value in floats]
    if node.op_type not in MOVES or not floats or not all(narrow):
        return False
    context.moving = True
    try:
        results = OPERATORS[node.op_type](context, node)
    finally:
        context.moving = False
    for value, result in zip(node.outputs, results or (), strict=False):
        bound = result if isinstance(result, relax.Var) else context.bb.emit(result)
        context.bind(value, context.reshaped(bound, context.shape(value)))
    return results is not None


def _takes_all(context: CudaContext, node: ir.Node) -> bool:
    """Whether a Gather takes all there is along its axis, in order."""
    indices = context.array(node.inputs[1]) if node.op_type == "Gather" else None
    if indices is None:
        return False
    dims = context.shape(node.inputs[0])
    return np.array_equal(indices.ravel(), np.arange(dims[node.attributes.get_int("axis", 0)]))


def _view(context: CudaContext, node: ir.Node) -> bool:
    """Another shape for what is stored; a cast before it comes behind it, where it is fused with what follows."""
    value = node.inputs[0]
    if value is None or value not in context.env or value in context.channels_last:
        return False
    expr, shape = context.env[value], context.shape(node.outputs[0])
    source = context.bb.lookup_binding(expr) if isinstance(expr, relax.Var) else None
    if isinstance(source, relax.Call) and source.op == CAST:
        moved = context.reshaped(source.args[0], shape)
        expr = context.bb.emit(relax.op.astype(moved, dtype_of(expr)))
    context.bind(node.outputs[0], context.reshaped(expr, shape))
    return True


def _gather(context: CudaContext, node: ir.Node) -> bool:
    """Slices that indices name, in one kernel with what follows; the nearest one where there is none."""
    dims, output = context.shape(node.inputs[0]), node.outputs[0]
    axis, rank = node.attributes.get_int("axis", 0) % len(dims), len(context.shape(node.inputs[1]))

    def element(i: Indices, x: te.Tensor, indices: te.Tensor) -> Expr:
        named = indices[i[axis:axis + rank]] if rank else indices()
        named = tirx.if_then_else(named < 0, named + dims[axis], named)
        return x[(*i[:axis], tirx.max(tirx.min(named, dims[axis] - 1), 0), *i[axis + rank:])]

    context.moving = True
    try:
        x = context.tensor(node.inputs[0])
    finally:
        context.moving = False
    context.bind(output, compute(context, "gather", context.shape(output), element, x, context.tensor(node.inputs[1])))
    return True
