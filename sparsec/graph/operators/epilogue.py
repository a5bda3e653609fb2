"""The epilogue that Conv and MatMul share: bias, residual and activation, as attributes and as numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx.defs import OpSchema
from onnx.helper import make_attribute
from scipy.special import erf, expit

from sparsec.graph.operators.schema import Shape


def _hard_sigmoid(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    y: np.ndarray = np.clip(alpha * x + beta, 0, 1)
    return y


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return y


ACTIVATIONS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "none": lambda x, _alpha, _beta: x,
    "relu": lambda x, _alpha, _beta: np.maximum(x, 0),
    "clip": lambda x, alpha, beta: np.minimum(np.maximum(x, alpha), beta),
    "leaky_relu": lambda x, alpha, _beta: np.where(x < 0, alpha * x, x),
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda x, _alpha, _beta: x * _hard_sigmoid(x, 1 / 6, 0.5),
    "sigmoid": lambda x, _alpha, _beta: expit(x),
    "silu": lambda x, _alpha, _beta: x * expit(x),
    "tanh": lambda x, _alpha, _beta: np.tanh(x),
    "gelu_erf": lambda x, _alpha, _beta: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x, _alpha, _beta: _gelu_tanh(x),
}
"""Activation by name: (x, alpha, beta) -> y. `clip` has min = alpha and max = beta, `leaky_relu` the slope alpha, and
`hard_sigmoid` is clip(alpha * x + beta, 0, 1); the others use neither."""

ATTRIBUTES = [
    OpSchema.Attribute("activation", make_attribute("activation", "none"), f"One of {', '.join(ACTIVATIONS)}."),
    OpSchema.Attribute("alpha", make_attribute("alpha", 0.0), "clip: minimum; leaky_relu, hard_sigmoid: slope."),
    OpSchema.Attribute("beta", make_attribute("beta", 0.0), "clip: maximum; hard_sigmoid: offset."),
]
MULTIPLIES = OpSchema.Attribute("multiplies", make_attribute("multiplies", 0),
                                "1 where R multiplies what the activation gives, instead of being added before it.")


def check(y: Shape, channels: int, shapes: Sequence[Shape | None]) -> None:
    """Raises ValueError if B, of `channels` elements, or R, both optional, do not fit an output of shape `y`."""
    for name, shape, expected in zip("BR", shapes, ((channels,), y), strict=False):
        if shape is not None and shape != expected:
            raise ValueError(f"{name} has shape {shape}, not {expected}")


def apply(y: np.ndarray, bias: np.ndarray | None, residual: np.ndarray | None, activation: str, alpha: float,
          beta: float, *, multiplies: bool = False) -> np.ndarray:
    """activation(y + bias + residual), in float32, or activation(y + bias) * residual where it `multiplies`.

    The bias has been given a shape that broadcasts to y's.
    """
    for term in (bias, None if multiplies else residual):
        if term is not None:
            y = y + term
    y = ACTIVATIONS[activation](y, alpha, beta)
    return (y * residual if multiplies and residual is not None else y).astype(np.float32)
