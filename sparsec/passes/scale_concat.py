"""Joined images that one BatchNorm reads become `sparsec::ScaledConcat`: they are scaled as they are copied.

    Conv(Concat(x, y, ...), w) of one tap and one channel a group -> ScaledConcat(w, b, x, y, ...)

A dense block joins all images before every layer (Huang et al. 2017, "Densely Connected Convolutional Networks", 3).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.graph import operators
from sparsec.graph.constants import add_constant, constant
from sparsec.graph.nodes import is_depthwise, node_name, optional
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Report


def run(model: ir.Model, context: Context) -> Report:
    """Fuses what it can, in place, for targets with layouts of images."""
    count = 0
    if context.target.lanes:
        layers = [node for node in model.graph if node.domain == operators.DOMAIN and node.op_type == "Conv"]
        count = sum(_fused(model.graph, node, context) for node in layers)
    if count:
        rewrite.clean(model)
    return Report("scale_concat", bool(count), {"scaled": count} if count else {})


def _fused(graph: ir.Graph, node: ir.Node, context: Context) -> bool:
    """Puts one node in the place of a concatenation and what scales its channels; whether it could."""
    x, weight, bias = node.inputs[0], constant(node.inputs[1]), constant(optional(node, 2))
    joined = None if x is None else x.producer()
    if joined is None or weight is None or joined.op_type != "Concat" or joined.domain or not _scales(node) or \
            rewrite.only_use(joined.outputs[0]) is not node or context.spared.reason(joined) is not None or \
            joined.attributes.get_int("axis", 0) not in (1, -3):
        return False
    name, scale = node_name(node), weight.reshape(-1).astype(np.float32)
    shift = np.zeros_like(scale) if bias is None else bias.astype(np.float32)
    kept = [node.attributes[key] for key in ("activation", "alpha", "beta") if key in node.attributes]
    made = ir.Node(operators.DOMAIN, "ScaledConcat", [
        add_constant(graph, f"{name}.scale", scale), add_constant(graph, f"{name}.shift", shift), *joined.inputs],
        kept, name=node.name)
    node.prepend(made)
    rewrite.take_over(made.outputs[0], node.outputs[0])
    graph.remove(node, safe=True)
    return True


def _scales(node: ir.Node) -> bool:
    """Whether a convolution gives every channel of an image a scale and an offset, and no more."""
    get, shape = node.attributes.get_ints, static_shape(node.inputs[1]) or ()
    return is_depthwise(node) and shape[2:] == (1, 1) and optional(node, 3) is None and \
        not any(get("pads", ())) and all(each == 1 for each in get("strides", ()))
