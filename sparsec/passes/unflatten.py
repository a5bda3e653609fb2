"""The reshape behind a linear layer moves in front of it, where it is often undone by another one.

    Reshape (..., K) -> (rows, K);  MatMul -> (rows, M);  Reshape -> (..., M)

An exporter of two-dimensional products writes that. Without the second one, residual and activation reach the layer.
"""

from __future__ import annotations

import onnx_ir as ir

from sparsec.graph.constants import constant_shape
from sparsec.graph.nodes import on_the_left, operand, optional
from sparsec.graph.operators import DOMAIN
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.chain import Chain
from sparsec.passes.context import Context, Report

VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


def run(model: ir.Model, _context: Context) -> Report:
    """Moves every reshape it can, in place."""
    count = sum(_moved(node) for node in list(model.graph))
    if count:
        rewrite.clean(model)
    return Report("unflatten", bool(count), {"reshapes": count} if count else {})


def _moved(node: ir.Node) -> bool:
    """Moves the reshape behind a layer; whether there was one that keeps its outputs together."""
    if node.domain != DOMAIN or node.op_type != "MatMul" or on_the_left(node) or optional(node, 3) is not None:
        return False
    view, weight = rewrite.only_use(node.outputs[0]), constant_shape(node.inputs[1])
    if view is None or view.domain or view.op_type not in VIEWS or weight is None:
        return False
    source = _unreshaped(operand(node, 0))
    given, wanted = static_shape(source), static_shape(view.outputs[0])
    if not given or not wanted or 0 in wanted or given[-1] != weight[1] or wanted[-1] != weight[0]:
        return False
    shape = (*wanted[:-1], weight[1])
    if given != shape:
        if source is operand(node, 0) and len(given) >= len(shape):
            return False  # nothing would be undone
        source = Chain(node).reshape(source, shape)
        source.shape = ir.Shape(shape)
    node.replace_input_with(0, source)
    rewrite.take_over(node.outputs[0], view.outputs[0])
    assert view.graph is not None
    view.graph.remove(view, safe=True)
    return True


def _unreshaped(value: ir.Value) -> ir.Value:
    """The value before it was reshaped, as long as it keeps its last axis."""
    node = value.producer()
    while node is not None and not node.domain and node.op_type in VIEWS:
        source = operand(node, 0)
        if (static_shape(source) or (0,))[-1] != (static_shape(value) or (1,))[-1]:
            break
        value, node = source, source.producer()
    return value
