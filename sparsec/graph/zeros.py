"""Which values are likely to hold many zeros: those behind ReLU, and inputs, of which nothing is known."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.graph.annotations import Annotation
from sparsec.graph.constants import scalar
from sparsec.graph.nodes import optional

MOVES = {"Dropout", "Flatten", "Identity", "Reformat", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators whose output has the elements of their first input."""

COMPUTED = Annotation[tuple[float | None]]("computed")
"""On an input of a graph that is a part of a model: the zeros expected there, as `expected_zeros` answers."""


BEHIND_RELU = 0.5
"""The share of zeros that is expected behind a ReLU."""


def expected_zeros(value: ir.Value | None) -> float | None:
    """The share of a value's elements that is expected to be zero; None where none is, nothing known of inputs: 0."""
    node = None if value is None else value.producer()
    if value is None:
        return None
    if node is None:
        return (COMPUTED.get(value) or (0.0,))[0] if value.is_graph_input() else None
    if node.op_type in MOVES or (node.op_type == "Pow" and not node.domain):
        return expected_zeros(node.inputs[0])
    if node.op_type == "Mul" and not node.domain:
        return BEHIND_RELU if any(map(expected_zeros, node.inputs)) else None
    return BEHIND_RELU if _is_relu(node) else None


def _is_relu(node: ir.Node) -> bool:
    """Whether a node, or the activation that it ends with, makes zeros of what is negative."""
    if node.domain:
        activation, least = node.attributes.get_string("activation", "none"), node.attributes.get_float("alpha", 0.0)
        return activation == "relu" or (activation == "clip" and least == 0.0)
    return node.op_type == "Relu" or (node.op_type == "Clip" and scalar(optional(node, 1)) == 0.0)
