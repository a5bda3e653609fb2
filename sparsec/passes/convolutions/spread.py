"""A convolution whose outer taps mostly meet padding is a sum of convolutions of what each of them meets.

So it is where three taps are dilated by half of the image and more, as pyramids of dilations have them on small images:
along that axis the middle tap meets all of the image, the first one its beginning only and the last one its end, and
their results lie apart. Kernels that slide the whole window would multiply mostly zeros, and have images padded so far.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_derived, constant_shape
from sparsec.graph.nodes import node_name, operand, optional
from sparsec.graph.shapes import static_shape
from sparsec.passes.chain import Chain
from sparsec.passes.context import Note, Spared

TAPS = 3
"""Of the windows that are taken apart."""
LARGE = 1 << 23
"""Products with padding from which on moving what is left costs less."""


def run(graph: ir.Graph, spared: Spared, counts: Counter[str], _notes: list[Note]) -> None:
    """Rewrites every Conv by a constant with such an axis, one axis after the other."""
    nodes = [node for node in graph if not node.domain and node.op_type == "Conv" and spared.reason(node) is None]
    while nodes:
        node = nodes.pop()
        axis = _axis(node)
        if axis is not None:
            nodes += _rewrite(node, axis)
            counts["spread windows"] += 1


def _axis(node: ir.Node) -> int | None:
    """The first spatial axis along which a convolution is taken apart."""
    image, weight = static_shape(node.inputs[0]), constant_shape(node.inputs[1])
    if image is None or weight is None or node.outputs[0].dtype != ir.DataType.FLOAT or (
            node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"):
        return None
    rank = len(image) - 2
    dilations, strides, pads = _window(node, rank)
    for axis, (length, taps, dilation) in enumerate(zip(image[2:], weight[2:], dilations, strict=True)):
        met = length + 2 * max(0, length - dilation)
        padding = image[0] * math.prod(weight) * math.prod(image[2:]) * (1 - met / (TAPS * length))
        if (taps == TAPS and strides == [1] * rank and pads[axis] == pads[axis + rank] == dilation
                and length <= 2 * dilation and (dilation >= length or padding >= LARGE)):
            return axis
    return None


def _window(node: ir.Node, rank: int) -> tuple[list[int], list[int], list[int]]:
    """Dilations, strides and pads."""
    dilations, strides, pads = (list(node.attributes.get_ints(name, ()) or default) for name, default in (
        ("dilations", [1] * rank), ("strides", [1] * rank), ("pads", [0] * 2 * rank)))
    return dilations, strides, pads


def _rewrite(node: ir.Node, axis: int) -> list[ir.Node]:
    """Takes a convolution apart along a spatial axis; its parts."""
    chain, image, shape = Chain(node), static_shape(node.inputs[0]) or (), list(static_shape(node.outputs[0]) or ())
    at, length, dilation = 2 + axis, image[2 + axis], _window(node, len(image) - 2)[0][axis]
    middle = _part(chain, at, 1, (0, length))
    if dilation >= length:  # the other taps meet padding alone
        chain.end(middle)
        return _producers(middle)
    ends = _part(chain, at, 2, (dilation, length)), _part(chain, at, 0, (0, length - dilation))
    between = np.zeros([*shape[:at], 2 * dilation - length, *shape[at + 1:]], np.float32)
    rest = chain.add("Concat", ends[0], *([between] if between.size else ()), ends[1], axis=at)
    total = chain.add("Add", middle, rest)
    rest.shape, total.shape = ir.Shape(shape), ir.Shape(shape)
    chain.end(total)
    return _producers(middle, *ends)


def _producers(*values: ir.Value) -> list[ir.Node]:
    return [producer for value in values if (producer := value.producer()) is not None]


def _part(chain: Chain, at: int, tap: int, met: tuple[int, int]) -> ir.Value:
    """The convolution of the part [first, end) of the image along dimension `at` by one tap; the middle one adds B."""
    node, (first, end) = chain.node, met
    graph, x, weight = node.graph, operand(node, 0), operand(node, 1)
    assert graph is not None
    image, (outputs, *window) = list(static_shape(x) or ()), constant_shape(weight) or ()
    dilations, _, pads = _window(node, len(image) - 2)
    axis = at - 2
    dilations[axis], pads[axis], pads[axis + len(dilations)], window[axis + 1] = 1, 0, 0, 1
    if met != (0, image[at]):
        x, image[at] = chain.slice(x, at, first, end), end - first
        x.shape = ir.Shape(image)
    name = f"{node_name(node)}.tap{tap}"
    taken = add_derived(graph, f"{name}.weight", weight, partial(_tap, tap=tap, axis=at), (outputs, *window))
    y = chain.add("Conv", x, taken, optional(node, 2) if tap == 1 else None, name=name, dilations=dilations, pads=pads,
                  group=node.attributes.get_int("group", 1) or 1)
    shape = list(static_shape(node.outputs[0]) or ())
    y.shape = ir.Shape([*shape[:at], end - first, *shape[at + 1:]])
    return y


def _tap(weight: np.ndarray, *, tap: int, axis: int) -> np.ndarray:
    return np.take(weight, [tap], axis)
