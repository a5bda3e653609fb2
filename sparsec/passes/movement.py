"""Following a tensor through nodes that only move its elements: reshapes, transposes, slices, scalar factors.

What such a chain does is found by sending element numbers through it, so that every way of writing the same movement is
recognised by comparing two arrays of integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import constant, scalar
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite


@dataclass(frozen=True)
class Moved:
    """A value as a rearrangement of another: value.flat[i] == factor * source.flat[index.flat[i]].

    `index` has the shape of the value.
    """

    source: ir.Value
    index: np.ndarray
    factor: float


def _reshape(_node: ir.Node, output: ir.Value, index: np.ndarray) -> np.ndarray | None:
    shape = static_shape(output)
    return None if shape is None else index.reshape(shape)


def _transpose(node: ir.Node, _output: ir.Value, index: np.ndarray) -> np.ndarray | None:
    return index.transpose(node.attributes.get_ints("perm", range(index.ndim)[::-1]))


def _slice(node: ir.Node, _output: ir.Value, index: np.ndarray) -> np.ndarray | None:
    starts, ends, axes, steps = (constant(value) for value in (*node.inputs[1:], None, None, None)[:4])
    if starts is None or ends is None or axes is None:
        return None
    slices = [slice(None)] * index.ndim
    for i, axis in enumerate(axes):
        step = 1 if steps is None else int(steps[i])
        if step <= 0:
            return None
        slices[axis] = slice(int(starts[i]), int(ends[i]), step)
    return index[tuple(slices)]


def _split(node: ir.Node, output: ir.Value, index: np.ndarray) -> np.ndarray | None:
    axis = node.attributes.get_int("axis", 0)
    shapes = [static_shape(value) for value in node.outputs]
    if any(shape is None for shape in shapes):
        return None
    sizes = [shape[axis] for shape in shapes if shape is not None]
    return np.split(index, np.cumsum(sizes)[:-1], axis)[output.index() or 0]


def _gather(node: ir.Node, _output: ir.Value, index: np.ndarray) -> np.ndarray | None:
    chosen = constant(node.inputs[1])
    return None if chosen is None else np.take(index, chosen, node.attributes.get_int("axis", 0))


MOVES: dict[str, Callable[[ir.Node, ir.Value, np.ndarray], np.ndarray | None]] = {
    "Flatten": _reshape, "Gather": _gather, "Identity": _reshape, "Reshape": _reshape, "Slice": _slice,
    "Split": _split, "Squeeze": _reshape, "Transpose": _transpose, "Unsqueeze": _reshape,
}
"""By operator: (node, which output, index of the input) -> index of that output, or None if it cannot be told."""


def scalar_factor(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """For a Mul or Div of a tensor by a scalar constant: the tensor and the factor."""
    if node is None or node.domain or node.op_type not in ("Mul", "Div"):
        return None
    a, b = node.inputs
    if (number := scalar(b)) is not None and a is not None:
        tensor, factor = a, number if node.op_type == "Mul" else 1 / number
    elif (number := scalar(a)) is not None and b is not None and node.op_type == "Mul":
        tensor, factor = b, number
    else:
        return None
    return (tensor, factor) if static_shape(tensor) == static_shape(node.outputs[0]) else None


def origins(value: ir.Value) -> list[Moved]:
    """Every value that `value` is a rearrangement of, the furthest first and `value` itself last."""
    steps: list[tuple[ir.Node, ir.Value]] = []
    sources = [(value, 1.0)]
    while (node := value.producer()) is not None:
        scaled = scalar_factor(node)
        if scaled is None and (node.domain or node.op_type not in MOVES):
            break
        before = node.inputs[0] if scaled is None else scaled[0]
        if before is None or static_shape(before) is None:
            break
        steps.append((node, value))
        sources.append((before, sources[-1][1] * (1.0 if scaled is None else scaled[1])))
        value = before
    found = []
    for depth, (source, factor) in enumerate(sources):
        index = _send(source, steps[:depth][::-1])
        if index is None:
            break
        found.append(Moved(source, index, factor))
    return found[::-1]


def _send(source: ir.Value, steps: list[tuple[ir.Node, ir.Value]]) -> np.ndarray | None:
    """The index of the last step's output in terms of the source."""
    shape = static_shape(source)
    index = None if shape is None else np.arange(int(np.prod(shape))).reshape(shape)
    for node, output in steps:
        if index is None:
            break
        index = MOVES[node.op_type](node, output, index) if node.op_type in MOVES else index
    return index


def destinations(value: ir.Value) -> Iterator[tuple[ir.Value, np.ndarray]]:
    """The value and every rearrangement of it down the line while it has one reader, with its index into `value`."""
    source = value
    steps: list[tuple[ir.Node, ir.Value]] = []
    while (index := _send(source, steps)) is not None:
        yield value, index
        node = rewrite.only_use(value)
        if node is None or node.domain or node.op_type not in MOVES or len(node.outputs) != 1:
            return
        value = node.outputs[0]
        steps.append((node, value))
