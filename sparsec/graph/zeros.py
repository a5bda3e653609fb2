"""Which values are likely to hold many zeros: those behind ReLU, and inputs, of which nothing is known."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.graph.annotations import Annotation
from sparsec.graph.constants import scalar
from sparsec.graph.nodes import optional

MOVES = {"Dropout", "Flatten", "Identity", "Reformat", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators whose output has the elements of their first input."""

COMPUTED = Annotation[bool]("computed")
"""On an input of a graph that is a part of a model: whether it is no input of that, and may not be zero there."""


def may_be_zero(value: ir.Value | None) -> bool:
    """Whether many elements of a value may be zero."""
    node = None if value is None else value.producer()
    if value is None:
        return False
    if node is None:
        return value.is_graph_input() and not COMPUTED.get(value)
    if node.op_type in MOVES or (node.op_type == "Pow" and not node.domain):
        return may_be_zero(node.inputs[0])
    if node.op_type == "Mul" and not node.domain:
        return any(not each.is_graph_input() and may_be_zero(each) for each in node.inputs if each is not None)
    return _is_relu(node)


def _is_relu(node: ir.Node) -> bool:
    """Whether a node, or the activation that it ends with, makes zeros of what is negative."""
    if node.domain:
        activation, least = node.attributes.get_string("activation", "none"), node.attributes.get_float("alpha", 0.0)
        return activation == "relu" or (activation == "clip" and least == 0.0)
    return node.op_type == "Relu" or (node.op_type == "Clip" and scalar(optional(node, 1)) == 0.0)
