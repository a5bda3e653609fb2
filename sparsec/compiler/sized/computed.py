"""Which nodes between stages of rows a device computes itself at any sizes, and in which element types."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from sparsec.graph.annotations import HALF
from sparsec.graph.constants import constant
from sparsec.graph.nodes import optional
from sparsec.graph.sized import Computed

Kernels = Callable[[str, Sequence[str], str], "Sequence[Computed] | str"]
"""`Backend.computes`."""
FLOATS = (None, ir.DataType.FLOAT)
ONE_OPERAND = ("LogSoftmax", "Softmax")
"""Operators beside reductions whose other inputs are no data."""
TAKES = ("Gather", "GatherElements")
"""Operators whose result has the element type of the first operand."""


def stored(value: ir.Value) -> str:
    """The name of the element type that a value has between stages."""
    return HALF.get(value) or ("float32" if value.dtype is None else value.dtype.numpy().name)


def kernels_of(node: ir.Node, kernels: Kernels) -> Sequence[Computed] | str:
    """The kernels that compute a node, or why there are none."""
    if node.domain or len(node.outputs) != 1:
        return f"there is no kernel of '{node.op_type}' of such outputs"
    given = _operands(node)
    if any(value is None for value in node.inputs[:len(given)]):
        return f"there is no kernel of '{node.op_type}' without some of its operands"
    axes = optional(node, 1) if node.op_type.startswith("Reduce") else None
    if axes is not None and constant(axes) is None:
        return "the axes are computed"
    return kernels(node.op_type, [stored(value) for value in given], stored(node.outputs[0]))


def _operands(node: ir.Node) -> list[ir.Value]:
    """What a node reads that is data."""
    single = node.op_type.startswith("Reduce") or node.op_type in ONE_OPERAND
    return [value for value in (node.inputs[:1] if single else node.inputs) if value is not None]


def is_half(node: ir.Node, kernels: Kernels) -> bool:
    """Whether what a node computes is stored in half precision: where all floats that it reads are, and it adds up few.

    Reductions are float32, which small results may be.
    """
    floats = [value for value in _operands(node) if value.dtype in FLOATS]
    kept = [value for value in floats if constant(value) is None]
    halves = bool(kept) and all(HALF.get(value) is not None for value in kept)
    return halves and not node.op_type.startswith("Reduce") and not isinstance(kernels_of(node, kernels), str)
