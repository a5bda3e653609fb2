"""A weight that multiplies many columns from the left becomes one that multiplies rows, between two Transposes.

Kernels for many rows take the weight on the right; a few columns are turned by the lowering itself.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from sparsec.graph import operators
from sparsec.graph.nodes import node_name, optional
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Report


def run(model: ir.Model, context: Context) -> Report:
    """Turns every product of at least a vector of columns, in place."""
    turned = 0
    for node in list(model.graph):
        if node.domain == operators.DOMAIN and node.op_type == "MatMul" and \
                node.attributes.get_string("side", "right") == "left" and 0 < context.target.lanes <= _columns(node):
            _turn(node)
            turned += 1
    return Report("turn", bool(turned), {"turned": turned} if turned else {})


def _columns(node: ir.Node) -> int:
    shape = static_shape(node.inputs[0]) or (0, 0)
    return math.prod((*shape[:-2], shape[-1]))


def _turn(node: ir.Node) -> None:
    rank = len(static_shape(node.outputs[0]) or ())
    perm = [*range(rank - 2), rank - 1, rank - 2]
    for index in (0, 3):
        value = optional(node, index)
        if value is not None:
            node.prepend(transpose := ir.node("Transpose", [value], {"perm": perm}))
            _turned(transpose.outputs[0], value)
            node.replace_input_with(index, transpose.outputs[0])
    node.attributes.add(ir.AttrString("side", "right"))
    old = node.outputs[0]
    node.append(back := ir.node("Transpose", [None], {"perm": perm}))
    rewrite.take_over(back.outputs[0], old)
    back.replace_input_with(0, old)
    old.name = f"{node_name(node)}.turned"
    _turned(old, back.outputs[0])


def _turned(value: ir.Value, other: ir.Value) -> None:
    """Gives a value the shape of another with its last two axes exchanged."""
    *lead, a, b = static_shape(other) or ()
    value.shape, value.type = ir.Shape((*lead, b, a)), other.type
