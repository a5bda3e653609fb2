"""Conv, MatMul and Gemm of codes by constant codes, and MatMul of codes by codes, become products of integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_constant, constant
from sparsec.graph.nodes import node_name, operand, optional
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.quantized import Codes, Quantized, dequantization, dequantized
from sparsec.graph.shapes import static_shape
from sparsec.passes.integers.result import Result, become, result_of
from sparsec.passes.lift import spelled_geometry

LARGEST_SUM = 1 << 31
LARGEST_BIAS = 1 << 22
"""Steps that a bias takes whose scale may be chosen."""
CODE_RANGE = 255
SHIFT = 128
CLOSE = 1e-3
"""How far, relative, the scale of an int32 bias may be from that of the products."""


@dataclass(frozen=True)
class Weight:
    """A constant weight of codes, outputs first: int8 codes, with scales and zero points by output."""

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray

    @property
    def magnitude(self) -> np.ndarray:
        """By output, the sum of what codes differ from their zero point."""
        centred = np.abs(self.codes.astype(np.int64) - self.zero_point.reshape(-1, *[1] * (self.codes.ndim - 1)))
        return np.asarray(centred.reshape(len(self.codes), -1).sum(axis=1))


@dataclass(frozen=True)
class Activation:
    """The codes that a layer reads, with constant parameters or with those that are found at run time."""

    codes: ir.Value
    attributes: Mapping[str, Any]
    dynamic: tuple[ir.Value | None, ir.Value | None] | None = None


def activation_of(value: ir.Value | None) -> Activation | str:
    """The codes that a value is dequantised from, or why there are none."""
    found = dequantization(value)
    if found is not None:
        return Activation(found.codes, {"x_scale": found.scale, "x_zero_point": found.zero_point})
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.domain or node.inputs[0] is None:
        return "its activations are not quantised"
    codes, scale, zero = (*node.inputs, None)[:3]
    if constant(scale) is not None or static_shape(scale) not in ((), (1,)) or codes is None:
        return "its activations have several scales, or codes that are not 8 bits wide"
    if codes.dtype not in (ir.DataType.UINT8, ir.DataType.INT8):
        return f"its activations are codes of {codes.dtype}"
    return Activation(codes, {}, (scale, zero))


def weight_of(codes: Codes | None, *, outputs: int) -> Weight | str:
    """The weight that constant codes are, whose axis `outputs` becomes the first; or why there is none."""
    if codes is None:
        return "its weight is not a quantised constant"
    if codes.codes.dtype not in (np.int8, np.uint8) or codes.axis not in (-1, outputs % codes.codes.ndim):
        return "its weight has scales along its inputs, or codes that are not 8 bits wide"
    shift = SHIFT if codes.codes.dtype == np.uint8 else 0
    array = np.moveaxis(codes.codes, outputs, 0)
    scale, zero = (np.broadcast_to(each.reshape(-1), (len(array),)) for each in (codes.scale, codes.zero_point))
    return Weight((array.astype(np.int16) - shift).astype(np.int8), scale.astype(np.float32),
                  (zero.astype(np.int32) - shift).astype(np.int8))


def conv(node: ir.Node) -> str | None:
    """Turns a Conv into sparsec::QConv, or says why not.

    One whose scale is found at run time or whose result is not quantised computes on the floats that codes stand for.
    """
    x, weight = activation_of(node.inputs[0]), weight_of(dequantized(node.inputs[1]), outputs=0)
    shape = static_shape(node.inputs[0])
    if isinstance(x, str):
        return x
    if isinstance(weight, str):
        return weight
    if x.dynamic is not None:
        _round_input(node)
        return None
    if result_of(node, 1).attributes["y_type"] == "float32":
        return None
    rank = weight.codes.ndim - 2
    if rank not in (1, 2) or shape is None:
        return f"it has {rank} spatial dimensions, not 1 or 2"
    bias = optional(node, 2)
    return _product(node, "QConv", x, weight, bias, 1, spelled_geometry(node, weight.codes.shape, shape))


def _round_input(node: ir.Node) -> None:
    """Lets a layer on floats read what dynamic quantisation leaves of its input, without codes in between."""
    back = operand(node, 0).producer()
    codes = None if back is None else operand(back, 0).producer()
    if back is None or codes is None or codes.op_type != "DynamicQuantizeLinear" or codes.domain or tuple(
            back.inputs[1:3]) != tuple(codes.outputs[1:3]):
        return
    x = operand(codes, 0)
    found = [user for user, _ in x.uses() if user.domain == DOMAIN and user.op_type == "FakeQuantize"]
    if not found:
        found = [ir.node("FakeQuantize", [x], domain=DOMAIN, name=f"{node_name(codes)}/rounded")]
        codes.prepend(found[0])
        found[0].outputs[0].type, found[0].outputs[0].shape = x.type, x.shape
    node.replace_input_with(0, found[0].outputs[0])


def matmul(node: ir.Node) -> str | None:
    """Turns a MatMul into sparsec::QMatMul or sparsec::QBatchMatMul, or says why not."""
    right = dequantized(node.inputs[1])
    if right is None:
        return _batch_matmul(node)
    x = activation_of(node.inputs[0])
    if isinstance(x, str):
        return x
    if right.codes.ndim != 2:
        return f"its constant has rank {right.codes.ndim}, it is not one matrix"
    weight = weight_of(right, outputs=1)
    return weight if isinstance(weight, str) else _product(node, "QMatMul", x, weight, None, -1, {})


def gemm(node: ir.Node) -> str | None:
    """Turns a Gemm into sparsec::QMatMul, or says why not."""
    x, flipped = activation_of(node.inputs[0]), bool(node.attributes.get_int("transB", 0))
    weight = weight_of(dequantized(node.inputs[1]), outputs=0 if flipped else 1)
    if isinstance(x, str):
        return x
    if isinstance(weight, str):
        return weight
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    if node.attributes.get_int("transA", 0) or beta != 1.0:
        return "its activations are transposed, or its addend is scaled"
    if alpha != 1.0:
        weight = Weight(weight.codes, weight.scale * np.float32(alpha), weight.zero_point)
    bias = optional(node, 2)
    return _product(node, "QMatMul", x, weight, bias, -1, {})


def _product(node: ir.Node, op_type: str, x: Activation, weight: Weight, bias: ir.Value | None, axis: int,
             geometry: Mapping[str, Any]) -> str | None:
    scale = weight.scale * np.float32(x.attributes.get("x_scale", 1.0))
    found = _bias_of(bias, scale, is_dynamic=x.dynamic is not None)
    if found is None:
        return "its bias is computed, or not one number for every output"
    codes, floats = found
    result = result_of(node, axis)
    if x.dynamic is not None and result.attributes["y_type"] != "float32":
        result = Result(node, {"y_type": "float32"})
    if result.bias is not None:
        floats = result.bias if floats is None else floats + result.bias
    if floats is not None and result.attributes["y_type"] != "float32":
        weight = _without_zero_scales(weight, floats / np.float32(x.attributes.get("x_scale", 1.0)))
        scale = weight.scale * np.float32(x.attributes.get("x_scale", 1.0))
        rounded = np.rint(floats.astype(np.float64) / scale)
        codes, floats = rounded if codes is None else codes + rounded, None
    most = CODE_RANGE * weight.magnitude + (0 if codes is None else np.abs(codes))
    if not np.isfinite(most).all() or most.max(initial=0) >= LARGEST_SUM or not np.isfinite(scale).all():
        return "its sums may exceed 32 bits"
    graph, name = node.graph, node_name(node)
    assert graph is not None

    def add(suffix: str, array: np.ndarray | None, dtype: Any) -> ir.Value | None:
        return None if array is None else add_constant(graph, f"{name}.{suffix}", np.asarray(array, dtype))

    inputs = [x.codes, add("codes", weight.codes, np.int8), add("scale", weight.scale, np.float32),
              add("zero_point", weight.zero_point if weight.zero_point.any() else None, np.int8),
              add("bias", codes, np.int32), add("float_bias", floats, np.float32)]
    inputs += [] if x.dynamic is None else [None, *x.dynamic]
    while inputs[-1] is None:
        inputs.pop()
    become(node, result, ir.node(op_type, inputs, {**geometry, **x.attributes, **result.attributes}, domain=DOMAIN,
                                 name=name))
    return None


def _without_zero_scales(weight: Weight, bias: np.ndarray) -> Weight:
    """The weight with other scales where one is 0, of which its bias, in units of the activations, is whole numbers."""
    zero = weight.scale == 0
    if not zero.any():
        return weight
    codes = np.where(zero.reshape(-1, *[1] * (weight.codes.ndim - 1)),
                     weight.zero_point.reshape(-1, *[1] * (weight.codes.ndim - 1)), weight.codes)
    unit = np.asarray(np.abs(bias) / LARGEST_BIAS, np.float32)
    return Weight(codes, np.where(zero, np.where(unit > 0, unit, np.float32(1)), weight.scale), weight.zero_point)


def _bias_of(bias: ir.Value | None, scale: np.ndarray, *,
             is_dynamic: bool) -> tuple[np.ndarray | None, np.ndarray | None] | None:
    """A bias as codes in units of the scale, or as floats; None where it is neither."""
    if bias is None:
        return None, None
    codes = dequantized(bias)
    array = codes.values() if codes is not None else constant(bias)
    if array is None or array.size not in (1, len(scale)):
        return None
    if codes is not None and codes.codes.dtype == np.int32 and not is_dynamic and np.allclose(
            codes.scale.reshape(-1), scale, rtol=CLOSE, atol=0) and not codes.zero_point.any():
        return np.broadcast_to(codes.codes.reshape(-1), scale.shape).astype(np.float64), None
    return None, np.broadcast_to(array.reshape(-1), scale.shape).astype(np.float32)


def _batch_matmul(node: ir.Node) -> str | None:
    a, b = (dequantization(value) for value in node.inputs)
    if a is None or b is None:
        return f"its {'first' if a is None else 'second'} operand is not quantised to 8 bits with one constant scale"
    if min(len(static_shape(value) or ()) for value in node.inputs) < 2:
        return "an operand is a vector"
    depth = (static_shape(node.inputs[0]) or (0,))[-1]
    if CODE_RANGE * CODE_RANGE * depth >= LARGEST_SUM:
        return "its sums may exceed 32 bits"
    result = result_of(node)
    attributes = {**_of("a", a), **_of("b", b), **result.attributes}
    become(node, result, ir.node("QBatchMatMul", [a.codes, b.codes], attributes, domain=DOMAIN,
                                 name=node_name(node)))
    return None


def _of(letter: str, of: Quantized) -> dict[str, Any]:
    return {f"{letter}_scale": of.scale, f"{letter}_zero_point": of.zero_point}


RULES = {"Conv": conv, "Gemm": gemm, "MatMul": matmul}
"""By operator: turns a node into an operator on integers, or returns why not."""
