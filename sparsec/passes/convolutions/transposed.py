"""A transposed convolution of stride S becomes a convolution with an output channel for each of the S positions.

Output S q + r reads input q + e by tap t where S e = r + begin - D t (Shi et al. 2016, "Real-Time Single Image and
Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", section 3). Outputs may be counted
from further in front, which is cut off, where taps then need a smaller window.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph.activations import ACTIVATIONS
from sparsec.graph.constants import constant
from sparsec.graph.nodes import node_name, operand, optional
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.chain import Chain
from sparsec.passes.context import Note, Spared

MOST_POSITIONS = 4096
"""Places of an output within its strides, each of which has outputs of its own."""


def run(graph: ir.Graph, spared: Spared, counts: Counter[str], notes: list[Note]) -> None:
    """Rewrites every ConvTranspose by a constant."""
    for node in list(graph):
        if node.domain or node.op_type != "ConvTranspose":
            continue
        reason = spared.reason(node) or _reason(node)
        if reason is None:
            _rewrite(node)
            counts[node.op_type] += 1
        else:
            notes.append(Note(node_name(node), f"{node.op_type} stays: {reason}"))


def _reason(node: ir.Node) -> str | None:
    bias = optional(node, 2)
    shapes = [static_shape(value) for value in (*node.inputs, node.outputs[0]) if value is not None]
    reasons = {
        "its weight or bias is not a constant":
            constant(node.inputs[1]) is None or (bias is not None and constant(bias) is None),
        "its shapes are not static, or empty": any(shape is None or 0 in shape for shape in shapes),
        "it does not compute in float32": node.outputs[0].dtype != ir.DataType.FLOAT,
        f"its strides have over {MOST_POSITIONS} positions":
            np.prod(node.attributes.get_ints("strides", ()) or (), dtype=np.float64) > MOST_POSITIONS,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


@dataclass(frozen=True)
class Axis:
    """One dimension of a transposed convolution.

    Attributes:
        size: of the input.
        result: of the output.
        taps, stride, dilation: the kernel's.
        begin: what is cut from the front of the full output.

    """

    size: int
    result: int
    taps: int
    stride: int
    dilation: int
    begin: int

    def read(self, cut: int) -> list[tuple[int, int, int]]:
        """(position r, tap t, offset e) where outputs are counted from `cut` further in front."""
        found = []
        for r, t in itertools.product(range(self.stride), range(self.taps)):
            offset, rest = divmod(r + self.begin - cut - self.dilation * t, self.stride)
            if rest == 0:
                found.append((r, t, offset))
        return found

    def window(self, cut: int) -> tuple[int, int]:
        """The least and the largest offset of the convolution: those of its taps, and what its padding needs."""
        offsets = [0, *(offset for _, _, offset in self.read(cut))]
        return min(offsets), max(self.size - self.steps(cut), *offsets)

    def steps(self, cut: int) -> int:
        """Outputs of every position."""
        return -(-(self.result + cut) // self.stride)

    @property
    def cut(self) -> int:
        """What is cut off in front for the smallest window."""
        def taps(cut: int) -> int:
            least, largest = self.window(cut)
            return largest - least

        return min(range(self.stride), key=taps)


def _axes(node: ir.Node) -> list[Axis]:
    sizes, kernel, results = ((static_shape(value) or ())[2:] for value in (*node.inputs[:2], node.outputs[0]))
    rank = len(kernel)
    strides, dilations, extra = (node.attributes.get_ints(name, [default] * rank) for name, default in (
        ("strides", 1), ("dilations", 1), ("output_padding", 0)))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    begins = node.attributes.get_ints("pads", [0] * 2 * rank)[:rank]
    if auto != "NOTSET" or "output_shape" in node.attributes:
        begins = []
        for size, result, taps, stride, dilation, more in zip(sizes, results, kernel, strides, dilations, extra,
                                                              strict=True):
            total = max(0, stride * (size - 1) + more + (taps - 1) * dilation + 1 - result)
            begins.append(total // 2 if auto == "SAME_UPPER" else 0 if auto == "VALID" else total - total // 2)
    return [Axis(*each) for each in zip(sizes, results, kernel, strides, dilations, begins, strict=True)]


def _rewrite(node: ir.Node) -> None:
    axes, group = _axes(node), node.attributes.get_int("group", 1)
    weight, bias, chain = constant(node.inputs[1]), constant(optional(node, 2)), Chain(node)
    assert weight is not None
    positions = int(np.prod([axis.stride for axis in axes]))
    kernel = spread(weight, axes, group)
    windows = [axis.window(axis.cut) for axis in axes]
    ends = [axis.steps(axis.cut) + largest - axis.size for axis, (_, largest) in zip(axes, windows, strict=True)]
    last = chain.add("Conv", operand(node, 0), kernel, None if bias is None else np.repeat(bias, positions),
                     name=node_name(node), pads=[*(-least for least, _ in windows), *ends], group=group)
    shape = static_shape(node.outputs[0]) or ()
    last.shape = ir.Shape([shape[0], shape[1] * positions, *(axis.steps(axis.cut) for axis in axes)])
    last = activated(chain, last)
    last = _interleaved(chain, last, shape, axes)
    for place, axis in enumerate(axes, 2):
        if axis.steps(axis.cut) * axis.stride != axis.result:
            last = chain.slice(last, place, axis.cut, axis.cut + axis.result)
    chain.end(last)


def spread(weight: np.ndarray, axes: Sequence[Axis], group: int) -> np.ndarray:
    """The weight (channels, outputs / group, *taps) as (outputs * positions, channels / group, *window)."""
    channels, outputs = weight.shape[:2]
    windows = [axis.window(axis.cut) for axis in axes]
    sizes = [largest - least + 1 for least, largest in windows]
    split = weight.reshape(group, channels // group, *weight.shape[1:]).swapaxes(1, 2)  # group, outputs, channels, taps
    full = np.zeros((group, outputs, *(axis.stride for axis in axes), channels // group, *sizes), np.float32)
    every = slice(None)
    for reads in itertools.product(*(axis.read(axis.cut) for axis in axes)):
        at: tuple[Any, ...] = tuple(r for r, _, _ in reads)
        window = tuple(e - least for (_, _, e), (least, _) in zip(reads, windows, strict=True))
        taps: tuple[Any, ...] = tuple(t for _, t, _ in reads)
        full[(every, every, *at, every, *window)] = split[(every, every, every, *taps)]
    return full.reshape(-1, channels // group, *sizes)


def activated(chain: Chain, last: ir.Value) -> ir.Value:
    """What follows the product with the activation behind the node, which then is the node's own output."""
    node = rewrite.only_use(chain.node.outputs[0])
    known = None if node is None or node.domain else ACTIVATIONS.get(node.op_type)
    if node is None or known is None or known(node) is None:
        return last
    activated = ir.Node("", node.op_type, [last, *node.inputs[1:]], list(node.attributes.values()), num_outputs=1)
    chain.node.prepend(activated)
    activated.outputs[0].dtype, activated.outputs[0].shape = ir.DataType.FLOAT, last.shape
    old = node.outputs[0]
    node.replace_input_with(0, None)
    rewrite.take_over(chain.node.outputs[0], old)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return activated.outputs[0]


def _interleaved(chain: Chain, value: ir.Value, shape: Sequence[int], axes: Sequence[Axis]) -> ir.Value:
    """The positions that lie in the channels, between each other."""
    if all(axis.stride == 1 for axis in axes):
        return value
    rank, steps = len(axes), [axis.steps(axis.cut) for axis in axes]
    value = chain.reshape(value, [*shape[:2], *(axis.stride for axis in axes), *steps])
    value = chain.add("Transpose", value, perm=[0, 1, *(2 + rank * (1 - k % 2) + k // 2 for k in range(2 * rank))])
    return chain.reshape(value, [*shape[:2], *(axis.stride * step for axis, step in zip(axes, steps, strict=True))])
