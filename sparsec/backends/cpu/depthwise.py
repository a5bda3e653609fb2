"""Lowering of a depthwise sparsec::Conv; its weight is small and stays dense."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.weights import bias_vector, epilogue_of, residual, spatial, window
from sparsec.graph.layout import image_of
from sparsec.graph.nodes import weight_array
from sparsec.kernels.cpu.images import depthwise
from sparsec.kernels.cpu.images.window import Window


def params_of(node: ir.Node) -> depthwise.DepthwiseParams:
    """The kernel's parameters, from the node's layouts, window and epilogue."""
    kernel, begins = window(node)
    sliding = Window(image_of(node.inputs[0]), image_of(node.outputs[0]), kernel, spatial(node, "strides", 1),
                     spatial(node, "dilations", 1), begins)
    return depthwise.DepthwiseParams(sliding, epilogue_of(node))


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the convolution."""
    params = params_of(node)
    constants = [depthwise.pack(weight_array(node)), bias_vector(node)]
    inputs = [context.flat(value) for value in (node.inputs[0], residual(node)) if value is not None]
    expr = context.call(depthwise.build(params, context.isa), [*map(context.constant, constants), *inputs],
                        params.window.target.size)
    context.bind(node.outputs[0], expr)
