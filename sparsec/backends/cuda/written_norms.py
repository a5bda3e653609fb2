"""Norms as the graph has them, among them those without mean, which exporters write out over the last axis:

    x / sqrt(mean(x^2) + epsilon) * scale

The square may be Pow or Mul, and the division a multiplication by the inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sparsec.backends.cuda.context import CudaContext
from sparsec.backends.relax.importer.node import input_axes
from sparsec.graph.constants import constant_shape, scalar
from sparsec.graph.nodes import operand
from sparsec.graph.shapes import static_shape


@dataclass(frozen=True)
class Norm:
    """A norm as the graph has it.

    Attributes:
        node: the last of its nodes.
        x: what it normalises.
        axis: from which axis on.
        epsilon: added to the variance.
        parameters: scale, and bias where there is one.
        readers: those of its nodes that read x.
        centred: as of `NormParams`.

    """

    node: ir.Node
    x: ir.Value
    axis: int
    epsilon: float
    parameters: tuple[ir.Value, ...]
    readers: tuple[ir.Node | None, ...]
    centred: bool = True


def without_mean(context: CudaContext, node: ir.Node) -> Norm | None:
    """The norm that a Mul by its scale ends; None for anything else."""
    for scale, quotient in (node.inputs, node.inputs[::-1]):
        shape = constant_shape(scale)
        found = _quotient(quotient)
        if scale is None or quotient is None or shape is None or found is None:
            continue
        x, variance = found
        dims, added = static_shape(x), _producer(variance, "Add")
        if not dims or shape != dims[-1:] or added is None:
            continue
        for mean, epsilon in (added.inputs, added.inputs[::-1]):
            reduced, number = _producer(mean, "ReduceMean"), scalar(epsilon)
            if number is None or reduced is None or not _is_square(reduced.inputs[0], x):
                continue
            if input_axes(context, reduced) in ([-1], [len(dims) - 1]) and static_shape(mean) == (*dims[:-1], 1):
                readers = quotient.producer(), operand(reduced, 0).producer()
                return Norm(node, x, len(dims) - 1, number, (scale,), readers, centred=False)
    return None


def _quotient(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """The x and v of x / sqrt(v) or x * (1 / sqrt(v))."""
    if (node := _producer(value, "Div")) is not None:
        return _with_root(node.inputs[0], node.inputs[1])
    if (node := _producer(value, "Mul")) is None:
        return None
    for x, inverse in (node.inputs, node.inputs[::-1]):
        divided = _producer(inverse, "Div", "Reciprocal")
        if divided is not None and (divided.op_type == "Reciprocal" or scalar(divided.inputs[0]) == 1):
            return _with_root(x, divided.inputs[-1])
    return None


def _with_root(x: ir.Value | None, root: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    node = _producer(root, "Sqrt")
    return None if node is None or x is None else (x, operand(node, 0))


def _is_square(value: ir.Value | None, x: ir.Value) -> bool:
    """Whether a value is x^2."""
    node = _producer(value, "Mul", "Pow")
    if node is None or node.inputs[0] is not x:
        return False
    return node.inputs[1] is x if node.op_type == "Mul" else scalar(node.inputs[1]) == 2


def _producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """ONNX's node of one of these types that computes a value."""
    node = None if value is None else value.producer()
    return node if node is not None and not node.domain and node.op_type in op_types else None
