"""A convolution of volumes becomes one of images.

Where its window is a column, all heights and widths are one width. Otherwise slices become the images of a batch, and
their channels are those of all slices that a window sees. Volumes stay so through what works on single elements, so
that only what needs them otherwise moves them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph.activations import ACTIVATIONS
from sparsec.graph.constants import constant
from sparsec.graph.nodes import node_name, operand, optional
from sparsec.graph.shapes import static_shape
from sparsec.passes.chain import Chain
from sparsec.passes.context import Note, Spared
from sparsec.passes.lift import spelled_geometry

DEPTH_SECOND = [0, 2, 1, 3, 4]
"""Batch, channels, depth, height, width to batch, depth and so on, and back."""
JOINS = ("Add", "Mul", "Sub")

Images = dict[ir.Value, ir.Value]
"""By volume: the same elements as images."""
Restore = Callable[[Chain, ir.Value, Sequence[int]], ir.Value]
"""The volume of a shape from its images."""


def _from_slices(chain: Chain, images: ir.Value, shape: Sequence[int]) -> ir.Value:
    batch, channels, depth, *size = shape
    return chain.add("Transpose", chain.reshape(images, [batch, depth, channels, *size]), perm=DEPTH_SECOND)


def _from_columns(chain: Chain, images: ir.Value, shape: Sequence[int]) -> ir.Value:
    return chain.reshape(images, shape)


def run(graph: ir.Graph, spared: Spared, counts: Counter[str], notes: list[Note]) -> None:
    """Rewrites every Conv of three dimensions by a constant, and what works on single elements between them."""
    known: dict[Restore, Images] = {_from_slices: {}, _from_columns: {}}
    for node in list(graph):
        shape = static_shape(node.outputs[0]) if node.outputs else None
        if node.domain or shape is None or len(shape) != 5 or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        if node.op_type == "Conv":
            reason = spared.reason(node) or _reason(node)
            if reason is None:
                _conv(node, known)
                counts["volumes"] += 1
            else:
                notes.append(Note(node_name(node), f"Conv stays: {reason}"))
            continue
        for restore, images in known.items():
            if _works_on(node, images):
                _elementwise(node, images, restore)
                break


def _reason(node: ir.Node) -> str | None:
    bias = optional(node, 2)
    if constant(node.inputs[1]) is None or (bias is not None and constant(bias) is None):
        return "its weight or bias is not a constant"
    shape = static_shape(node.inputs[0])
    return "its shapes are not static, or empty" if not shape or 0 in shape else None


def _works_on(node: ir.Node, images: Images) -> bool:
    """Whether a node computes each element of volumes that are known as images from that element alone."""
    if activation := ACTIVATIONS.get(node.op_type):
        return node.inputs[0] in images and activation(node) is not None
    shapes = {static_shape(value) for value in node.inputs}
    return node.op_type in JOINS and all(value in images for value in node.inputs) and len(shapes) == 1


def _elementwise(node: ir.Node, images: Images, restore: Restore) -> None:
    """The same operator on images."""
    inputs = [None if value is None else images.get(value, value) for value in node.inputs]
    new = ir.Node("", node.op_type, inputs, list(node.attributes.values()), num_outputs=1)
    node.prepend(new)
    new.outputs[0].dtype = ir.DataType.FLOAT
    _end(node, new.outputs[0], images, restore)


def _end(node: ir.Node, result: ir.Value, images: Images, restore: Restore) -> None:
    """Puts images in the place of a node's output, as a volume for whoever needs one."""
    chain = Chain(node)
    volume = restore(chain, result, static_shape(node.outputs[0]) or ())
    chain.end(volume)
    images[volume] = result


def _conv(node: ir.Node, known: dict[Restore, Images]) -> None:
    weight, shape = constant(node.inputs[1]), static_shape(node.inputs[0]) or ()
    assert weight is not None
    geometry = spelled_geometry(node, weight.shape, shape)
    flat = [weight.shape[3], weight.shape[4], *geometry["strides"][1:]] == [1] * 4
    column = flat and not any(geometry["pads"][place] for place in (1, 2, 4, 5))
    make, restore = (_columns, _from_columns) if column else (_slices, _from_slices)
    _end(node, make(Chain(node), weight, geometry, known[restore]), known[restore], restore)


def _columns(chain: Chain, weight: np.ndarray, geometry: dict[str, Any], images: Images) -> ir.Value:
    """The convolution whose window has neither height nor width: depths lie below each other."""
    x = operand(chain.node, 0)
    batch, channels, depth, *size = static_shape(x) or ()
    if x not in images:
        images[x] = chain.reshape(x, [batch, channels, depth, math.prod(size)])
    pads = geometry["pads"]
    return chain.add("Conv", images[x], weight[..., 0], constant(optional(chain.node, 2)),
                     name=node_name(chain.node), strides=geometry["strides"][:2],
                     pads=[pads[0], 0, pads[3], 0], dilations=[geometry["dilations"][0], 1], group=geometry["group"])


def _slices(chain: Chain, weight: np.ndarray, geometry: dict[str, Any], images: Images) -> ir.Value:
    """The convolution of slices."""
    x = operand(chain.node, 0)
    batch, channels, depth, *size = shape = static_shape(x) or ()
    if x not in images:
        images[x] = chain.reshape(chain.add("Transpose", x, perm=DEPTH_SECOND), [batch * depth, channels, *size])
    seen = _depths(chain, images[x], shape, weight.shape[2], geometry)
    pads, kernel = geometry["pads"], weight.swapaxes(1, 2).reshape(len(weight), -1, *weight.shape[3:])
    return chain.add("Conv", seen, kernel, constant(optional(chain.node, 2)), name=node_name(chain.node),
                     strides=geometry["strides"][1:], pads=[*pads[1:3], *pads[4:]],
                     dilations=geometry["dilations"][1:], group=geometry["group"])


def _depths(chain: Chain, images: ir.Value, shape: Sequence[int], taps: int, geometry: dict[str, Any]) -> ir.Value:
    """For every output slice an image with the channels of all slices that it reads, group by group."""
    batch, channels, depth, *size = shape
    stride, dilation = geometry["strides"][0], geometry["dilations"][0]
    begin, end = geometry["pads"][0], geometry["pads"][3]
    if taps == stride == 1 and not begin and not end:
        return images
    count = (depth + begin + end - dilation * (taps - 1) - 1) // stride + 1
    volume = chain.reshape(images, [batch, depth, geometry["group"], channels // geometry["group"], *size])
    if begin or end:
        volume = chain.add("Pad", volume, np.array([0, begin, 0, 0, 0, 0, 0, end, 0, 0, 0, 0], np.int64))
    seen = [chain.slice(volume, 1, tap * dilation, tap * dilation + (count - 1) * stride + 1, stride)
            for tap in range(taps)]
    joined = seen[0] if taps == 1 else chain.add("Concat", *seen, axis=3)
    return chain.reshape(joined, [batch * count, taps * channels, *size])
