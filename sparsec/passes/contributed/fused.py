"""Activations, products and convolutions that onnxruntime has fused with what stands beside them."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsec.passes.contributed.body import Body

CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def gelu(b: Body) -> None:
    """Gelu(X)."""
    b.result(0, b.gelu(b.needed(0)))


def bias_gelu(b: Body) -> None:
    """Gelu(A + B)."""
    b.result(0, b.gelu(b.put("Add", b.needed(0), b.needed(1))))


def fast_gelu(b: Body) -> None:
    """Gelu by tanh of X + bias."""
    b.result(0, b.gelu(b.add(b.needed(0), b.input(1)), tanh=True))


def quick_gelu(b: Body) -> None:
    """X * sigmoid(alpha * X)."""
    x = b.needed(0)
    b.result(0, b.put("Mul", x, b.put("Sigmoid", b.put("Mul", x, b.number(b.real("alpha", 1.702))))))


def bias_split_gelu(b: Body) -> None:
    """The left half of X + bias times Gelu of the right."""
    x = b.put("Add", b.needed(0), b.needed(1))
    width = b.dims(b.needed(1))[-1]
    left, right = b.split(x, -1, [width // 2] * 2)
    b.result(0, b.put("Mul", left, b.gelu(right)))


def bias_add(b: Body) -> None:
    """X + bias + skip."""
    b.result(0, b.add(b.needed(0), b.needed(1), b.input(2)))


def bias_dropout(b: Body) -> None:
    """Data + bias + residual: nothing drops out in inference."""
    b.result(0, b.add(b.needed(0), b.needed(1), b.input(2)))


def bias_softmax(b: Body) -> None:
    """Softmax of data + bias, which broadcasts over inner or outer dimensions."""
    data, bias = b.needed(0), b.needed(1)
    rank, axis = b.rank(data), b.integer("axis", 1)
    if axis % rank != rank - 1:
        raise b.refused("it normalises several axes as one")
    if b.integer("is_inner_broadcast", 1) and b.rank(bias) != rank:
        raise b.refused("its bias broadcasts over inner dimensions that its shape leaves out")
    b.result(0, b.put("Softmax", b.put("Add", data, bias), axis=-1))


def fused_matmul(b: Body) -> None:
    """The product alpha * A' @ B', each operand's batch or matrix transposed."""
    operands = []
    for index, side in enumerate("AB"):
        x = b.needed(index)
        if b.integer(f"transBatch{side}") and (rank := b.rank(x)) > 2:
            x = _transpose(b, x, [*range(1, rank - 1), 0, rank - 1])
        if b.integer(f"trans{side}") and (rank := b.rank(b.needed(index))) > 1:
            x = _transpose(b, x, [*range(rank - 2), rank - 1, rank - 2])
        operands.append(x)
    y, alpha = b.put("MatMul", *operands), b.real("alpha", 1.0)
    b.result(0, y if alpha == 1 else b.put("Mul", y, b.number(alpha)))


def _transpose(b: Body, x: ir.Value, perm: list[int]) -> ir.Value:
    return b.put("Transpose", x, perm=perm)


def fused_gemm(b: Body) -> None:
    """Gemm and an activation."""
    attributes = {name: b.node.attributes[name].value for name in ("alpha", "beta", "transA", "transB")
                  if name in b.node.attributes}
    y = b.put("Gemm", *b.node.inputs, **attributes)
    given = [b.node.attributes.get_float(f"activation_{name}", None) for name in ("alpha", "beta")]
    b.result(0, _activated(b, y, [value for value in given if value is not None]))


def fused_conv(b: Body) -> None:
    """A convolution, plus Z, and an activation."""
    attributes = {name: b.node.attributes[name].value for name in CONV if name in b.node.attributes}
    y = b.put("Conv", *b.node.inputs[:3], **attributes)
    b.result(0, _activated(b, b.add(y, b.input(3)), list(b.node.attributes.get_floats("activation_params", []) or [])))


def nhwc_conv(b: Body) -> None:
    """A convolution of images whose channels are last; the weight is as Conv's."""
    attributes = {name: b.node.attributes[name].value for name in CONV if name in b.node.attributes}
    image = b.put("Transpose", b.needed(0), perm=[0, 3, 1, 2])
    y = b.put("Conv", image, *b.node.inputs[1:3], **attributes)
    y = b.put("Transpose", y, perm=[0, 2, 3, 1])
    b.result(0, _activated(b, b.add(y, b.input(3)), list(b.node.attributes.get_floats("activation_params", []) or [])))


def trilu(b: Body) -> None:
    """Trilu, as ONNX has it from opset 14 on."""
    b.result(0, b.put("Trilu", *b.node.inputs, upper=b.integer("upper", 1)))


def _activated(b: Body, y: ir.Value, params: list[float]) -> ir.Value:
    """The activation that the attribute of this name names, with its parameters."""
    name = b.node.attributes.get_string("activation", "") or ""
    if name not in ACTIVATIONS:
        raise b.refused(f"its activation is {name}")
    return ACTIVATIONS[name](b, y, params)


def _clip(b: Body, y: ir.Value, params: list[float]) -> ir.Value:
    return b.put("Clip", y, *(b.number(value) for value in params))


def _with(*names: str) -> Callable[[Body, ir.Value, list[float]], ir.Value]:
    """An operator whose attributes are the parameters, in order."""
    def write(b: Body, y: ir.Value, params: list[float]) -> ir.Value:
        operator = b.node.attributes.get_string("activation")
        assert operator is not None
        return b.put(operator, y, **dict(zip(names, params, strict=False)))
    return write


ACTIVATIONS: dict[str, Callable[[Body, ir.Value, list[float]], ir.Value]] = {
    "": lambda _b, y, _params: y,
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus"), _with()),
    "LeakyRelu": _with("alpha"),
    "HardSigmoid": _with("alpha", "beta"),
    "Elu": _with("alpha"),
    "Clip": _clip,
}

WRITERS: dict[str, Callable[[Body], None]] = {
    "Gelu": gelu, "BiasGelu": bias_gelu, "FastGelu": fast_gelu, "QuickGelu": quick_gelu,
    "BiasSplitGelu": bias_split_gelu, "BiasAdd": bias_add, "BiasDropout": bias_dropout, "BiasSoftmax": bias_softmax,
    "FusedMatMul": fused_matmul, "TransposeMatMul": fused_matmul, "FusedGemm": fused_gemm, "FusedConv": fused_conv,
    "NhwcConv": nhwc_conv, "NhwcFusedConv": nhwc_conv, "Trilu": trilu,
}
"""By operator of com.microsoft."""
