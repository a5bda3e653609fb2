"""Rules for images, as those of `shapes`: what windows and scales make of the dimensions behind the channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.graph.constants import constant
from sparsec.graph.nodes import optional


def _spatial(node: ir.Node, image: Shape, kernel: Sequence[int], symbols: Symbols) -> Shape:
    """What windows leave of the dimensions of an image behind the channels."""
    rank = len(kernel)
    strides, dilations = (node.attributes.get_ints(name, ()) or [1] * rank for name in ("strides", "dilations"))
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    pads = node.attributes.get_ints("pads", ()) if mode == "NOTSET" else ()
    pads = pads or [0] * 2 * rank
    dims = []
    for axis, (size, width, stride, dilation) in enumerate(zip(image[2:], kernel, strides, dilations, strict=True)):
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            dims.append(symbols.quotient(size + Size.of(stride - 1), stride))
            continue
        rest = pads[axis] + pads[axis + rank] - dilation * (width - 1) - 1
        if node.attributes.get_int("ceil_mode", 0):
            if stride + pads[axis + rank] > dilation * (width - 1) + 1:  # the last window may begin behind the image
                dims.append(symbols.opaque())
                continue
            rest += stride - 1
        dims.append(symbols.quotient(size + Size.of(rest), stride) + Size.of(1))
    return tuple(dims)


def _conv(symbols: Symbols, node: ir.Node) -> Shape | None:
    image, weight = (symbols.shape(value) for value in node.inputs[:2])
    kernel = [] if weight is None else [size.number for size in weight[2:]]
    if image is None or weight is None or None in kernel:
        return None
    return image[0], weight[0], *_spatial(node, image, [size or 0 for size in kernel], symbols)


def _pool(symbols: Symbols, node: ir.Node) -> Shape | None:
    image, kernel = symbols.shape(node.inputs[0]), node.attributes.get_ints("kernel_shape", ())
    if image is None or not kernel:
        return None
    return *image[:2], *_spatial(node, image, kernel, symbols)


def _transposed(symbols: Symbols, node: ir.Node) -> Shape | None:
    image, weight = (symbols.shape(value) for value in node.inputs[:2])
    told = "output_shape" in node.attributes or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    if image is None or weight is None or told:
        return None
    rank = len(image) - 2
    strides, dilations = (node.attributes.get_ints(name, ()) or [1] * rank for name in ("strides", "dilations"))
    pads, more = node.attributes.get_ints("pads", ()) or [0] * 2 * rank, node.attributes.get_ints(
        "output_padding", ()) or [0] * rank
    spatial = [size * Size.of(strides[axis]) + Size.of(dilations[axis]) * (weight[2 + axis] - Size.of(1))
               + Size.of(1 - strides[axis] + more[axis] - pads[axis] - pads[axis + rank])
               for axis, size in enumerate(image[2:])]
    return image[0], weight[1] * Size.of(node.attributes.get_int("group", 1) or 1), *spatial


def _resized(symbols: Symbols, node: ir.Node) -> Shape | None:
    image = symbols.shape(node.inputs[0])
    if image is None or node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    axes = [axis % len(image) for axis in node.attributes.get_ints("axes", ()) or range(len(image))]
    sizes, scales, dims = symbols.integers(optional(node, 3)), constant(optional(node, 2)), list(image)
    if sizes is not None and len(sizes) == len(axes):
        for axis, size in zip(axes, sizes, strict=True):
            dims[axis] = size
        return tuple(dims)
    if scales is None or scales.size != len(axes):
        return None
    for axis, scale in zip(axes, scales.tolist(), strict=True):
        if scale >= 1 and float(scale).is_integer():
            dims[axis] = image[axis] * Size.of(int(scale))
        elif 0 < scale < 1 and (1 / scale).is_integer():
            dims[axis] = symbols.quotient(image[axis], int(1 / scale))
        else:
            return None
    return tuple(dims)


def _global(symbols: Symbols, node: ir.Node) -> Shape | None:
    image = symbols.shape(node.inputs[0])
    return None if image is None else (*image[:2], *[Size.of(1)] * (len(image) - 2))


def _same(symbols: Symbols, node: ir.Node) -> Shape | None:
    return symbols.shape(node.inputs[0])


SHAPES: dict[str, Callable[[Symbols, ir.Node], Shape | None]] = {
    "Conv": _conv, "ConvTranspose": _transposed, "Resize": _resized,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN"), _same),
}
"""The shape of an operator's first output."""
