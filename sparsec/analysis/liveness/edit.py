"""Small edits of a graph in onnx-ir."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.analysis.liveness.facts import Array
from sparsec.graph.constants import add_constant
from sparsec.graph.large import replacing
from sparsec.graph.nodes import optional
from sparsec.graph.quantized import dequantized


def set_data(value: ir.Value, data: Array) -> None:
    """New data, of any shape, for an initializer."""
    value.const_value = replacing(value.const_value, data, value.name)
    value.shape = ir.Shape(data.shape)


def set_weight(value: ir.Value, data: Array) -> None:
    """New numbers for a weight; codes are those that stand for them."""
    codes, node = dequantized(value), value.producer()
    if codes is None or node is None:
        set_data(value, data)
        return
    stored = node.inputs[0]
    assert stored is not None
    set_data(stored, codes.encode(data))
    value.shape = ir.Shape(data.shape)


def replace_input(node: ir.Node, index: int, data: Array) -> None:
    """Gives a node an input with this data; other users of the old one keep it."""
    old = optional(node, index)
    if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
        set_data(old, data)
        return
    assert node.graph is not None
    base = old.name if old is not None and old.name else f"{node.outputs[0].name}_{node.op_type}_{index}"
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, add_constant(node.graph, base, data))
