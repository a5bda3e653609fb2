"""ONNX's QLinearConv and QLinearMatMul, which take codes and give codes, as DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import constant
from sparsec.passes.quantized.writer import Writer


def dtype_of(value: ir.Value) -> ir.DataType:
    """A value's element type, uint8 where it is not known."""
    return value.dtype or ir.DataType.UINT8


def bias_of(w: Writer, bias: ir.Value, x_scale: ir.Value, w_scale: ir.Value) -> ir.Value:
    """An int32 bias, in units of the product of both scales."""
    x, s = constant(x_scale), constant(w_scale)
    if x is None or s is None:
        scale = w.put("Mul", x_scale, w_scale)
        return w.put("Mul", w.put("Cast", bias, to=ir.DataType.FLOAT), scale)
    return w.dequantize(bias, w.constant((x.reshape(-1) * s.reshape(-1)).astype(np.float32)), None, axis=0)


def _conv(w: Writer) -> None:
    x, x_scale, x_zero, weight, w_scale, w_zero, y_scale, y_zero = (w.needed(index) for index in range(8))
    inputs = [w.dequantize(x, x_scale, x_zero), w.dequantize(weight, w_scale, w_zero, axis=0)]
    bias = w.input(8)
    if bias is not None:
        inputs.append(bias_of(w, bias, x_scale, w_scale))
    y = w.put("Conv", *inputs, **{name: attribute.value for name, attribute in w.node.attributes.items()})
    w.replace(w.quantize(y, y_scale, y_zero, dtype_of(x)))


def _matmul(w: Writer) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (w.needed(index) for index in range(8))
    y = w.put("MatMul", w.dequantize(a, a_scale, a_zero, axis=-2), w.dequantize(b, b_scale, b_zero, axis=-1))
    w.replace(w.quantize(y, y_scale, y_zero, dtype_of(a)))


WRITERS: dict[tuple[str, str], Callable[[Writer], None]] = {
    ("", "QLinearConv"): _conv, ("", "QLinearMatMul"): _matmul,
}
"""By domain and operator: writes the node out and takes its place."""
