"""Reading nodes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph.shapes import static_shape

LAYERS = ("Conv", "ConvTranspose", "DeformConv", "Einsum", "Gemm", "GRU", "LSTM", "MatMul", "RNN")
"""ONNX's operators on floats that have weights worth pruning."""
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
"""Those that draw random numbers."""


def operand(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator cannot do without."""
    value = node.inputs[index]
    assert value is not None
    return value


def optional(node: ir.Node, index: int) -> ir.Value | None:
    """An input that may be absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def weight_array(node: ir.Node) -> np.ndarray:
    """The constant weight of a layer, its second input, as it stands in the graph."""
    value = operand(node, 1)
    assert value.const_value is not None  # passes make layers of constant weights only
    return value.const_value.numpy()


def weight_facts(node: ir.Node) -> dict[Hashable, Any]:
    """What has been found out of a layer's weight, by every layer that has it."""
    tensor = operand(node, 1).const_value
    assert tensor is not None
    facts: dict[Hashable, Any] = tensor.meta.setdefault("sparsec.facts", {})
    return facts


def operator_of(node: ir.Node) -> str:
    """The operator as "domain::name", without a domain for ONNX's own."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def is_depthwise(node: ir.Node) -> bool:
    """Whether every channel of a convolution is a group of its own, with one output channel."""
    outputs, per_group, *_ = static_shape(node.inputs[1]) or (0, 0)
    return per_group == 1 and node.attributes.get_int("group", 1) == outputs > 1


def on_the_left(node: ir.Node) -> bool:
    """Whether the weight of a sparsec::MatMul multiplies columns."""
    return node.attributes.get_string("side", "right") == "left"


def node_name(node: ir.Node) -> str:
    """The node's name, or that of its first output."""
    return node.name or str(node.outputs[0].name)


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that are attributes of a node: branches and bodies of loops."""
    for attribute in node.attributes.values():
        if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def read_by(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, and what the graphs inside it read of those around."""
    yield from (value for value in node.inputs if value is not None)
    for graph in bodies(node):
        own = {*graph.inputs, *graph.initializers.values(), *(value for each in graph for value in each.outputs)}
        inside = (value for each in graph for value in read_by(each))
        yield from (value for value in (*inside, *graph.outputs) if value not in own)
