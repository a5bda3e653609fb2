"""ONNX's element-wise operators on numpy arrays, for what is small beside the layers with weights.

They run where numpy is told not to warn of overflow and the like.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsec.machine.optional import needed

Attributes = Mapping[str, Any]
Operator = Callable[[Sequence[Any], Attributes], Sequence[np.ndarray]]
"""From the inputs, None where one is absent, and the attributes to the outputs."""


def of(function: Callable[..., Any]) -> Operator:
    """An operator without attributes and with one output."""
    return lambda inputs, _: (function(*inputs),)


def same_type(function: Callable[..., Any]) -> Operator:
    """As `of`, where numpy would compute in a wider type than the first input's."""
    return lambda inputs, _: (np.asarray(function(*inputs)).astype(inputs[0].dtype, copy=False),)


def _divide(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Integers are divided towards zero."""
    if left.dtype.kind in "iu":
        quotient = np.floor_divide(left, right)
        negative = (np.remainder(left, right) != 0) & ((left < 0) != (right < 0))
        return np.asarray(quotient + negative.astype(left.dtype))
    return np.asarray(left / right)


def _mod(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    function: Any = np.fmod if attributes.get("fmod", 0) else np.mod
    return (function(*inputs),)


def _folded(function: Any) -> Operator:
    """A function of two, over all inputs in order."""
    return lambda inputs, _: (np.asarray(functools.reduce(function, inputs)),)


def _clip(inputs: Sequence[Any], _: Attributes) -> Sequence[np.ndarray]:
    x, least, most = (*inputs, None, None)[:3]
    x = x if least is None else np.maximum(x, least)
    return (x if most is None else np.minimum(x, most),)


def _cast(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    return (inputs[0].astype(attributes["to"]),)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))  # where exp overflows, 0


def _erf(x: np.ndarray) -> np.ndarray:
    special = needed("scipy.special", "scipy", "the operator Erf between compiled stages")
    return np.asarray(special.erf(x))


def _softmax(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, axis = inputs[0], attributes.get("axis", -1)
    if not x.size:
        return (x,)
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    return (exponentials / exponentials.sum(axis=axis, keepdims=True),)


def _log_softmax(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, axis = inputs[0], attributes.get("axis", -1)
    if not x.size:
        return (x,)
    below = x - x.max(axis=axis, keepdims=True)
    return (below - np.log(np.exp(below).sum(axis=axis, keepdims=True)),)


def _activation(function: Callable[..., Any], **defaults: float) -> Operator:
    """An activation of one input, with its attributes in the input's type."""
    def run(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
        x = inputs[0]
        values = [x.dtype.type(attributes.get(name, default)) for name, default in defaults.items()]
        return (np.asarray(function(x, *values)).astype(x.dtype, copy=False),)

    return run


def _elu(x: np.ndarray, alpha: Any) -> np.ndarray:
    return np.asarray(np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x))


ACTIVATIONS: dict[str, Operator] = {
    "Elu": _activation(_elu, alpha=1.0),
    "HardSigmoid": _activation(lambda x, a, b: np.clip(a * x + b, 0, 1), alpha=0.2, beta=0.5),
    "HardSwish": _activation(lambda x: x * np.clip(x / 6 + x.dtype.type(0.5), 0, 1)),
    "LeakyRelu": _activation(lambda x, a: np.where(x < 0, a * x, x), alpha=0.01),
    "LogSoftmax": _log_softmax,
    "PRelu": same_type(lambda x, slope: np.where(x < 0, slope * x, x)),
    "Selu": _activation(lambda x, a, g: g * _elu(x, a), alpha=1.6732631921768188, gamma=1.0507010221481323),
    "Softplus": same_type(lambda x: np.logaddexp(x, x.dtype.type(0))),
}
"""Those that libsparsec does not have."""

OPERATORS: dict[str, Operator] = {
    **{name: of(function) for name, function in dict[str, Callable[..., Any]]({
        "Abs": np.abs, "Add": np.add, "And": np.logical_and, "Ceil": np.ceil, "Cos": np.cos, "Equal": np.equal,
        "Exp": np.exp, "Floor": np.floor, "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
        "Identity": np.asarray, "IsNaN": np.isnan, "Less": np.less, "LessOrEqual": np.less_equal, "Log": np.log,
        "Mul": np.multiply, "Neg": np.negative, "Not": np.logical_not, "Or": np.logical_or,
        "Reciprocal": np.reciprocal, "Round": np.rint, "Sign": np.sign, "Sin": np.sin, "Sqrt": np.sqrt,
        "Sub": np.subtract, "Tanh": np.tanh, "Where": np.where, "Xor": np.logical_xor}).items()},
    **{name: same_type(function) for name, function in dict[str, Callable[..., Any]]({
        "Div": _divide, "Erf": _erf, "Pow": np.power, "Sigmoid": _sigmoid,
        "Relu": lambda x: np.maximum(x, x.dtype.type(0))}).items()},
    "Max": _folded(np.maximum), "Min": _folded(np.minimum), "Sum": _folded(np.add), "Mod": _mod, "Clip": _clip,
    "Cast": _cast, "Softmax": _softmax,
    **ACTIVATIONS,
}
"""By ONNX's name."""
