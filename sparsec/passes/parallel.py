"""A sum of convolutions of one image becomes one convolution, and so does the normalised image that is added to one.

    Add(Conv(x, v), Conv(x, w)) -> Conv(x, v + w)

Networks are trained with such branches (Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again", 3.3).
A smaller window lies in the larger one, and a BatchNormalization is a window of one pixel that keeps channels apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_constant, constant, constant_shape
from sparsec.graph.large import is_large
from sparsec.graph.nodes import node_name, operand, optional
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Report, Spared


def run(model: ir.Model, context: Context) -> Report:
    """Merges whatever it can, in place, for any sizes; nothing where infinities have to travel as in the file."""
    count = 0
    if not context.strict_ieee:
        adds = [node for node in model.graph if node.op_type == "Add" and not node.domain]
        count = sum(_merged(model.graph, node, context.spared) for node in adds)
    if count:
        rewrite.clean(model)
    return Report("parallel", bool(count), {"merged": count} if count else {})


def _merged(graph: ir.Graph, add: ir.Node, spared: Spared) -> bool:
    """Puts one convolution in the place of a sum of two; whether it could."""
    first, second = (_branch(value, spared) for value in add.inputs)
    if first is None or second is None or spared.reason(add) is not None or first.x is not second.x:
        return False
    for large, small in ((first, second), (second, first)):
        weight = None if large.weight is None else _sum(large.weight, small)
        if weight is not None:
            name = node_name(large.node)
            merged = add_constant(graph, f"{name}.merged", weight.astype(np.float32))
            offsets = add_constant(graph, f"{name}.offsets", (large.offset + small.offset).astype(np.float32))
            attributes = list(large.node.attributes.values())
            made = ir.Node("", "Conv", [large.x, merged, offsets], attributes, name=large.node.name)
            add.prepend(made)
            rewrite.take_over(made.outputs[0], add.outputs[0])
            graph.remove(add, safe=True)
            return True
    return False


@dataclass(frozen=True, eq=False)
class _Window:
    """A convolution's weight (outputs, channels of a group, *taps) of float64, and where its taps lie."""

    weight: np.ndarray
    group: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def reach(self) -> list[int]:
        """What an axis of the output is shorter by, before strides."""
        return [(taps - 1) * step - begin - end for taps, step, begin, end in zip(
            self.weight.shape[2:], self.dilations, self.begins, self.ends, strict=True)]

    def places(self, other: _Window) -> list[list[int]] | None:
        """Which of the taps another window's are, by axis; None where it does not lie in this one."""
        found = []
        for axis, taps in enumerate(other.weight.shape[2:]):
            offsets = [tap * other.dilations[axis] - other.begins[axis] + self.begins[axis] for tap in range(taps)]
            places = [offset // self.dilations[axis] for offset in offsets]
            if any(offset % self.dilations[axis] for offset in offsets) or (
                    places[0] < 0 or places[-1] >= self.weight.shape[2 + axis]):
                return None
            found.append(places)
        return found


@dataclass(frozen=True, eq=False)
class _Branch:
    """A node whose one reader is a sum: a convolution, or a scale for every channel, with its offsets."""

    node: ir.Node
    x: ir.Value
    weight: _Window | None
    scale: np.ndarray
    offset: np.ndarray


def _sum(large: _Window, small: _Branch) -> np.ndarray | None:
    """The weight of the sum of a convolution and another branch; None where the first has no room for the second."""
    window = _diagonal(large, small.scale) if small.weight is None else small.weight
    fits = window is not None and (window.group, window.strides, window.reach) == (
        large.group, large.strides, large.reach) and window.weight.shape[:2] == large.weight.shape[:2]
    places = large.places(window) if fits and window is not None else None
    if places is None or window is None:
        return None
    total = large.weight.copy()
    inside: tuple[Any, ...] = np.ix_(*places)
    total[(slice(None), slice(None), *inside)] += window.weight
    return total


def _diagonal(like: _Window, scale: np.ndarray) -> _Window | None:
    """A factor for every channel as a convolution of one pixel, with the groups of another."""
    outputs, channels, *taps = like.weight.shape
    if len(scale) != outputs or len(scale) != channels * like.group:
        return None
    weight = np.zeros((outputs, channels, *(1 for _ in taps)))
    places = np.arange(outputs)
    weight[(places, places % channels, *(0 for _ in taps))] = scale
    ones, zeros = (1,) * len(taps), (0,) * len(taps)
    return _Window(weight, like.group, ones, ones, zeros, zeros)


def _branch(value: ir.Value | None, spared: Spared) -> _Branch | None:
    node = None if value is None else value.producer()
    if node is None or node.domain or node.op_type not in ("BatchNormalization", "Conv") or spared.reason(node) or (
            rewrite.only_use(node.outputs[0]) is None or node.outputs[0].dtype != ir.DataType.FLOAT):
        return None
    if node.op_type == "BatchNormalization":
        normal = rewrite.batch_norm(node)
        return None if normal is None else _Branch(node, operand(node, 0), None, *normal)
    weight, bias = node.inputs[1], optional(node, 2)
    if is_large(operand(node, 1).const_value) or constant_shape(weight) is None or (
            bias is not None and constant_shape(bias) is None):
        return None
    window = _window(node)
    if window is None:
        return None
    offset = constant(bias)
    offset = np.zeros(len(window.weight)) if offset is None else offset.astype(np.float64)
    return _Branch(node, operand(node, 0), window, np.empty(0), offset)


def _window(node: ir.Node) -> _Window | None:
    weight = constant(node.inputs[1])
    if weight is None or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    rank = weight.ndim - 2
    strides, dilations = (tuple(node.attributes.get_ints(name, ()) or [1] * rank) for name in ("strides", "dilations"))
    pads = tuple(node.attributes.get_ints("pads", ()) or [0] * 2 * rank)
    group = node.attributes.get_int("group", 1)
    return _Window(weight.astype(np.float64), group, strides, dilations, pads[:rank], pads[rank:])
