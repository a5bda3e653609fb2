"""Constants that follow from weights of large models: one weight in memory at a time.

What moves or casts elements follows from the weight whenever it is read; other results lie in temporary files.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsec.analysis.liveness.node import evaluate, is_constant
from sparsec.graph.constants import constant
from sparsec.graph.large import Change, derived, is_large, replacing
from sparsec.graph.nodes import operand
from sparsec.graph.shapes import static_shape

KEPT = ("DequantizeLinear", "QuantizeLinear", "Constant", "Loop", "If", "Scan", "Dropout", "RandomNormalLike",
        "RandomUniformLike", "Bernoulli", "Multinomial")
"""Operators that stay: passes for quantised layers look for the first two."""
FLOAT_BITS = 16
"""Of a float that numpy casts as ONNX does; narrower ones saturate."""
SHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


def fold_large(graph: ir.Graph, affords: Callable[[ir.Node], bool | None]) -> int:
    """Folds, in place, nodes of constants among which a large one is; returns how many."""
    folded = 0
    for node in list(graph):
        tensor = _tensor(node, affords) if _is_foldable(node) else None
        if tensor is None:
            continue
        old = node.outputs[0]
        name, old.name = str(old.name), None
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(tensor.shape.numpy()),
                         type=ir.TensorType(tensor.dtype))
        graph.register_initializer(value)
        old.replace_all_uses_with(value)
        graph.remove(node, safe=True)
        folded += 1
    return folded


def _is_foldable(node: ir.Node) -> bool:
    present = [value for value in node.inputs if value is not None]
    return (not node.domain and node.op_type not in KEPT and len(node.outputs) == 1
            and not node.outputs[0].is_graph_output() and all(map(is_constant, present))
            and any(is_large(value.const_value) for value in present))


def _tensor(node: ir.Node, affords: Callable[[ir.Node], bool | None]) -> ir.TensorProtocol | None:
    """The tensor that a node computes; None where its shape is not known, or it is too large."""
    out, source = node.outputs[0], node.inputs[0]
    shape, dtype = static_shape(out), out.dtype
    if shape is None or dtype is None or source is None or source.const_value is None:
        return None
    change = _change(node, shape, dtype)
    if change is not None:
        return derived(source.const_value, change, shape, dtype, out.name)
    if not affords(node):
        return None
    array = evaluate(node, [constant(value) for value in node.inputs])
    largest = next(value.const_value for value in node.inputs if value is not None and is_large(value.const_value))
    return None if array is None else replacing(largest, array, out.name)


def _change(node: ir.Node, shape: tuple[int, ...], dtype: ir.DataType) -> Change | None:
    """What an operator that only moves or casts its first input makes of an array; None for others."""
    if node.op_type in SHAPING:
        return lambda array: array.reshape(shape)
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", None)
        return lambda array: array.transpose(order)
    source, narrow = operand(node, 0).dtype, dtype.numpy()
    floats = all(each is not None and each.is_floating_point() and each.bitwidth >= FLOAT_BITS
                 for each in (source, dtype))
    return (lambda array: array.astype(narrow, copy=False)) if node.op_type == "Cast" and floats else None
