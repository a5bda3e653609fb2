"""Sliding windows: which input positions each output position reads, and convolution of facts over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsec.graph.liveness.facts import Array, Dims, Mask

Taps = list[Mask]  # by spatial axis: [k, p, q] says that output position p reads input position q through tap k


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    return list(node.attributes.get_ints(name, list(default)))


def _begin(node: ir.Node, axis: int, rank: int, total: int) -> int:
    """The padding before the first position; `total` is what `auto_pad` has to distribute."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return _ints(node, "pads", [0] * (2 * rank))[axis]
    if mode == "VALID":
        return 0
    return total // 2 if mode == "SAME_UPPER" else total - total // 2


def _axis_taps(kernel: int, stride: int, dilation: int, begin: int, size: tuple[int, int]) -> Mask:
    """The taps of one axis for (outputs, inputs) positions."""
    outputs, inputs = size
    read = np.arange(outputs) * stride - begin + np.arange(kernel)[:, None] * dilation
    return read[:, :, None] == np.arange(inputs)


def taps(node: ir.Node, kernel: Sequence[int], source: Dims, target: Dims) -> Taps:
    """The taps of a convolution or pooling over the spatial axes; a symbolic axis counts as one position."""
    rank = len(kernel)
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    result = []
    for axis, (k, s, d, inputs, outputs) in enumerate(zip(kernel, strides, dilations, source, target, strict=True)):
        if inputs is None or outputs is None:
            result.append(np.ones((k, 1, 1), bool))
        else:
            total = max((outputs - 1) * s + (k - 1) * d + 1 - inputs, 0)
            result.append(_axis_taps(k, s, d, _begin(node, axis, rank, total), (outputs, inputs)))
    return result


def transposed_taps(node: ir.Node, kernel: Sequence[int], source: Dims, target: Dims) -> Taps:
    """The taps of a transposed convolution."""
    rank = len(kernel)
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    extra = _ints(node, "output_padding", [0] * rank)
    explicit = "output_shape" in node.attributes
    result = []
    for axis, (k, s, d, inputs, outputs) in enumerate(zip(kernel, strides, dilations, source, target, strict=True)):
        if inputs is None or outputs is None:
            result.append(np.ones((k, 1, 1), bool))
            continue
        total = s * (inputs - 1) + extra[axis] + (k - 1) * d + 1 - outputs
        upper = node.attributes.get_string("auto_pad", "NOTSET") == "SAME_UPPER"
        begin = _begin(node, axis, rank, total) if not explicit else total // 2 if upper else total - total // 2
        result.append(_axis_taps(k, s, d, begin, (inputs, outputs)).swapaxes(1, 2))
    return result


def backwards(windows: Taps) -> Taps:
    """The same taps seen from the input positions."""
    return [tap.swapaxes(1, 2) for tap in windows]


def reads_padding(windows: Taps) -> bool:
    """Some output position misses a tap, because it lies in the padding."""
    return not all(tap.any(axis=2).all() for tap in windows)


def _positions(windows: Taps, tap: Sequence[int]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Index grids of the output positions that read through a tap, and of what they read."""
    pairs = [np.nonzero(axis[k]) for axis, k in zip(windows, tap, strict=True)]
    return np.ix_(*(p for p, _ in pairs)), np.ix_(*(q for _, q in pairs))


def _uniform(fact: Array) -> bool:
    return all(length == 1 for length in fact.shape[3:])


def _at_full_length(fact: Array, lengths: Sequence[int]) -> Array:
    return np.broadcast_to(fact, (*fact.shape[:3], *lengths))


def correlate(x: Array, weight: Array, windows: Taps) -> Array:
    """The convolution of x (batch, groups, inputs, *positions) with weight (groups, outputs, inputs, *taps).

    A spatial axis of x may have length 1 where x is the same at all positions; so may the result's then.
    """
    batch, groups, inputs = x.shape[:3]
    outputs, kernel = weight.shape[1], weight.shape[3:]
    if _uniform(x):
        rows = np.moveaxis(weight, 2, -1).reshape(groups, outputs * math.prod(kernel), inputs)
        result = (rows @ x.reshape(batch, groups, inputs, 1)).reshape(batch, groups, outputs, *kernel)
        for axis in windows:  # each contracts the first tap axis and appends the positions
            inside = axis.any(axis=2)
            inside = inside[:, :1] if (inside == inside[:, :1]).all() else inside
            result = np.tensordot(result, inside.astype(x.dtype), axes=([3], [0]))
        return result
    x = _at_full_length(x, [axis.shape[2] for axis in windows])
    result = np.zeros((batch, groups, outputs, *(axis.shape[1] for axis in windows)), x.dtype)
    for tap in np.ndindex(*kernel):
        written, read = _positions(windows, tap)
        part = x[(slice(None), slice(None), slice(None), *read)]
        product = weight[(..., *tap)] @ part.reshape(batch, groups, inputs, math.prod(part.shape[3:]))
        result[(slice(None), slice(None), slice(None), *written)] += product.reshape(batch, groups, outputs,
                                                                                    *part.shape[3:])
    return result


def connections(result: Mask, x: Mask, windows: Taps) -> Mask:
    """The weights (groups, outputs, inputs, *taps) that connect an element of x to an element of the result."""
    kernel = [axis.shape[0] for axis in windows]
    if _uniform(result) and _uniform(x):
        pairs = _pair(result, x)
        for axis in windows:
            pairs = pairs[..., None] & axis.any(axis=(1, 2))
        return pairs
    result = _at_full_length(result, [axis.shape[1] for axis in windows])
    x = _at_full_length(x, [axis.shape[2] for axis in windows])
    found = np.zeros((*result.shape[1:3], x.shape[2], *kernel), bool)
    for tap in np.ndindex(*kernel):
        written, read = _positions(windows, tap)
        every = (slice(None), slice(None), slice(None))
        found[(..., *tap)] = _pair(result[(*every, *written)], x[(*every, *read)])
    return found


def _pair(result: Mask, x: Mask) -> Mask:
    """[group, output, input]: both hold in the same batch element and position."""
    batch = max(result.shape[0], x.shape[0])
    left, right = (np.broadcast_to(fact, (batch, *fact.shape[1:])) for fact in (result, x))
    left, right = (np.moveaxis(f, 0, 2).reshape(*f.shape[1:3], -1).astype(np.float32) for f in (left, right))
    return left @ right.swapaxes(1, 2) > 0
