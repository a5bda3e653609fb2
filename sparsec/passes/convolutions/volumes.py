"""A convolution of volumes becomes one of their slices, whose channels are those of all slices that a window sees.

Slices follow one another as images of a batch. They stay so through what works on single elements, so that only what
needs neighbours in depth moves them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsec.graph.activations import ACTIVATIONS
from sparsec.graph.constants import constant
from sparsec.graph.nodes import operand, optional
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.chain import Chain
from sparsec.passes.context import Note
from sparsec.passes.lift import spelled_geometry

DEPTH_SECOND = [0, 2, 1, 3, 4]
"""Batch, channels, depth, height, width to batch, depth and so on, and back."""
JOINS = ("Add", "Mul", "Sub")

Images = dict[ir.Value, ir.Value]
"""The slices (batch * depth, channels, height, width) of volumes."""


def run(graph: ir.Graph, counts: Counter[str], notes: list[Note]) -> None:
    """Rewrites every Conv of three dimensions by a constant, and what works on single elements between them."""
    images: Images = {}
    for node in list(graph):
        shape = static_shape(node.outputs[0]) if node.outputs else None
        if node.domain or shape is None or len(shape) != 5 or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        if node.op_type == "Conv":
            reason = _reason(node)
            if reason is None:
                _conv(node, images)
                counts["volumes"] += 1
            else:
                notes.append(Note(rewrite.node_name(node), f"Conv stays: {reason}"))
        elif _works_on_images(node, images):
            _elementwise(node, images)


def _reason(node: ir.Node) -> str | None:
    bias = optional(node, 2)
    if constant(node.inputs[1]) is None or (bias is not None and constant(bias) is None):
        return "its weight or bias is not a constant"
    shape = static_shape(node.inputs[0])
    return "its shapes are not static, or empty" if not shape or 0 in shape else None


def _works_on_images(node: ir.Node, images: Images) -> bool:
    """Whether a node computes each element of volumes that are known as slices from that element alone."""
    if known := ACTIVATIONS.get(node.op_type):
        return node.inputs[0] in images and known(node) is not None
    shapes = {static_shape(value) for value in node.inputs}
    return node.op_type in JOINS and all(value in images for value in node.inputs) and len(shapes) == 1


def _elementwise(node: ir.Node, images: Images) -> None:
    """The same operator on slices."""
    chain, shape = Chain(node), static_shape(node.outputs[0]) or ()
    inputs = [None if value is None else images.get(value, value) for value in node.inputs]
    sliced = ir.Node("", node.op_type, inputs, list(node.attributes.values()), num_outputs=1)
    node.prepend(sliced)
    sliced.outputs[0].dtype = ir.DataType.FLOAT
    _end(chain, sliced.outputs[0], shape, images)


def _conv(node: ir.Node, images: Images) -> None:
    chain, x = Chain(node), operand(node, 0)
    weight, bias, shape = constant(node.inputs[1]), constant(optional(node, 2)), static_shape(x) or ()
    assert weight is not None
    geometry = spelled_geometry(node, weight.shape, shape)
    last = _depths(chain, _slices(chain, x, images), shape, weight.shape[2], geometry)
    kernel = weight.swapaxes(1, 2).reshape(len(weight), -1, *weight.shape[3:])
    pads = geometry["pads"]
    last = chain.add("Conv", last, kernel, bias, name=rewrite.node_name(node), strides=geometry["strides"][1:],
                     pads=[*pads[1:3], *pads[4:]], dilations=geometry["dilations"][1:], group=geometry["group"])
    _end(chain, last, static_shape(node.outputs[0]) or (), images)


def _slices(chain: Chain, x: ir.Value, images: Images) -> ir.Value:
    """The slices of a volume, one after the other."""
    if x not in images:
        batch, channels, depth, *size = static_shape(x) or ()
        images[x] = chain.reshape(chain.add("Transpose", x, perm=DEPTH_SECOND), [batch * depth, channels, *size])
    return images[x]


def _depths(chain: Chain, images: ir.Value, shape: Sequence[int], taps: int, geometry: dict[str, list[int]],
            ) -> ir.Value:
    """For every output slice an image with the channels of all slices that it reads, group by group."""
    batch, channels, depth, *size = shape
    stride, dilation, pads = geometry["strides"][0], geometry["dilations"][0], geometry["pads"]
    begin, end, group = pads[0], pads[3], int(np.ravel(geometry["group"])[0])
    if taps == stride == 1 and not begin and not end:
        return images
    count = (depth + begin + end - dilation * (taps - 1) - 1) // stride + 1
    volume = chain.reshape(images, [batch, depth, group, channels // group, *size])
    if begin or end:
        volume = chain.add("Pad", volume, np.array([0, begin, 0, 0, 0, 0, 0, end, 0, 0, 0, 0], np.int64))
    seen = [chain.slice(volume, 1, tap * dilation, tap * dilation + (count - 1) * stride + 1, stride)
            for tap in range(taps)]
    joined = seen[0] if taps == 1 else chain.add("Concat", *seen, axis=3)
    return chain.reshape(joined, [batch * count, taps * channels, *size])


def _end(chain: Chain, images: ir.Value, shape: Sequence[int], images_of: Images) -> None:
    """Puts slices in the place of a node's output, as a volume for whoever needs one."""
    batch, channels, depth, *size = shape
    volume = chain.add("Transpose", chain.reshape(images, [batch, depth, channels, *size]), perm=DEPTH_SECOND)
    output = chain.node.outputs[0]
    images_of.pop(output, None)
    chain.end(volume)
    images_of[volume] = images
