"""The geometry of sliding windows, which convolutions and poolings share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparsec.backends.relax.context import LoweringContext


@dataclass(frozen=True)
class Window:
    """A window that slides over the spatial axes; the padding behind follows from the output's extents.

    Position o of the output reads positions o * strides - before + k * dilations of the input, for k < kernel.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]


def window_of(context: LoweringContext, node: ir.Node, kernel: Sequence[int]) -> Window:
    """The window of a Conv or pooling node, with `auto_pad` resolved."""
    attributes, ones = node.attributes, [1] * len(kernel)
    strides = tuple(attributes.get_ints("strides", ones) or ones)
    dilations = tuple(attributes.get_ints("dilations", ones) or ones)
    mode = attributes.get_string("auto_pad", "NOTSET")
    if mode == "VALID":
        before = (0,) * len(kernel)
    elif mode == "NOTSET":
        before = tuple(attributes.get_ints("pads", ()) or (0,) * 2 * len(kernel))[:len(kernel)]
    else:
        inputs, outputs = context.shape(node.inputs[0])[2:], context.shape(node.outputs[0])[2:]
        total = [max((o - 1) * s + (k - 1) * d + 1 - i, 0)
                 for i, o, k, s, d in zip(inputs, outputs, kernel, strides, dilations, strict=True)]
        before = tuple(t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total)
    return Window(tuple(kernel), strides, dilations, before)
