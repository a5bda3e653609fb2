"""Sizes that weights imply where a file leaves them open: channels of a convolution's input, inputs of a product."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from sparsec.graph.nodes import optional
from sparsec.graph.shapes import static_shape

Size = tuple[ir.Value, int, int]  # a value, one of its axes, and how long that is


def settle(model: ir.Model) -> bool:
    """Gives symbolic dimensions the sizes that constants imply, wherever their symbol stands; whether there are any."""
    symbols: dict[str | None, int] = {}
    found = False
    for node in model.graph.all_nodes():
        for value, place, size in _implied(node):
            axis = place % len(value.shape or (0,))
            dim = value.shape[axis] if value.shape is not None else size
            if isinstance(dim, ir.SymbolicDim) and value.shape is not None:
                symbols[dim.value] = size
                value.shape = ir.Shape([size if i == axis else each for i, each in enumerate(value.shape)])
                found = True
    symbols.pop(None, None)
    values = [*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]
    for value in values if symbols else ():
        if value.shape is not None:
            value.shape = ir.Shape([symbols.get(dim.value, dim) if isinstance(dim, ir.SymbolicDim) else dim
                                    for dim in value.shape])
    return found


def _implied(node: ir.Node) -> Iterator[Size]:
    """The sizes of a node's first two inputs that the constants among its inputs tell."""
    x, rule = optional(node, 0), RULES.get(node.op_type)
    if node.domain == "" and rule is not None and x is not None and x.shape is not None:
        yield from rule(node, x)


def _of_convolution(node: ir.Node, x: ir.Value) -> Iterator[Size]:
    weight = static_shape(optional(node, 1))
    if weight is not None:
        transposed = node.op_type == "ConvTranspose"
        yield x, 1, weight[0] if transposed else weight[1] * (node.attributes.get_int("group", 1) or 1)


def _of_channels(node: ir.Node, x: ir.Value) -> Iterator[Size]:
    scale = static_shape(optional(node, 1))
    if scale is not None:
        yield x, 1, scale[0]


def _of_product(node: ir.Node, x: ir.Value) -> Iterator[Size]:
    turned = [bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB")]
    w = optional(node, 1)
    right, left = static_shape(w), static_shape(x)
    if right is not None and len(x.shape or ()) > 1 and len(right) > 1:
        yield x, -2 if turned[0] else -1, right[-1 if turned[1] else -2]
    elif left is not None and w is not None and w.shape is not None and len(left) > 1 and len(w.shape) > 1:
        yield w, -1 if turned[1] else -2, left[-2 if turned[0] else -1]


RULES = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _of_convolution), **dict.fromkeys(("MatMul", "Gemm"), _of_product),
    **dict.fromkeys(("BatchNormalization", "GroupNormalization", "InstanceNormalization"), _of_channels),
}
"""(node, its first input) -> what the constants among its inputs say of it and of the second."""
