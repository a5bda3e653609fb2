"""Lowering of a depthwise sparsec::Conv; its weight is small and stays dense."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.cpu.joining import is_computed, reader
from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.weights import bias_vector, epilogue_of, residual, spatial, window
from sparsec.graph.layout import image_of
from sparsec.graph.nodes import is_depthwise, operator_of, weight_array
from sparsec.kernels.cpu.images import depthwise
from sparsec.kernels.cpu.images.window import Window
from sparsec.kernels.cpu.products.layer import Behind


def params_of(node: ir.Node) -> depthwise.DepthwiseParams:
    """The kernel's parameters, from the node's layouts, window and epilogue."""
    kernel, begins = window(node)
    sliding = Window(image_of(node.inputs[0]), image_of(node.outputs[0]), kernel, spatial(node, "strides", 1),
                     spatial(node, "dilations", 1), begins)
    return depthwise.DepthwiseParams(sliding, epilogue_of(node))


def behind(node: ir.Node) -> Behind | None:
    """The depthwise convolution behind a 1x1 convolution, where one kernel may compute both."""
    other = reader(node)
    if other is None or operator_of(other) != operator_of(node) or not is_depthwise(other):
        return None
    if residual(node) is not None or residual(other) is not None:
        return None
    if node.attributes.get_int("group", 1) != 1 or window(node) != ((1, 1), (0, 0)):
        return None
    return Behind(params_of(other), depthwise.pack(weight_array(other)), bias_vector(other))


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the convolution, unless the kernel in front computes it."""
    if is_computed(node):
        return
    params = params_of(node)
    constants = [depthwise.pack(weight_array(node)), bias_vector(node)]
    inputs = [context.flat(value) for value in (node.inputs[0], residual(node)) if value is not None]
    expr = context.call(depthwise.build(params, context.isa), [*map(context.constant, constants), *inputs],
                        params.window.target.size)
    context.bind(node.outputs[0], expr)
