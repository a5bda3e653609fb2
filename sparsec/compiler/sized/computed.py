"""Which nodes between stages of rows a device computes itself at any sizes, and in which element types."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.graph.annotations import HALF
from sparsec.graph.constants import constant
from sparsec.graph.nodes import optional
from sparsec.graph.sized import Computed

Kernels = Callable[[str, Sequence[str], str], "Sequence[Computed] | str"]
"""`Backend.computes`."""
FLOATS = (None, ir.DataType.FLOAT)
CLIP, ONE_BOUND = "Clip", 2
"""The operator that is a maximum or a minimum where it has one bound alone, and its operands then."""
ONE_OPERAND = ("LogSoftmax", "Softmax", "TopK")
"""Operators beside reductions whose other inputs are no data."""

BOUNDED = ("Abs", "Clip", "Erf", "Gather", "GatherElements", "Max", "Min", "Neg", "Relu", "Sigmoid", "Softmax", "Tanh",
           "TopK", "Where")
"""Operators whose results are no larger than what they read, or than one."""


def stored(value: ir.Value) -> str:
    """The name of the element type that a value has between stages."""
    return HALF.get(value) or ("float32" if value.dtype is None else value.dtype.numpy().name)


def kernels_of(node: ir.Node, kernels: Kernels) -> Sequence[Computed] | str:
    """The kernels that compute a node, or why there are none."""
    if node.domain or len(node.outputs) != (2 if node.op_type == "TopK" else 1):
        return f"there is no kernel of '{node.op_type}' of such outputs"
    given = _operands(node)
    if any(value is None for value in node.inputs[:len(given)]) and node.op_type != CLIP:
        return f"there is no kernel of '{node.op_type}' without some of its operands"
    axes = optional(node, 1) if node.op_type.startswith("Reduce") else None
    if axes is not None and constant(axes) is None:
        return "the axes are computed"
    one_bound = node.op_type == CLIP and len(given) == ONE_BOUND
    operator = ("Min" if optional(node, 1) is None else "Max") if one_bound else node.op_type
    return kernels(operator, [stored(value) for value in given], stored(node.outputs[0]))


def _operands(node: ir.Node) -> list[ir.Value]:
    """What a node reads that is data."""
    single = node.op_type.startswith("Reduce") or node.op_type in ONE_OPERAND
    return [value for value in (node.inputs[:1] if single else node.inputs) if value is not None]


def is_half(node: ir.Node, kernels: Kernels) -> bool:
    """Whether what a node computes is stored in half precision: where all that it reads is, and nothing grows larger.

    Products by the weights of a softmax do not.
    """
    floats = [value for value in _operands(node) if value.dtype in FLOATS]
    halves = all(_is_small(value) if constant(value) is not None else HALF.get(value) is not None for value in floats)
    source = floats[0].producer() if floats else None
    bounded = node.op_type in BOUNDED or (
        node.op_type == "MatMul" and source is not None and source.op_type == "Softmax")
    return bool(floats) and halves and bounded and not isinstance(kernels_of(node, kernels), str)


def _is_small(value: ir.Value) -> bool:
    """Whether a constant has no number that half precision lacks."""
    array = constant(value)
    return array is not None and bool(np.all(np.abs(array) <= np.finfo(np.float16).max))
