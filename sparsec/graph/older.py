"""What ONNX's version converter forgets about operators of older opsets, which it takes for their newer namesakes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

SAMPLERS = ("Resize", "Upsample")


def preserve(model: ir.Model) -> Callable[[], None]:
    """Prepare a model for the converter; what this returns finishes the converted model.

    Before opset 13, Hardmax takes all axes from its own on as one. Before opset 11, Resize and Upsample sample at
    output / scale, and nearest is the pixel below. Before opset 9, BatchNormalization may have parameters for every
    position, not for channels only.
    """
    version = model.graph.opset_imports[""]
    for node in list(model.graph.all_nodes()):
        if node.domain == "" and node.op_type == "Hardmax" and version < 13:
            _flatten(node)
        elif node.domain == "" and node.op_type == "BatchNormalization" and version < 9:
            _by_positions(node)
    sampled = len(_samplers(model)) if version < 11 else 0

    def finish() -> None:
        for node in _samplers(model)[:sampled]:  # all of them: the converter adds none
            node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
            node.attributes.add(ir.AttrString("nearest_mode", "floor"))

    return finish


def _samplers(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph.all_nodes() if node.domain == "" and node.op_type in SAMPLERS]


def _flatten(node: ir.Node) -> None:
    """Hardmax of a matrix between Flatten and Reshape, which is the same in every opset."""
    x = node.inputs[0]
    shape = ir.node("Shape", [x])
    matrix = ir.node("Flatten", [x], {"axis": node.attributes.get_int("axis", 1) or 0})
    hard = ir.node("Hardmax", [matrix.outputs[0]], {"axis": 1})
    back = ir.node("Reshape", [hard.outputs[0], shape.outputs[0]], name=node.name)
    for each in (shape, matrix, hard, back):
        node.prepend(each)
    take_over(node, back.outputs[0])


def _by_positions(node: ir.Node) -> None:
    """BatchNormalization with parameters for every position of a sample, written out."""
    if node.attributes.get_int("spatial", 1) or any(output.name for output in node.outputs[1:]):
        return
    x, scale, offset, mean, variance = node.inputs
    epsilon = ir.tensor(np.array([node.attributes.get_float("epsilon", 1e-5)], np.float32))

    def put(op_type: str, *inputs: ir.Value | None, **attributes: ir.TensorProtocol) -> ir.Value:
        new = ir.node(op_type, list(inputs), attributes)
        node.prepend(new)
        return new.outputs[0]

    spread = put("Sqrt", put("Add", variance, put("Constant", value=epsilon)))
    take_over(node, put("Add", put("Mul", put("Div", put("Sub", x, mean), spread), scale), offset))


def take_over(node: ir.Node, value: ir.Value) -> None:
    """Let a value stand for a node's only output, name, type and shape included, and remove the node."""
    y = node.outputs[0]
    y.replace_all_uses_with(value, replace_graph_outputs=True)
    name, y.name = y.name, None
    value.name, value.type, value.shape = name, y.type, y.shape
    assert node.graph is not None
    node.graph.remove(node, safe=True)
