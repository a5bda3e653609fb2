"""Lowering of sparsec::Conv on images whose channels come last: a row of the product for every pixel.

The kernels read the windows of a convolution from the image, their features in the order (kernel row, kernel column,
channel). Grouped convolutions have too little reuse for tensor cores and run in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.cuda import coded
from sparsec.backends.cuda.context import CudaContext
from sparsec.backends.cuda.products import emit
from sparsec.backends.relax.importer.node import compute
from sparsec.backends.relax.weights import bias_vector, epilogue_of, residual
from sparsec.graph.nodes import weight_array, weight_facts
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.cuda.params import Window
from sparsec.kernels.emit.activations import ACTIVATIONS
from sparsec.kernels.emit.tir import Expr

COPIED = 4
"""Channels to a multiple of which images of few channels are padded, so that a copy brings several."""


def layer_of(node: ir.Node) -> GpuProduct | None:
    """The convolution as a product, None for a grouped one."""
    weight = weight_array(node)
    if node.attributes.get_int("group", 1) != 1:
        return None
    batch, _, *output = static_shape(node.outputs[0]) or ()
    matrix = np.pad(np.moveaxis(weight, 1, -1), [(0, 0)] * (weight.ndim - 1) + [(0, _missing(weight.shape[1]))])
    return GpuProduct(np.ascontiguousarray(matrix.reshape(len(matrix), -1)), bias_vector(node),
                      batch * math.prod(output), epilogue_of(node), _window(node), given=coded.given(node),
                      ranges=coded.ranges(node), written=coded.is_written(node), padded=coded.is_padded(node),
                      facts=weight_facts(node))


def lower(context: CudaContext, node: ir.Node) -> bool:
    """Emit the convolution with the option that the plan chose."""
    layer, extra, shape = layer_of(node), residual(node), context.shape(node.outputs[0])
    last = (shape[0], *shape[2:], shape[1])
    image = context.image(node.inputs[0]) if coded.read(node) is None else coded.place(context, node, image=True)
    added = None if extra is None else context.reshaped(context.image(extra), (math.prod(shape),))
    if layer is None:
        result = _grouped(context, node, image, added, last)
    else:
        if missing := _missing(context.shape(node.inputs[0])[1]):
            widths = [0] * (2 * len(last) - 1) + [missing]
            image = context.bb.emit(relax.op.nn.pad(image, widths))
        flat = context.reshaped(image, (math.prod(int(dim) for dim in image.ty.shape),))
        result = emit(context, node, layer, [flat] if added is None else [flat, added])
        if coded.bind(context, node, context.reshaped(result, last), image=True):
            return True
    context.bind_image(node.outputs[0], context.reshaped(result, last))
    return True


def _missing(channels: int) -> int:
    """Channels that an image is padded with."""
    return -channels % COPIED


def _window(node: ir.Node) -> Window | None:
    """How the kernel moves over the image; None where a pixel of the output reads the pixel of its own number."""
    image, output = (static_shape(value) or () for value in (node.inputs[0], node.outputs[0]))
    kernel = weight_array(node).shape[2:]
    strides, dilations, pads = _geometry(node, len(kernel))
    if set(kernel) == set(strides) == {1} and image[2:] == output[2:] and not any(pads):
        return None

    def plane(sizes: Sequence[int], filler: int) -> tuple[int, int]:
        rows, columns = (filler, *sizes)[-2:]  # a sequence is an image of one row
        return rows, columns

    height, width = plane(image[2:], 1)
    return Window((height, width, image[1] + _missing(image[1])), plane(kernel, 1), plane(output[2:], 1),
                  plane(strides, 1), plane(dilations, 1), plane(pads, 0))


def _geometry(node: ir.Node, rank: int) -> tuple[Sequence[int], ...]:
    """Strides, dilations, and the padding before each spatial axis."""
    ones = (1,) * rank
    pads = node.attributes.get_ints("pads", (0,) * 2 * rank)
    return node.attributes.get_ints("strides", ones), node.attributes.get_ints("dilations", ones), pads[:rank]


def _pixel(x: te.Tensor, batch: Expr, at: Sequence[Expr], channel: Expr, sizes: Sequence[int]) -> Expr:
    """A pixel's channel, zero outside the image."""
    inside = [condition for position, size in zip(at, sizes, strict=True)
              for condition in (position >= 0, position < size)]
    return tirx.if_then_else(tirx.all(*inside), x[(batch, *at, channel)], tirx.const(0, x.dtype))


def _grouped(context: CudaContext, node: ir.Node, image: relax.Expr, added: relax.Expr | None, last: tuple[int, ...],
             ) -> relax.Expr:
    """A grouped convolution with its epilogue, sums in float32."""
    weight, rank = weight_array(node), len(last) - 2
    strides, dilations, before = _geometry(node, rank)
    dims, epilogue = context.shape(node.inputs[0]), epilogue_of(node)
    outputs = weight.shape[0] // node.attributes.get_int("group", 1)  # of a group
    axes = [te.reduce_axis((0, size), name=f"r{number}") for number, size in enumerate(weight.shape[1:])]

    def total(i: Sequence[Expr], x: te.Tensor, w: te.Tensor) -> Expr:
        taps = zip(i[1:-1], axes[1:], strides, dilations, before, strict=True)
        pixel = _pixel(x, i[0], [o * s + t * d - b for o, t, s, d, b in taps],
                       i[-1] // outputs * weight.shape[1] + axes[0], dims[2:])
        return te.sum(pixel.astype("float32") * w[(i[-1], *axes)], axis=axes)

    def finish(i: Sequence[Expr], y: te.Tensor, bias: te.Tensor, *extra: te.Tensor) -> Expr:
        value = y[i] + bias[i[-1]]
        value = value + extra[0][i].astype("float32") if extra else value
        return ACTIVATIONS[epilogue.activation](value, 1, epilogue.alpha, epilogue.beta).astype(context.half)

    sums = compute(context, "grouped_conv", last, total, image, context.constant(weight))
    extra = [] if added is None else [context.reshaped(added, last)]
    return compute(context, "epilogue", last, finish, sums, context.constant(bias_vector(node)), *extra)
