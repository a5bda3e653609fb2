"""Lowering of sparsec::Conv on images whose channels come last: a row of the product for every pixel.

1x1 convolutions of stride 1 read the image as it lies; for others the windows are laid out as rows first, in the order
(kernel..., channels). Grouped convolutions have too little reuse for tensor cores and run in float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.cpu.weights import bias_vector, chosen, epilogue_of, residual, weight_array
from sparsec.backends.cuda.context import CudaContext
from sparsec.backends.cuda.products import Layer, emit
from sparsec.backends.importer.node import compute
from sparsec.graph.shapes import static_shape
from sparsec.kernels.activations import ACTIVATIONS

GROUPED = "grouped: too little reuse for tensor cores"


def layer_of(node: ir.Node) -> Layer | None:
    """The convolution as a product, None for a grouped one."""
    weight = weight_array(node)
    if node.attributes.get_int("group", 1) != 1:
        return None
    batch, _, *spatial = static_shape(node.outputs[0]) or ()
    matrix = np.moveaxis(weight, 1, -1).reshape(len(weight), -1)  # (outputs, kernel..., channels)
    return Layer(np.ascontiguousarray(matrix), bias_vector(node), batch * math.prod(spatial), epilogue_of(node))


def lower(context: CudaContext, node: ir.Node) -> bool:
    """Emit the convolution with the option that the plan chose."""
    layer, extra, shape = layer_of(node), residual(node), context.shape(node.outputs[0])
    last = (shape[0], *shape[2:], shape[1])
    added = None if extra is None else context.reshaped(context.image(extra), (math.prod(shape),))
    if layer is None:
        result = _grouped(context, node, added, last)
    else:
        rows = _windows(context, node, last)
        flat = context.reshaped(rows, (layer.columns * layer.weight.shape[1],))
        result = emit(context, layer, chosen(node), flat, added)
    context.bind_image(node.outputs[0], context.reshaped(result, last))
    return True


def _geometry(node: ir.Node, rank: int) -> tuple[Any, Any, Any]:
    """Strides, dilations, and the padding before each spatial axis."""
    ones = (1,) * rank
    pads = node.attributes.get_ints("pads", (0,) * 2 * rank)
    return node.attributes.get_ints("strides", ones), node.attributes.get_ints("dilations", ones), pads[:rank]


def _windows(context: CudaContext, node: ir.Node, last: tuple[int, ...]) -> relax.Expr:
    """What the kernel sees at every pixel of the output: (batch, *output, *kernel, channels)."""
    kernel, rank = weight_array(node).shape[2:], len(last) - 2
    strides, dilations, before = _geometry(node, rank)
    image, dims = context.image(node.inputs[0]), context.shape(node.inputs[0])
    if set(kernel) == set(strides) == {1} and dims[2:] == last[1:-1] and not any(before):
        return image

    def element(i: Any, x: te.Tensor) -> Any:
        taps = zip(i[1:1 + rank], i[1 + rank:1 + 2 * rank], strides, dilations, before, strict=True)
        return _pixel(x, i[0], [o * s + t * d - b for o, t, s, d, b in taps], i[-1], dims[2:])

    return compute(context, "windows", (*last[:-1], *kernel, dims[1]), element, image)


def _pixel(x: te.Tensor, batch: Any, at: list[Any], channel: Any, sizes: tuple[int, ...]) -> Any:
    """A pixel's channel, zero outside the image."""
    inside = [condition for position, size in zip(at, sizes, strict=True)
              for condition in (position >= 0, position < size)]
    return tirx.if_then_else(tirx.all(*inside), x[(batch, *at, channel)], tirx.const(0, x.dtype))


def _grouped(context: CudaContext, node: ir.Node, added: relax.Expr | None, last: tuple[int, ...]) -> relax.Expr:
    """A grouped convolution with its epilogue, sums in float32."""
    weight, rank = weight_array(node), len(last) - 2
    strides, dilations, before = _geometry(node, rank)
    dims, epilogue = context.shape(node.inputs[0]), epilogue_of(node)
    outputs = weight.shape[0] // node.attributes.get_int("group", 1)  # of a group
    axes = [te.reduce_axis((0, size), name=f"r{number}") for number, size in enumerate(weight.shape[1:])]

    def total(i: Any, x: te.Tensor, w: te.Tensor) -> Any:
        taps = zip(i[1:-1], axes[1:], strides, dilations, before, strict=True)
        pixel = _pixel(x, i[0], [o * s + t * d - b for o, t, s, d, b in taps],
                       i[-1] // outputs * weight.shape[1] + axes[0], dims[2:])
        return te.sum(pixel.astype("float32") * w[(i[-1], *axes)], axis=axes)

    def finish(i: Any, y: te.Tensor, bias: te.Tensor, *extra: te.Tensor) -> Any:
        value = y[i] + bias[i[-1]]
        value = value + extra[0][i].astype("float32") if extra else value
        return ACTIVATIONS[epilogue.activation](value, 1, epilogue.alpha, epilogue.beta).astype(context.half)

    sums = compute(context, "grouped_conv", last, total, context.image(node.inputs[0]), context.constant(weight))
    extra = [] if added is None else [context.reshaped(added, last)]
    return compute(context, "epilogue", last, finish, sums, context.constant(bias_vector(node)), *extra)
