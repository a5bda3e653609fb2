"""Convolutions, pools and norms of images of any size, on numpy: windows are copied, and BLAS multiplies them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sparsec.runtime.sized.elementwise import Attributes, Operator


def _pads(sizes: Sequence[int], kernel: Sequence[int], attributes: Attributes) -> list[tuple[int, int]]:
    """What is put in front of and behind every axis of an image; `kernel` is as wide as its dilation makes it."""
    rank, mode = len(kernel), attributes.get("auto_pad", "NOTSET")
    strides = attributes.get("strides", [1] * rank)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for size, width, stride in zip(sizes, kernel, strides, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + width - size)
            less = total // 2
            found.append((less, total - less) if mode == "SAME_UPPER" else (total - less, less))
        return found
    flat = attributes.get("pads", [0] * (2 * rank)) if mode == "NOTSET" else [0] * (2 * rank)
    return list(zip(flat[:rank], flat[rank:], strict=True))


def _windows(x: np.ndarray, kernel: Sequence[int], attributes: Attributes) -> np.ndarray:
    """The windows of a padded image: (batch, channels, outputs …, kernel …), a view."""
    rank = len(kernel)
    strides, dilations = (attributes.get(name, [1] * rank) for name in ("strides", "dilations"))
    view = sliding_window_view(x, _widths(kernel, attributes), axis=tuple(range(2, 2 + rank)))
    steps = (*(slice(None, None, step) for step in strides), *(slice(None, None, step) for step in dilations))
    return view[(slice(None), slice(None), *steps)]


def _widths(kernel: Sequence[int], attributes: Attributes) -> list[int]:
    """How wide a kernel is with its dilations."""
    dilations = attributes.get("dilations", [1] * len(kernel))
    return [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]


def _conv(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, weight, bias = (*inputs, None)[:3]
    kernel, groups = weight.shape[2:], attributes.get("group", 1)
    pads = _pads(x.shape[2:], _widths(kernel, attributes), attributes)
    view = _windows(np.pad(x, ((0, 0), (0, 0), *pads)), kernel, attributes)
    rank = len(kernel)
    sizes, outputs = view.shape[2:2 + rank], weight.shape[0] // groups
    # (batch, channels, kernel …, outputs …)
    taps = np.moveaxis(view, range(2 + rank, 2 + 2 * rank), range(2, 2 + rank))
    y = np.empty((len(x), weight.shape[0], *sizes), x.dtype)
    pixels = math.prod(sizes)
    flat = y.reshape(len(x), groups, outputs, pixels)
    if weight.shape[1] == 1 and outputs == 1:  # a channel a group
        flat[...] = 0
        for place in np.ndindex(*kernel):
            flat[:, :, 0] += taps[(slice(None), slice(None), *place)].reshape(len(x), groups, pixels) * (
                weight[(slice(None), 0, *place)][:, np.newaxis])
    else:
        columns = taps.reshape(len(x), groups, math.prod(weight.shape[1:]), pixels)
        np.matmul(weight.reshape(groups, outputs, -1), columns, out=flat)
    return (y if bias is None else y + bias.reshape(-1, *[1] * rank),)


def _pooled(inputs: Sequence[Any], attributes: Attributes, fill: float) -> tuple[np.ndarray, np.ndarray]:
    """The windows of a pool, and how many elements of each count."""
    x, kernel = inputs[0], attributes["kernel_shape"]
    rank = len(kernel)
    widths, strides = _widths(kernel, attributes), attributes.get("strides", [1] * rank)
    pads = _pads(x.shape[2:], widths, attributes)
    more = [0] * rank
    if attributes.get("ceil_mode", 0):
        for axis, (size, width, stride) in enumerate(zip(x.shape[2:], widths, strides, strict=True)):
            front, back = pads[axis]
            count = -(-(size + front + back - width) // stride)
            count -= count * stride >= size + front  # a window begins inside
            more[axis] = max(0, count * stride + width - (size + front + back))
    ends = [(front, back + extra) for (front, back), extra in zip(pads, more, strict=True)]
    padded = np.pad(x, ((0, 0), (0, 0), *ends), constant_values=fill)
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if attributes.get("count_include_pad", 0):
        ones = np.pad(ones, ((0, 0), (0, 0), *pads), constant_values=1)
        ends = [(0, extra) for extra in more]
    counted = np.pad(ones, ((0, 0), (0, 0), *ends))
    axes = tuple(range(2 + rank, 2 + 2 * rank))
    return _windows(padded, kernel, attributes), _windows(counted, kernel, attributes).sum(axis=axes)


def _max_pool(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x = inputs[0]
    least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    view, _ = _pooled(inputs, attributes, least)
    return (view.max(axis=tuple(range(x.ndim, view.ndim))),)


def _average_pool(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    view, counts = _pooled(inputs, attributes, 0)
    return (view.sum(axis=tuple(range(inputs[0].ndim, view.ndim))) / counts,)


def _conv_transpose(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    """Every pixel's product with the weights of a tap is added where that tap puts it."""
    x, weight, bias = (*inputs, None)[:3]
    kernel, groups = weight.shape[2:], attributes.get("group", 1)
    rank, sizes = len(kernel), x.shape[2:]
    strides, dilations = (attributes.get(name, [1] * rank) for name in ("strides", "dilations"))
    more = attributes.get("output_padding", [0] * rank)
    whole = [(size - 1) * stride + width + rest for size, stride, width, rest in zip(
        sizes, strides, _widths(kernel, attributes), more, strict=True)]
    cut = _cut(whole, [size * stride for size, stride in zip(sizes, strides, strict=True)], attributes)
    outputs = weight.shape[1]
    y = np.zeros((len(x), groups * outputs, *(max(full, full - sum(ends)) for full, ends in zip(
        whole, cut, strict=True))), x.dtype)
    pixels = x.reshape(len(x), groups, -1, math.prod(sizes))
    taps = weight.reshape(groups, -1, outputs, *kernel)
    for place in np.ndindex(*kernel):
        matrix = taps[(slice(None), slice(None), slice(None), *place)].swapaxes(1, 2)  # (groups, outputs, channels)
        at = [slice(tap * step, tap * step + (size - 1) * stride + 1, stride) for tap, step, size, stride in zip(
            place, dilations, sizes, strides, strict=True)]
        y[(slice(None), slice(None), *at)] += (matrix @ pixels).reshape(len(x), groups * outputs, *sizes)
    y = y[(slice(None), slice(None), *(slice(max(0, first), full - last) for full, (first, last) in zip(
        whole, cut, strict=True)))]
    return (y if bias is None else y + bias.reshape(-1, *[1] * rank),)


def _cut(whole: Sequence[int], same: Sequence[int], attributes: Attributes) -> list[tuple[int, int]]:
    """What a transposed convolution cuts off at both ends of every axis; of `same` size where `auto_pad` says so."""
    rank, mode = len(whole), attributes.get("auto_pad", "NOTSET")
    told = attributes.get("output_shape") or (same if mode.startswith("SAME") else None)
    if told is None:
        pads = attributes.get("pads", [0] * (2 * rank)) if mode == "NOTSET" else [0] * (2 * rank)
        return list(zip(pads[:rank], pads[rank:], strict=True))
    surplus = [full - size for full, size in zip(whole, told[-rank:], strict=True)]
    return [(each // 2, each - each // 2) if mode == "SAME_UPPER" else (each - each // 2, each // 2)
            for each in surplus]


def _global(function: Callable[..., Any]) -> Operator:
    return lambda inputs, _: (function(inputs[0], axis=tuple(range(2, inputs[0].ndim)), keepdims=True),)


def _batch_norm(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, *vectors = inputs
    scale, bias, mean, variance = (each.reshape(-1, *[1] * (x.ndim - 2)) for each in vectors)
    return (((x - mean) / np.sqrt(variance + attributes.get("epsilon", 1e-5)) * scale + bias).astype(x.dtype),)


def _instance_norm(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, scale, bias = inputs
    return (_normalised(x, x.shape[1], scale, bias, attributes.get("epsilon", 1e-5)),)


def _group_norm(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, *vectors = inputs
    groups = attributes["num_groups"]
    scale, bias = (np.repeat(each, x.shape[1] // each.size) for each in vectors)  # before opset 21 one of a group
    return (_normalised(x, groups, scale, bias, attributes.get("epsilon", 1e-5)),)


def _normalised(x: np.ndarray, groups: int, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    """Channels scaled and shifted, whose groups have mean 0 and variance 1 before; in two passes."""
    wide = x.astype(np.float32, copy=False).reshape(len(x), groups, -1)
    centred = wide - wide.mean(-1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(epsilon))
    shape = (-1, *[1] * (x.ndim - 2))
    y: np.ndarray = (centred / deviation).reshape(x.shape)
    y *= scale.astype(np.float32).reshape(shape)
    y += bias.astype(np.float32).reshape(shape)
    return np.asarray(y, x.dtype)


OPERATORS: dict[str, Operator] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool, "AveragePool": _average_pool,
    "GlobalAveragePool": _global(np.mean), "GlobalMaxPool": _global(np.max), "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm, "GroupNormalization": _group_norm,
}
"""By ONNX's name; the first output only."""
