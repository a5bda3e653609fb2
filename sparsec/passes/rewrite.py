"""Small steps that passes share: reading constants, following uses, replacing nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass

from sparsec.graph import operators
from sparsec.graph.constants import constant


def only_use(value: ir.Value) -> ir.Node | None:
    """The one node that reads the value, or None if there are several uses or the value is a graph output."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def silu(y: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """The product and the Sigmoid of y * sigmoid(y), which alone read y; None where something else does."""
    readers = {user.op_type: user for user in y.consumers() if not user.domain}
    if y.is_graph_output() or len(y.uses()) != 2 or set(readers) != {"Mul", "Sigmoid"}:
        return None
    product, sigmoid = readers["Mul"], readers["Sigmoid"]
    return (product, sigmoid) if only_use(sigmoid.outputs[0]) is product else None


def batch_norm(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and offset in float64 of a BatchNormalization by constants; None in training, with its further outputs."""
    gamma, beta, mean, variance = (constant(value) for value in node.inputs[1:5])
    if gamma is None or beta is None or mean is None or variance is None or len(node.outputs) > 1:
        return None
    scale = gamma / np.sqrt(variance.astype(np.float64) + node.attributes.get_float("epsilon", 1e-5))
    return scale, beta - mean * scale


def take_over(value: ir.Value, old: ir.Value) -> None:
    """Puts `value` in the place of `old` everywhere, under its name, shape and type."""
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    name, old.name = old.name, None
    value.name, value.shape, value.type = name, old.shape, old.type


def clean(model: ir.Model) -> None:
    """Drops what no output needs, names everything once and imports the `sparsec` operators where they occur."""
    RemoveUnusedNodesPass()(model)
    NameFixPass()(model)
    if any(node.domain == operators.DOMAIN for node in model.graph):
        model.graph.opset_imports[operators.DOMAIN] = operators.VERSION
