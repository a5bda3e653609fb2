"""onnxruntime's own quantised operators (domain com.microsoft) as DequantizeLinear, ONNX's operator, QuantizeLinear."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.constants import constant
from sparsec.graph.nodes import node_name
from sparsec.passes.quantized import blocks, qoperator
from sparsec.passes.quantized.qoperator import bias_of, dtype_of
from sparsec.passes.quantized.writer import Writer

DOMAIN = "com.microsoft"
WIDE = (ir.DataType.UINT16, ir.DataType.INT16)
CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)
"""The orders of dimensions that bring channels to the front, and to the end."""
SAME = ("kernel_shape", "strides", "pads", "dilations", "auto_pad", "ceil_mode", "count_include_pad")


def _attributes(w: Writer, *names: str) -> dict[str, Any]:
    return {name: w.node.attributes[name].value for name in names if name in w.node.attributes}


def _binary(operator: str, w: Writer) -> None:
    a, b = w.needed(0), w.needed(3)
    y = w.put(operator, w.dequantize(a, w.needed(1), w.input(2)), w.dequantize(b, w.needed(4), w.input(5)))
    w.replace(w.quantize(y, w.needed(6), w.input(7), dtype_of(a)))


def _unary(operator: str, names: tuple[str, ...], w: Writer) -> None:
    x, last = w.needed(0), w.node.attributes.get_int("channels_last", 0)
    values = w.dequantize(x, w.needed(1), w.input(2))
    y = w.put(operator, _turned(w, values, FIRST) if last else values, **_attributes(w, *names))
    w.replace(w.quantize(_turned(w, y, LAST) if last else y, w.needed(3), w.input(4), dtype_of(x)))


def _turned(w: Writer, x: ir.Value, order: tuple[int, ...]) -> ir.Value:
    return w.put("Transpose", x, perm=list(order))


def _conv(w: Writer) -> None:
    """QLinearConv of ONNX, on images whose channels may be last; the weight is as ONNX's."""
    last = w.node.attributes.get_int("channels_last", 0)
    x = _turned(w, w.needed(0), FIRST) if last else w.needed(0)
    y = w.put("QLinearConv", x, *w.node.inputs[1:], **_attributes(w, *CONV))
    inner = y.producer()
    assert inner is not None
    w.replace(_turned(w, y, LAST) if last else y)
    qoperator.WRITERS["", "QLinearConv"](Writer(inner))
    assert inner.graph is not None
    inner.graph.remove(inner, safe=True)


def _where(w: Writer) -> None:
    """Where of two tensors of codes, each with its own parameters."""
    x, y = (w.dequantize(w.needed(index), w.needed(index + 1), w.input(index + 2)) for index in (1, 4))
    w.replace(w.quantize(w.put("Where", w.needed(0), x, y), w.needed(7), w.input(8), dtype_of(w.needed(1))))


def _concat(w: Writer) -> None:
    parts = [w.dequantize(w.needed(index), w.needed(index + 1), w.input(index + 2))
             for index in range(2, len(w.node.inputs), 3)]
    y = w.put("Concat", *parts, **_attributes(w, "axis"))
    w.replace(w.quantize(y, w.needed(0), w.input(1), dtype_of(w.needed(2))))


def _gemm(w: Writer) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero = (w.needed(index) for index in range(6))
    bias, y_scale = w.input(6), w.input(7)
    rows = -2 if w.node.attributes.get_int("transB", 0) else -1
    inputs = [w.dequantize(a, a_scale, a_zero), w.dequantize(b, b_scale, b_zero, axis=rows)]
    alpha = w.node.attributes.get_float("alpha", 1.0)
    if bias is not None:
        inputs.append(_scaled_bias(w, bias_of(w, bias, a_scale, b_scale), alpha))
    y = w.put("Gemm", *inputs, **_attributes(w, "transA", "transB", "alpha"))
    w.replace(y if y_scale is None else w.quantize(y, y_scale, w.input(8), dtype_of(a)))


def _scaled_bias(w: Writer, bias: ir.Value, alpha: float) -> ir.Value:
    """QGemm's alpha multiplies the bias, too."""
    return bias if alpha == 1 else w.put("Mul", bias, w.constant(alpha))


def _matmul_to_float(w: Writer) -> None:
    a, b, a_scale, b_scale = (w.needed(index) for index in range(4))
    y = w.put("MatMul", w.dequantize(a, a_scale, w.input(4), axis=-2), w.dequantize(b, b_scale, w.input(5), axis=-1))
    w.replace(y if w.input(6) is None else w.put("Add", y, w.input(6)))


def _dynamic_matmul(w: Writer) -> None:
    codes, scale, zero = w.several("DynamicQuantizeLinear", 3, w.needed(0))
    y = w.put("MatMul", w.dequantize(codes, scale, zero), w.dequantize(w.needed(1), w.needed(2), w.input(3), axis=-1))
    w.replace(y if w.input(4) is None else w.put("Add", y, w.input(4)))


def _softmax(w: Writer) -> None:
    """Before opset 13 all axes from the given one on are one; that is the same where it is the last."""
    axis, shape = w.node.attributes.get_int("axis", -1), w.needed(0).shape
    if (w.node.attributes.get_int("opset", 13) or 13) < 13 and axis != -1 and (shape is None or axis != len(shape) - 1):
        raise UnsupportedOperatorError(f"node '{node_name(w.node)}' (QLinearSoftmax): it normalises several "
                                       "axes as one, as before opset 13; export the model with a newer opset")
    _unary("Softmax", ("axis",), w)


def _quantize(w: Writer) -> None:
    """With types that ONNX's operator of the model's opset may lack, which are written out."""
    x, scale, zero = w.needed(0), w.needed(1), w.input(2)
    dtype = dtype_of(x if zero is None else zero)
    if dtype not in WIDE or (scale.shape is not None and len(scale.shape) > 0 and scale.shape[0] != 1):
        w.node.domain = ""
        return
    low, high = np.iinfo(dtype.numpy()).min, np.iinfo(dtype.numpy()).max
    codes = w.put("Round", w.put("Div", x, scale))
    if zero is not None:
        codes = w.put("Add", codes, w.put("Cast", zero, to=ir.DataType.FLOAT))
    w.replace(w.put("Cast", w.put("Clip", codes, w.constant(low), w.constant(high)), to=dtype))


def _dequantize(w: Writer) -> None:
    x, scale, zero = w.needed(0), w.needed(1), w.input(2)
    if dtype_of(x) not in WIDE or (scale.shape is not None and len(scale.shape) > 0 and scale.shape[0] != 1):
        w.node.domain = ""
        return
    values = w.put("Cast", x, to=ir.DataType.FLOAT)
    if zero is not None:
        values = w.put("Sub", values, w.put("Cast", zero, to=ir.DataType.FLOAT))
    w.replace(w.put("Mul", values, scale))


def _dynamic_lstm(w: Writer) -> None:
    """An LSTM by the weights that the codes stand for, of inputs quantised as one; its states stay floats.

    onnxruntime quantises the states of every step, too, which moves its results by that rounding.
    """
    weights = []
    for index, first in ((1, 8), (2, 10)):
        codes, scale, zero = (constant(w.input(each)) for each in (index, first, first + 1))
        if codes is None or scale is None or zero is None:
            raise UnsupportedOperatorError(f"node '{node_name(w.node)}' (DynamicQuantizeLSTM): its weights are "
                                           "computed; export it with constant ones")
        scale, zero = (each.reshape(len(codes), 1, -1).astype(np.float32) for each in (scale, zero))
        weights.append(w.constant(np.ascontiguousarray(((codes - zero) * scale).swapaxes(1, 2))))
    x, x_scale, x_zero = w.several("DynamicQuantizeLinear", 3, w.needed(0))
    inputs = [w.dequantize(x, x_scale, x_zero), *weights, *(w.input(index) for index in range(3, 8))]
    attributes = {name: each.value for name, each in w.node.attributes.items()}
    for index, value in enumerate(w.several("LSTM", len(w.node.outputs), *inputs, **attributes)):
        w.replace(value, index)


def _attention(w: Writer) -> None:
    """Attention by a weight of codes, with everything behind the projections in floats."""
    x = w.dequantize(w.needed(0), w.needed(3), w.input(6))
    weight = w.dequantize(w.needed(1), w.needed(4), w.input(7), axis=1)
    attributes = {name: each.value for name, each in w.node.attributes.items()}
    outputs = w.several("Attention", len(w.node.outputs), x, weight, w.needed(2), w.input(5), w.input(8),
                        domain=DOMAIN, **attributes)
    for index, value in enumerate(outputs):
        w.replace(value, index)


def _embed(w: Writer) -> None:
    """EmbedLayerNormalization by tables, a scale and a bias that are codes."""
    tables = [None if codes is None else w.dequantize(codes, w.needed(index + 6), w.input(index + 11))
              for index in range(2, 7) for codes in (w.input(index),)]
    outputs = w.several("EmbedLayerNormalization", len(w.node.outputs), w.needed(0), w.input(1), *tables, w.input(7),
                        domain=DOMAIN, **_attributes(w, "epsilon"))
    for index, value in enumerate(outputs):
        w.replace(value, index)


WRITERS: dict[tuple[str, str], Callable[[Writer], None]] = {
    (DOMAIN, "QLinearAdd"): partial(_binary, "Add"),
    (DOMAIN, "QLinearMul"): partial(_binary, "Mul"),
    (DOMAIN, "QLinearSigmoid"): partial(_unary, "Sigmoid", ()),
    (DOMAIN, "QLinearLeakyRelu"): partial(_unary, "LeakyRelu", ("alpha",)),
    (DOMAIN, "QLinearSoftmax"): _softmax,
    (DOMAIN, "QLinearAveragePool"): partial(_unary, "AveragePool", SAME),
    (DOMAIN, "QLinearGlobalAveragePool"): partial(_unary, "GlobalAveragePool", ()),
    (DOMAIN, "QLinearConcat"): _concat,
    (DOMAIN, "QGemm"): _gemm,
    (DOMAIN, "MatMulIntegerToFloat"): _matmul_to_float,
    (DOMAIN, "DynamicQuantizeMatMul"): _dynamic_matmul,
    (DOMAIN, "DynamicQuantizeLSTM"): _dynamic_lstm,
    (DOMAIN, "QAttention"): _attention,
    (DOMAIN, "QEmbedLayerNormalization"): _embed,
    (DOMAIN, "QLinearConv"): _conv,
    (DOMAIN, "QLinearWhere"): _where,
    **{(DOMAIN, name): write for name, write in blocks.WRITERS.items()},
    (DOMAIN, "QuantizeLinear"): _quantize,
    (DOMAIN, "DequantizeLinear"): _dequantize,
}
"""By domain and operator, as `qoperator.WRITERS`."""
