"""What follows a product of integers in codes moves into it: an addition (the residual), and tables that only clamp."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import constant
from sparsec.graph.operators.products import RESIDUAL, X_SCALE
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite

LAYERS = ("QConv", "QMatMul")
CLAMPED = (*LAYERS, "QAveragePool", "QBatchMatMul", "QBinary")


def run(graph: ir.Graph) -> int:
    """Fuses in place; returns how often."""
    count = 0
    for node in list(graph):
        if node.graph is None or node.domain != DOMAIN:
            continue
        if (node.op_type == "Lookup" and _clamp(node)) or (node.op_type == "QBinary" and _residual(node)):
            count += 1
    return count


def _layer(value: ir.Value | None, reader: ir.Node) -> ir.Node | None:
    """The layer whose codes only one node reads, if it has room for a residual."""
    node = None if value is None else value.producer()
    if node is None or value is None or node.domain != DOMAIN or node.op_type not in LAYERS:
        return None
    free = len(node.inputs) <= RESIDUAL or (node.inputs[RESIDUAL] is None and len(node.inputs) <= X_SCALE)
    is_quantized = node.attributes.get_string("y_type", "uint8") != "float32"
    return node if free and is_quantized and rewrite.only_use(value) is reader else None


def _residual(node: ir.Node) -> bool:
    """Layer, then QBinary add: the layer takes the other operand."""
    graph = node.graph
    if node.attributes.get_string("function") != "add" or graph is None:
        return False
    shape = static_shape(node.outputs[0])
    order = {each: index for index, each in enumerate(graph)}
    found = [(layer, letter, other) for letter, index, other in (("a", 0, 1), ("b", 1, 0))
             if (layer := _layer(node.inputs[index], node)) is not None
             and static_shape(node.inputs[index]) == shape]
    if not found:
        return False
    layer, letter, other = max(found, key=lambda each: order[each[0]])
    mine, theirs = node.attributes, layer.attributes
    far = "b" if letter == "a" else "a"
    attributes = {
        "p_type": theirs.get_string("y_type"), "p_scale": mine.get_float(f"{letter}_scale", 1.0),
        "p_zero_point": mine.get_int(f"{letter}_zero_point", 0), "p_low": theirs.get_int("low", -128),
        "p_high": theirs.get_int("high", 255), "r_scale": mine.get_float(f"{far}_scale", 1.0),
        "r_zero_point": mine.get_int(f"{far}_zero_point", 0),
        **{name: mine[name].value for name in ("y_type", "y_scale", "y_zero_point", "low", "high") if name in mine}}
    for attribute in ir.convenience.convert_attributes(attributes):
        layer.attributes.add(attribute)
    residual = node.inputs[other]
    if len(layer.inputs) <= RESIDUAL:
        layer.resize_inputs(RESIDUAL + 1)
    layer.replace_input_with(RESIDUAL, residual)
    graph.remove(layer)
    node.prepend(layer)
    rewrite.take_over(layer.outputs[0], node.outputs[0])
    graph.remove(node, safe=True)
    return True


def _clamp(node: ir.Node) -> bool:
    """Operator, then a table that leaves codes alone between two bounds: the operator takes the bounds."""
    value, table = node.inputs[0], constant(node.inputs[1])
    before = None if value is None else value.producer()
    if before is None or value is None or table is None or before.domain != DOMAIN or before.op_type not in CLAMPED:
        return False
    if rewrite.only_use(value) is not node or value.dtype is None or table.dtype != value.dtype.numpy():
        return False
    info = np.iinfo(table.dtype)
    codes = np.arange(info.min, info.max + 1)
    low, high = int(table.min()), int(table.max())
    if not np.array_equal(table, np.clip(codes, low, high)):
        return False
    attributes = before.attributes
    bounds = {"low": int(np.clip(attributes.get_int("low", -128), low, high)),
              "high": int(np.clip(attributes.get_int("high", 255), low, high))}
    for attribute in ir.convenience.convert_attributes(bounds):
        attributes.add(attribute)
    assert node.graph is not None
    rewrite.take_over(value, node.outputs[0])
    node.graph.remove(node, safe=True)
    return True
