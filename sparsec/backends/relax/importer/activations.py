"""Activation functions and n-ary operators element by element, with NaN, infinities and signed zeros as ONNX has them.

Half precision computes in float32 and is rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from tvm import relax, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import HALVES, Indices, Operand, Operator, compute, item, operand
from sparsec.kernels.emit.extremum import is_number
from sparsec.kernels.emit.tir import Expr

op = relax.op
Function = Callable[[Any, ir.Node], Any]  # of an element, and the node for its attributes


def _number(x: Expr, value: float) -> Expr:
    """A constant of x's element type."""
    return tirx.const(value, str(x.ty))


def _attribute(x: Expr, node: ir.Node, name: str, default: float) -> Expr:
    return _number(x, node.attributes.get_float(name, default) or 0.0)


def _atanh(x: Expr, _: ir.Node) -> Expr:
    """Near 0 by its series, where the logarithm has no precision left."""
    square, series = x * x, _number(x, 0)
    for power in (13, 11, 9, 7, 5, 3):
        series = (series + _number(x, 1 / power)) * square
    far = _number(x, 0.5) * tirx.log((_number(x, 1) + x) / (_number(x, 1) - x))
    return tirx.Select(tirx.abs(x) < _number(x, 0.25), x + x * series, far)


def _below_zero(x: Expr, below: Expr) -> Expr:
    """`below` where x is below 0, else x, be it NaN or -0."""
    return tirx.Select(x < _number(x, 0), below, x)


def _expm1(x: Expr) -> Expr:
    return tirx.exp(x) - _number(x, 1)


def _celu(x: Expr, node: ir.Node) -> Expr:
    alpha = _attribute(x, node, "alpha", 1.0)
    return _below_zero(x, alpha * _expm1(x / alpha))


def _clamp(x: Expr, low: float, high: float) -> Expr:
    return tirx.Min(_number(x, high), tirx.Max(_number(x, low), x))


def _hard_sigmoid(x: Expr, node: ir.Node) -> Expr:
    return _clamp(x * _attribute(x, node, "alpha", 0.2) + _attribute(x, node, "beta", 0.5), 0, 1)


def _gelu(x: Expr, node: ir.Node) -> Expr:
    if node.attributes.get_string("approximate", "none") == "tanh":
        inner = _number(x, 0.7978845608028654) * (x + _number(x, 0.044715) * x * x * x)
        return _number(x, 0.5) * x * (_number(x, 1) + tirx.tanh(inner))
    return _number(x, 0.5) * x * (_number(x, 1) + tirx.erf(x * _number(x, 0.7071067811865476)))


def _logistic(x: Expr) -> Expr:
    return tirx.sigmoid(x)


def _mish(x: Expr, _: ir.Node) -> Expr:
    return x * tirx.tanh(tirx.log(_number(x, 1) + tirx.exp(x)))


def _relu(x: Expr, _: ir.Node) -> Expr:
    return tirx.Max(_number(x, 0), x)


def _selu(x: Expr, node: ir.Node) -> Expr:
    alpha = _attribute(x, node, "alpha", 1.6732631921768188)
    return _attribute(x, node, "gamma", 1.0507010221481323) * _below_zero(x, alpha * _expm1(x))


def _shrink(x: Expr, node: ir.Node) -> Expr:
    end, bias = _attribute(x, node, "lambd", 0.5), _attribute(x, node, "bias", 0.0)
    return tirx.Select(x > end, x - bias, tirx.Select(x < -end, x + bias, _number(x, 0)))


def _sign(x: Expr, _: ir.Node) -> Expr:
    """Of NaN it is NaN, of -0 it is 0."""
    positive = tirx.Select(x > _number(x, 0), _number(x, 1), x if str(x.ty).startswith("uint") else tirx.abs(x))
    return positive if str(x.ty).startswith("uint") else tirx.Select(x < _number(x, 0), _number(x, -1), positive)


def _softplus(x: Expr, _: ir.Node) -> Expr:
    away = tirx.exp(_number(x, 0) - tirx.abs(x))
    return tirx.Max(_number(x, 0), x) + tirx.log(_number(x, 1) + away)


def _swish(x: Expr, node: ir.Node) -> Expr:
    return x * _logistic(_attribute(x, node, "alpha", 1.0) * x)


def _thresholded_relu(x: Expr, node: ir.Node) -> Expr:
    return tirx.Select(x > _attribute(x, node, "alpha", 1.0), x, _number(x, 0))


FUNCTIONS: dict[str, Function] = {
    "Atanh": _atanh,
    "Celu": _celu,
    "Elu": lambda x, node: _below_zero(x, _attribute(x, node, "alpha", 1.0) * _expm1(x)),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x, _: x * _clamp(x * _number(x, 1 / 6) + _number(x, 0.5), 0, 1),
    "LeakyRelu": lambda x, node: _below_zero(x, _attribute(x, node, "alpha", 0.01) * x),
    "Mish": _mish,
    "Relu": _relu,
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": lambda x, _: _logistic(x),
    "Sign": _sign,
    "Softplus": _softplus,
    "Softsign": lambda x, _: x / (_number(x, 1) + tirx.abs(x)),
    "Swish": _swish,
    "Tanh": lambda x, _: tirx.Select(x == _number(x, 0), x, tirx.tanh(x)) if str(x.ty) == "float64" else tirx.tanh(x),
    "ThresholdedRelu": _thresholded_relu,
}


def activate(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """An activation function of one tensor."""
    dtype, function = context.dtype(node.inputs[0]), FUNCTIONS[node.op_type]
    inner = "float32" if dtype in HALVES else dtype
    return [compute(context, node.op_type.lower(), context.shape(node.outputs[0]),
                    lambda i, x: function(x[i].astype(inner), node).astype(dtype), context.tensor(node.inputs[0]))]


def clip(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Clip: not below the minimum, then not above the maximum; a bound that is NaN, or absent, is none."""
    dtype = context.dtype(node.inputs[0])
    inputs = [*node.inputs[1:], None, None][:2]
    bounds = [operand(context, value) for value in inputs]
    for index, name in enumerate(("min", "max")):
        if name in node.attributes:
            bounds[index] = node.attributes.get_float(name)

    def element(i: Indices, x: Operand, low: Expr, high: Expr) -> Expr:
        value = x[i]
        for bound, extremum in ((low, tirx.Max), (high, tirx.Min)):
            if bound is not None:
                limit = item(bound, dtype)
                limited = extremum(limit, value)
                value = tirx.Select(is_number(limit), limited, value) if "float" in dtype else limited
        return value

    return [compute(context, "clip", context.shape(node.outputs[0]), element, context.tensor(node.inputs[0]), *bounds)]


def n_ary(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Max, Min, Sum and Mean of any number of tensors, as a balanced tree."""
    dtype, shape = context.dtype(node.outputs[0]), context.shape(node.outputs[0])
    wide = "float32" if dtype in HALVES and node.op_type in ("Sum", "Mean") and len(node.inputs) > 2 else dtype
    terms = [context.tensor(value) for value in node.inputs]
    terms = [op.astype(term, wide) if wide != dtype else term for term in terms]
    while len(terms) > 1:
        pairs = [context.bb.emit(PAIRS[node.op_type](*terms[i:i + 2])) for i in range(0, len(terms) - 1, 2)]
        terms = pairs + terms[len(pairs) * 2:]
    (result,) = terms
    if node.op_type == "Mean" and len(node.inputs) > 1:
        result = op.divide(result, relax.const(len(node.inputs), wide))
    result = op.astype(result, dtype) if wide != dtype else result
    return [result if len(node.inputs) > 1 else op.broadcast_to(result, shape)]


PAIRS = {"Max": op.maximum, "Min": op.minimum, "Sum": op.add, "Mean": op.add}

OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(FUNCTIONS, activate), **dict.fromkeys(PAIRS, n_ary), "Clip": clip}
