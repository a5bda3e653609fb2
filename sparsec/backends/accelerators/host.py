"""What the accelerator does not have runs on the host, node by node: the work that this is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

MOVES = frozenset({"Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze",
                   "Transpose", "Unsqueeze"})
"""Operators that only move data."""


def flops(node: ir.Node, inputs: list[np.ndarray | None], outputs: list[np.ndarray]) -> int:
    """Floating-point operations of a node: two a multiply-add, one a pooled or an elementwise result, none a move."""
    if node.op_type in MOVES:
        return 0
    size = sum(int(y.size) for y in outputs if np.issubdtype(y.dtype, np.floating))
    if node.op_type == "MatMul" and inputs[0] is not None:
        return 2 * size * int(inputs[0].shape[-1])
    if node.op_type == "Attention" and inputs[1] is not None:
        return 4 * size * int(inputs[1].shape[-2])
    if node.op_type.startswith("Global") and inputs[0] is not None:
        return int(inputs[0].size)
    return size * int(np.prod(node.attributes.get_ints("kernel_shape", [1])))
