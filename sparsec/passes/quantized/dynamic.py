"""Products of integers that a scale turns into floats: MatMulInteger or ConvInteger, Cast, Mul.

That is how onnxruntime, Optimum and SparseML write dynamic quantisation, and SparseML static one. In front of the Cast
an int32 bias may be added. The scale is a product of constants and, for dynamic quantisation, of the scale that
DynamicQuantizeLinear found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import constant
from sparsec.passes import rewrite
from sparsec.passes.quantized.writer import Writer

FLOATS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


@dataclass(frozen=True)
class _Tail:
    """What follows the product: the node whose output is the float result, its scale and a bias in front."""

    last: ir.Node
    scale: ir.Value
    bias: np.ndarray | None


def run(node: ir.Node) -> str | None:
    """Writes a product of integers out, with what follows; why not, where something else follows it."""
    tail = _tail(node)
    if tail is None:
        return "no scale follows its product"
    x = node.inputs[0]
    factors = _factors(tail.scale)
    assert x is not None
    found = x.producer()
    dynamic = None if found is None or found.op_type != "DynamicQuantizeLinear" else found.outputs[1]
    constants = [constant(value) for value in factors if value is not dynamic]
    if any(array is None for array in constants) or factors.count(dynamic or x) > 1:
        return "its scale is computed"
    scale = np.ones((), np.float32)
    for array in constants:
        assert array is not None
        scale = np.asarray(scale * array, np.float32)
    channels = _by_output(node, scale)
    if channels is None:
        return "its scale differs within an output"
    if tail.bias is not None and (dynamic in factors or _by_output(node, tail.bias) is None):
        return "its bias is not one number for every output, or meets a scale found at run time"
    _write(Writer(tail.last), node, tail, dynamic if dynamic in factors else None, channels)
    return None


def _tail(node: ir.Node) -> _Tail | None:
    user, bias = rewrite.only_use(node.outputs[0]), None
    if user is not None and user.op_type == "Add" and not user.domain:
        other = user.inputs[1] if user.inputs[0] is node.outputs[0] else user.inputs[0]
        bias = constant(other)
        user = rewrite.only_use(user.outputs[0]) if bias is not None else None
    if user is None or user.op_type != "Cast" or user.attributes.get_int("to", 0) != ir.DataType.FLOAT:
        return None
    last = rewrite.only_use(user.outputs[0])
    if last is None or last.op_type != "Mul" or last.domain:
        return None
    scale = last.inputs[1] if last.inputs[0] is user.outputs[0] else last.inputs[0]
    return None if scale is None else _Tail(last, scale, bias)


def _factors(value: ir.Value) -> list[ir.Value]:
    """The values that a product of scales multiplies."""
    node = value.producer()
    if node is not None and node.op_type == "Mul" and not node.domain:
        return [factor for each in node.inputs if each is not None for factor in _factors(each)]
    return [value]


def _by_output(node: ir.Node, array: np.ndarray) -> np.ndarray | None:
    """An array that broadcasts to the product, as one number or one for every output; None where it is neither."""
    if array.size == 1:
        return array.reshape(())
    trailing = array.ndim - 1 if node.op_type == "MatMulInteger" else array.ndim - 3
    axis = trailing if node.op_type == "MatMulInteger" else 1 if array.ndim == 4 else trailing
    return array.reshape(-1) if 0 <= axis < array.ndim and array.shape[axis] == array.size else None


def _write(w: Writer, node: ir.Node, tail: _Tail, dynamic: ir.Value | None, scale: np.ndarray) -> None:
    x, weight, x_zero, w_zero = (*node.inputs, None, None)[:4]
    assert x is not None
    assert weight is not None
    axis = -1 if node.op_type == "MatMulInteger" else 0
    one = w.constant(1.0) if dynamic is None else dynamic
    inputs = [w.dequantize(x, one, x_zero), w.dequantize(weight, w.constant(scale), w_zero, axis=axis)]
    attributes: dict[str, Any] = {name: attribute.value for name, attribute in node.attributes.items()}
    y = w.put(FLOATS[node.op_type], *inputs, **attributes)
    if tail.bias is not None:
        bias = _by_output(node, tail.bias)
        assert bias is not None
        shape = np.broadcast_shapes(bias.shape, scale.shape)
        codes, units = np.broadcast_to(bias, shape), np.broadcast_to(scale, shape)
        floats = w.dequantize(w.constant(codes, np.int32), w.constant(units), None, axis=0)
        if axis == 0 and shape:
            floats = w.put("Reshape", floats, w.constant((-1, 1, 1), np.int64))
        y = w.put("Add", y, floats)
    w.replace(y)
