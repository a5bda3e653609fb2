"""How codes of quantised tensors lie in memory, and what kernels can multiply of a quantised weight."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.graph.nodes import operand, optional
from sparsec.graph.operators import products
from sparsec.graph.shapes import static_shape

CODE_TYPES = (ir.DataType.UINT8, ir.DataType.INT8)
"""The element types of quantised activations."""
SIGNED = 128
"""What codes of int8 lie higher by in the layouts of images and tokens, where all codes are unsigned bytes."""
FEW_ROWS = 4
"""Rows of activations up to which a linear layer of codes takes them row-major, rather than in tiles of tokens."""
LEAST, MOST = -128, 127
"""Weights less their zero points that kernels multiply."""


def centred_weight(node: ir.Node) -> np.ndarray | None:
    """The constant weight of a QConv or QMatMul less its zero points, or None where it is computed."""
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return None
    codes = weight.const_value.numpy().astype(np.int32)
    zero = optional(node, products.ZERO_POINT)
    if zero is None:
        return codes
    if zero.const_value is None:
        return None
    return np.asarray(codes - zero.const_value.numpy().astype(np.int32).reshape(-1, *[1] * (codes.ndim - 1)))


def weight_fits(node: ir.Node) -> bool:
    """Whether kernels can multiply the weight: it is constant, see `byte_parts`, and not empty."""
    weight = centred_weight(node)
    return weight is not None and weight.size > 0


def byte_parts(weight: np.ndarray) -> list[np.ndarray]:
    """One to three arrays of int8 whose sum is a weight less its zero points, within -255 and 255.

    A product by every one of them adds up to that by the weight; the parts after the first are mostly zeros.
    """
    parts: list[np.ndarray] = []
    rest = weight
    while not parts or rest.any():
        part = np.clip(rest, LEAST, MOST)
        parts.append(part.astype(np.int8))
        rest = rest - part
    return parts


def constant_residual(node: ir.Node) -> np.ndarray | None:
    """The codes of a residual that is one constant for every output of a QConv or QMatMul (outputs,), or None."""
    residual = optional(node, products.RESIDUAL)
    weight, result = static_shape(operand(node, 1)), static_shape(node.outputs[0])
    if residual is None or residual.const_value is None or not weight or not result:
        return None
    codes = residual.const_value.numpy()
    axis = len(result) - 1 if node.op_type == "QMatMul" else 1
    aligned = codes.reshape((1,) * (len(result) - codes.ndim) + codes.shape)
    if any(dim != 1 for index, dim in enumerate(aligned.shape) if index != axis):
        return None
    return np.broadcast_to(aligned.reshape(-1), weight[:1])


def joins_residual(node: ir.Node) -> bool:
    """Whether kernels can add the residual: there is none, a constant for every output, or a tensor like the result."""
    residual = optional(node, products.RESIDUAL)
    return residual is None or constant_residual(node) is not None or (
        residual.const_value is None and static_shape(residual) == static_shape(node.outputs[0]))


def padding_code(node: ir.Node) -> int:
    """The byte that stands for zero around a QConv's input, as it lies in memory."""
    return node.attributes.get_int("x_zero_point", 0) + offset_of(operand(node, 0).dtype)


def offset_of(dtype: str | ir.DataType | None) -> int:
    """What is added to codes of a type where they lie as unsigned bytes."""
    return SIGNED if dtype in ("int8", ir.DataType.INT8) else 0
