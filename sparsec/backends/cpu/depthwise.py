"""Lowering of a depthwise sparsec::Conv; its weight is small and stays dense."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.weights import bias_vector, epilogue_of, residual, spatial, window
from sparsec.cost.plan import CHOICE
from sparsec.graph.layout import image_of
from sparsec.graph.nodes import is_depthwise, operand, operator_of, weight_array
from sparsec.kernels.cpu.images import depthwise
from sparsec.kernels.cpu.images.window import Window
from sparsec.kernels.cpu.products.layer import Behind


def params_of(node: ir.Node) -> depthwise.DepthwiseParams:
    """The kernel's parameters, from the node's layouts, window and epilogue."""
    kernel, begins = window(node)
    sliding = Window(image_of(node.inputs[0]), image_of(node.outputs[0]), kernel, spatial(node, "strides", 1),
                     spatial(node, "dilations", 1), begins)
    return depthwise.DepthwiseParams(sliding, epilogue_of(node))


def reader(node: ir.Node) -> ir.Node | None:
    """The depthwise convolution that alone reads a convolution's output, None where there is none."""
    value = node.outputs[0]
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    found, place = uses[0].node, uses[0].idx
    reads = operator_of(found) == operator_of(node) and is_depthwise(found) and place == 0
    return found if reads and found.graph is node.graph else None


def behind(node: ir.Node) -> Behind | None:
    """The depthwise convolution behind a 1x1 convolution, where one kernel may compute both."""
    other = reader(node)
    if other is None or residual(node) is not None or residual(other) is not None:
        return None
    if node.attributes.get_int("group", 1) != 1 or window(node) != ((1, 1), (0, 0)):
        return None
    return Behind(params_of(other), depthwise.pack(weight_array(other)), bias_vector(other))


def is_computed(node: ir.Node) -> bool:
    """Whether the kernel of the convolution in front of a depthwise one computes it as well."""
    producer = operand(node, 0).producer()
    choice = None if producer is None else CHOICE.get(producer)
    return choice is not None and choice.winner.option.joined


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the convolution."""
    params = params_of(node)
    constants = [depthwise.pack(weight_array(node)), bias_vector(node)]
    inputs = [context.flat(value) for value in (node.inputs[0], residual(node)) if value is not None]
    expr = context.call(depthwise.build(params, context.isa), [*map(context.constant, constants), *inputs],
                        params.window.target.size)
    context.bind(node.outputs[0], expr)
