"""Reading nodes."""

from __future__ import annotations

import onnx_ir as ir


def operand(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator cannot do without."""
    value = node.inputs[index]
    assert value is not None
    return value


def node_label(node: ir.Node) -> str:
    """The node's name, or that of its first output."""
    return node.name or str(node.outputs[0].name)
