"""A convolution of windows side by side is a product of patches, where what reads it takes pixels as rows.

It embeds the patches of a vision transformer (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section 3.1).
As a product it has every kernel of rows, the sparse ones, too, and its rows are where the transformer wants them.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_derived, constant_shape
from sparsec.graph.nodes import node_name, operand, optional
from sparsec.graph.shapes import static_shape
from sparsec.passes.chain import Chain
from sparsec.passes.context import Note, Spared
from sparsec.passes.movement import destinations

MOST_CHANNELS = 4
"""Those of images whose convolutions have no sparse kernels; others read planes of every position in a window."""
FEWEST_TAPS = 8
"""Pixels of a window from which on copying patches pays, whatever the zeros: fewer are copied in short pieces."""


def run(graph: ir.Graph, spared: Spared, counts: Counter[str], _notes: list[Note]) -> None:
    """Rewrites every Conv by a constant whose strides are its window, and that is read channels last."""
    for node in list(graph):
        if not node.domain and node.op_type == "Conv" and spared.reason(node) is None and _has_patches(node):
            rows = _rows(node)
            if rows is not None:
                _rewrite(node, rows)
                counts["patches"] += 1


def _has_patches(node: ir.Node) -> bool:
    image, weight = static_shape(node.inputs[0]), constant_shape(node.inputs[1])
    bias = optional(node, 2)
    if image is None or weight is None or 0 in image or node.outputs[0].dtype != ir.DataType.FLOAT:
        return False
    window, rank = list(weight[2:]), len(weight) - 2
    return (weight[1] == image[1] <= MOST_CHANNELS and math.prod(window) >= FEWEST_TAPS
            and list(node.attributes.get_ints("strides", ()) or [1] * rank) == window
            and node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
            and not any(node.attributes.get_ints("pads", ()) or ())
            and (bias is None or constant_shape(bias) is not None)
            and all(step == 1 for step in node.attributes.get_ints("dilations", ()) or ()))


def _rows(node: ir.Node) -> ir.Value | None:
    """The value behind the node that is its result, pixels in front of channels; None where there is none."""
    batch, channels, *sides = static_shape(node.outputs[0]) or ()
    pixels = math.prod(sides)
    wanted = np.arange(batch * channels * pixels).reshape(batch, channels, pixels).swapaxes(1, 2).ravel()
    return next((value for value, index in destinations(node.outputs[0])
                 if index.shape[-1:] == (channels,) and np.array_equal(index.ravel(), wanted)), None)


def _rewrite(node: ir.Node, rows: ir.Value) -> None:
    assert node.graph is not None
    last = rows.producer()
    assert last is not None
    chain, value, x = Chain(last), operand(node, 1), operand(node, 0)
    outputs, inputs, *window = constant_shape(value) or ()
    batch, _, *sides = static_shape(node.outputs[0]) or ()
    for axis, (side, taps, size) in enumerate(zip(sides, window, (static_shape(x) or ())[2:], strict=True), 2):
        if side * taps != size:
            x = chain.slice(x, axis, 0, side * taps)
    parts = [each for pair in zip(sides, window, strict=True) for each in pair]
    places = range(2, 2 + len(parts))
    x = chain.add("Transpose", chain.reshape(x, [batch, inputs, *parts]), perm=[0, *places[::2], 1, *places[1::2]])
    count, length = batch * math.prod(sides), inputs * math.prod(window)
    weight = add_derived(node.graph, f"{node_name(node)}.matrix", value, _matrix, (outputs, length), shared=True)
    product = chain.add("Gemm", chain.reshape(x, [count, length]), weight, optional(node, 2), name=node_name(node),
                        transB=1)
    product.shape = ir.Shape([count, outputs])
    chain.end(chain.reshape(product, static_shape(rows) or ()))


def _matrix(weight: np.ndarray) -> np.ndarray:
    return weight.reshape(len(weight), -1)
