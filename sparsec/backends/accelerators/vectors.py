"""The dataflow: `sparsec::MatMul` and `sparsec::Conv` as products of one matrix and many vectors.

A token or a pixel is a vector. A convolution whose kernel is larger than one pixel multiplies what its kernel sees at
each output position (the host gathers it); groups are zero blocks of the matrix.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import scipy.linalg
from numpy.typing import NDArray

from sparsec.graph.operators import DOMAIN
from sparsec.graph.operators.conv import windows

KINDS = ("MatMul", "Conv")


def is_product(node: ir.Node) -> bool:
    """Whether the node is one that the accelerator runs."""
    return node.domain == DOMAIN and node.op_type in KINDS


def kind(node: ir.Node) -> str:
    """What the report calls the node."""
    if node.op_type == "MatMul":
        return "fully connected"
    return "1x1 convolution" if all(size == 1 for size in _kernel(node)) else "convolution by position"


def matrix(node: ir.Node) -> NDArray[np.float32]:
    """The node's weight as (outputs, inputs)."""
    stored = weight(node)
    rows = stored.reshape(len(stored), -1)
    group = node.attributes.get_int("group", 1)
    return rows if group == 1 else np.asarray(scipy.linalg.block_diag(*np.split(rows, group)), np.float32)


def bias(node: ir.Node) -> NDArray[np.float32] | None:
    """The node's bias (outputs,)."""
    return _constant(node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None


def unfold(node: ir.Node, x: np.ndarray) -> np.ndarray:
    """The node's activations as (vectors, inputs)."""
    if node.op_type == "MatMul":
        x = np.swapaxes(x, -1, -2) if _is_left(node) else x
        return x.reshape(-1, x.shape[-1])
    kernel = _kernel(node)
    rank = len(kernel)
    strides, dilations = (node.attributes.get_ints(name, [1] * rank) for name in ("strides", "dilations"))
    seen = windows(x, kernel, strides, node.attributes.get_ints("pads", [0] * 2 * rank), dilations)
    seen = np.moveaxis(seen, 1, 1 + rank)  # (N, *out, C, *kernel)
    return seen.reshape(-1, x.shape[1] * int(np.prod(kernel)))


def fold(node: ir.Node, y: NDArray[np.float32]) -> NDArray[np.float32]:
    """The node's output from (outputs, vectors)."""
    shape = node.outputs[0].shape
    assert shape is not None  # the lifting pass takes static shapes only
    out = shape.numpy()
    if node.op_type == "MatMul":
        if _is_left(node):
            return np.swapaxes(y.T.reshape(*out[:-2], out[-1], out[-2]), -1, -2)
        return y.T.reshape(out)
    return np.moveaxis(y.reshape(len(y), out[0], *out[2:]), 0, 1)


def weight(node: ir.Node) -> NDArray[np.float32]:
    """The node's weight, outputs first."""
    return _constant(node, 1)


def _constant(node: ir.Node, index: int) -> NDArray[np.float32]:
    value = node.inputs[index]
    assert value is not None  # the operators' schemas
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy(), np.float32)


def _kernel(node: ir.Node) -> tuple[int, ...]:
    weight = node.inputs[1]
    assert weight is not None  # the operator's schema
    assert weight.shape is not None
    return weight.shape.numpy()[2:]


def _is_left(node: ir.Node) -> bool:
    return node.attributes.get_string("side", "right") == "left"
