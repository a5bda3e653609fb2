"""Convolutions of images of any size, transposed ones too: products of rows, kernels of their own, or by channel."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Shape
from sparsec.analysis.symbols.size import Size
from sparsec.compiler.sized.codes import source_of
from sparsec.compiler.sized.image_change import Attribute, Change, Packed, Windows, windows_of
from sparsec.compiler.sized.simplify import empty_like
from sparsec.graph.constants import constant
from sparsec.graph.nodes import is_depthwise, node_name, operand, optional
from sparsec.graph.quantized import Codes, dequantized
from sparsec.graph.sized import IM2COL, IM2COL_CODES, SIZED_DOMAIN

LARGEST = 1 << 26
"""Elements of the weight of a convolution of groups that is written with its zeros."""


def convolution(c: Change) -> bool:
    """Write a convolution of constant weights channels last; whether it could be."""
    x, weight, bias = operand(c.node, 0), _numbers(c.node.inputs[1]), _numbers(optional(c.node, 2))
    if weight is None or (optional(c.node, 2) is not None and bias is None) or weight.dtype != np.float32:
        return False
    codes, group = dequantized(c.node.inputs[1]), c.node.attributes.get_int("group", 1) or 1
    order = c.order(x)
    windows = windows_of(c.node, order, weight.shape[2:])
    shape, last = c.ordered(order), c.last(x, order)
    how = Windows.of(windows)
    if codes is None and group == 1 and _is_image(c.shape):
        turned = np.ascontiguousarray(weight.transpose(0, 1, *order[1:-1]))
        if (packed := c.pack(node_name(c.node), turned, how)) is not None:
            return _packed(c, last, windows, packed, np.zeros(len(weight), np.float32) if bias is None else bias)
    weight = weight.transpose(*order[1:-1], 1, 0)  # pixels of a window, channels, outputs
    if is_depthwise(c.node):
        taps = weight.reshape(-1, weight.shape[-1])
        more = np.zeros(taps.shape[1], np.float32) if bias is None else bias
        own = c.constant("taps", np.concatenate([taps.reshape(-1), more]))
        return c.finish(c.add("DepthwiseConv", [last, own], windows, shape, domain=SIZED_DOMAIN, name=c.node.name),
                        order)
    if group > 1:
        if group * weight.size > LARGEST:
            return False
        weight = _with_zeros(weight, group)
    matrix = weight.reshape(-1, weight.shape[-1])
    if codes is None or group > 1 or codes.axis not in (0, -1):
        last = last if how.pixel else c.add(
            "Im2col", [last], windows, (*shape[:-1], Size.of(len(matrix))), domain=SIZED_DOMAIN)
        factor = c.constant("matrix", np.ascontiguousarray(matrix))
    else:
        last = last if how.pixel else _windows_of_codes(c, last, windows, (*shape[:-1], Size.of(len(matrix))))
        factor = _dequantized_matrix(c, codes, order)
    out = c.add("MatMul", [last, factor], {}, shape, name=c.node.name)
    if bias is not None:
        out = c.add("Add", [out, c.constant("bias", bias)], {}, shape)
    return c.finish(out, order)


FEW = 16
"""Pixels of images of a known size up to which their convolutions are rows: those of several images make many."""


def _is_image(shape: Shape) -> bool:
    """Whether each image has many pixels, or as many as the run tells."""
    return any(size.number is None for size in shape[2:]) or math.prod(size.number or 1 for size in shape[2:]) > FEW


def _packed(c: Change, last: ir.Value, windows: Mapping[str, Attribute], packed: Packed, bias: np.ndarray) -> bool:
    order = c.order(operand(c.node, 0))
    own = c.constant("panels", np.concatenate([packed.values, bias]))
    given = {**windows, "vectors": packed.vectors, "outputs": len(bias)}
    return c.finish(c.add(packed.kind, [last, own], given, c.ordered(order), domain=SIZED_DOMAIN, name=c.node.name),
                    order)


def _numbers(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant, which may be stored as codes."""
    codes = dequantized(value)
    return constant(value) if codes is None else codes.values()


def _dequantized_matrix(c: Change, codes: Codes, order: tuple[int, ...]) -> ir.Value:
    """A weight that is stored as codes, of one scale or one by output, as a matrix of such."""
    matrix = codes.codes.transpose(*order[1:-1], 1, 0).reshape(-1, len(codes.codes))
    several = codes.axis == 0
    scale, zero = (np.broadcast_to(each, (len(codes.codes), *[1] * (codes.codes.ndim - 1))).reshape(-1) if several
                   else np.asarray(each).reshape(()) for each in (codes.scale, codes.zero_point))
    inputs = [c.constant("codes", np.ascontiguousarray(matrix)), c.constant("scale", np.ascontiguousarray(scale)),
              c.constant("zero", np.ascontiguousarray(zero.astype(codes.codes.dtype)))]
    return c.add("DequantizeLinear", inputs, {"axis": 1} if several else {}, tuple(map(Size.of, matrix.shape)))


def _windows_of_codes(c: Change, last: ir.Value, windows: Mapping[str, Attribute], shape: Shape) -> ir.Value:
    """The windows of an image that stands for codes: these are copied, and stand for the same behind that."""
    source = source_of(last)
    if source is None:
        return c.add(IM2COL, [last], windows, shape, domain=SIZED_DOMAIN)
    codes, parameters = operand(source, 0), source.inputs[1:]
    if last is not source.outputs[0]:
        moved = c.add("QuantizeLinear", [last, *parameters], {}, c.symbols.shapes[last])
        moved.type, codes = codes.type, moved
    zero = constant(optional(source, 2))
    own = c.constant("padding", np.zeros(1, empty_like(codes)) if zero is None else zero.reshape(1))
    copied = c.add(IM2COL_CODES, [codes, own], windows, shape, domain=SIZED_DOMAIN)
    copied.type = codes.type
    return c.add("DequantizeLinear", [copied, *parameters], {}, shape)


def _with_zeros(weight: np.ndarray, group: int) -> np.ndarray:
    """The weight (pixels …, channels of a group, outputs) with the zeros between groups."""
    channels, outputs = weight.shape[-2], weight.shape[-1] // group
    whole = np.zeros((*weight.shape[:-2], group * channels, group * outputs), weight.dtype)
    for index in range(group):
        own, made = (slice(index * count, (index + 1) * count) for count in (channels, outputs))
        whole[..., own, made] = weight[..., made]
    return whole


def transposed(c: Change) -> bool:
    """Where windows do not overlap, a product for every pixel of a window."""
    weight, bias = constant(c.node.inputs[1]), constant(optional(c.node, 2))
    if weight is None or (optional(c.node, 2) is not None and bias is None) or weight.dtype != np.float32:
        return False
    rank, x = weight.ndim - 2, operand(c.node, 0)
    windows = {name: list(c.node.attributes.get_ints(name, ()) or ()) for name in (
        "strides", "dilations", "pads", "output_padding", "output_shape")}
    if (windows["strides"] or [1] * rank) != list(weight.shape[2:]) or c.node.attributes.get_int("group", 1) != 1 or (
            any(each != 1 for each in windows["dilations"])) or windows["output_shape"] or any(
            (*windows["pads"], *windows["output_padding"])):
        return False
    order = c.order(x)
    image = tuple(c.symbols.shapes[x][axis] for axis in order)
    axes = order[1:-1]
    matrix = weight.transpose(0, *axes, 1).reshape(len(weight), -1)
    made = (*image[:-1], Size.of(matrix.shape[1]))
    out = c.add("MatMul", [c.last(x, order), c.constant("matrix", np.ascontiguousarray(matrix))], {}, made,
                name=c.node.name)
    if bias is not None:
        out = c.add("Add", [out, c.constant("bias", np.tile(bias, math.prod(weight.shape[2:])))], {}, made)
    taps = [weight.shape[axis] for axis in axes]
    return c.finish(c.add("PixelShuffle", [out], {"blocks": taps}, c.ordered(order), domain=SIZED_DOMAIN), order)
