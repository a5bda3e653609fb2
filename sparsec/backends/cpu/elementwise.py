"""Lowering of elementwise operators and concatenation of channels over the padded flat layout."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.activations import ACTIVATIONS
from sparsec.graph.layout import PaddedFlat, Tiled, image_of, layout_of
from sparsec.kernels.cpu.images import channels_padded, elementwise_padded
from sparsec.kernels.cpu.images.elementwise_padded import ElementwiseParams, ScaleParams
from sparsec.kernels.emit.epilogue import Epilogue

ON_TOKENS = {"Add": relax.op.add, "Sub": relax.op.subtract, "Mul": relax.op.multiply, "Div": relax.op.divide}


def lower_activation(context: LoweringContext, node: ir.Node) -> None:
    """Emit an activation of images."""
    activation = ACTIVATIONS[node.op_type](node)
    if activation is None:
        raise UnsupportedOperatorError("its parameters are not constants")
    source, target = (image_of(value) for value in (node.inputs[0], node.outputs[0]))
    params = ElementwiseParams((source,), target, epilogue=Epilogue(*activation))
    _call(context, node, elementwise_padded.build(params, context.isa), [context.flat(node.inputs[0])])


def lower_binary(context: LoweringContext, node: ir.Node) -> None:
    """Emit arithmetic on two images, an image and a number for each of its channels, or two sets of tokens."""
    layouts = [context.layout(value) for value in node.inputs]
    images = tuple(layout for layout in layouts if isinstance(layout, PaddedFlat))
    if isinstance(layout_of(node.outputs[0]), Tiled):
        expr = ON_TOKENS[node.op_type](*(context.flat(value) for value in node.inputs))
        context.bind(node.outputs[0], context.bb.emit(expr))
    elif len(images) == len(layouts):
        params = ElementwiseParams(images, image_of(node.outputs[0]), node.op_type)
        kernel = elementwise_padded.build(params, context.isa)
        _call(context, node, kernel, [context.flat(value) for value in node.inputs])
    else:
        _lower_scale(context, node, image_of(node.outputs[0]))


def _lower_scale(context: LoweringContext, node: ir.Node, target: PaddedFlat) -> None:
    """An image times, or plus, a number for each channel, or for each channel of each image."""
    image = next(i for i, value in enumerate(node.inputs) if isinstance(context.layout(value), PaddedFlat))
    factors = node.inputs[1 - image]
    per_image = math.prod(context.shape(factors)) != target.channels
    count = target.channels * (target.batch if per_image else 1)
    other = context.flat(factors)
    neutral = context.constant(np.full(count, float(node.op_type == "Add"), np.float32))
    terms = [neutral, other] if node.op_type == "Add" else [other, neutral]
    params = ScaleParams(image_of(node.inputs[image]), target, per_image)
    kernel = elementwise_padded.build_scale(params, context.isa)
    _call(context, node, kernel, [*terms, context.flat(node.inputs[image])])


def lower_concat(context: LoweringContext, node: ir.Node) -> None:
    """Emit a concatenation of channels."""
    layouts = [image_of(value) for value in node.inputs]
    target = image_of(node.outputs[0])
    isa = context.isa if target.dtype == "float32" else context.isa.bytewise
    kernel = channels_padded.build_concat(layouts, target, isa)
    _call(context, node, kernel, [context.flat(value) for value in node.inputs])


def lower_scaled_concat(context: LoweringContext, node: ir.Node) -> None:
    """Emit a concatenation of channels that are scaled, shifted and activated."""
    layouts = [image_of(value) for value in node.inputs[2:]]
    epilogue = Epilogue(node.attributes.get_string("activation", "none"), node.attributes.get_float("alpha", 0.0),
                        node.attributes.get_float("beta", 0.0))
    kernel = channels_padded.build_concat(layouts, image_of(node.outputs[0]), context.isa, epilogue)
    _call(context, node, kernel, [context.flat(value) for value in node.inputs])


def _call(context: LoweringContext, node: ir.Node, kernel: object, inputs: list[relax.Expr]) -> None:
    output = node.outputs[0]
    layout = image_of(output)
    context.bind(output, context.call(kernel, inputs, layout.size, dtype=layout.dtype))
