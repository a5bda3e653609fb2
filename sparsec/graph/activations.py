"""ONNX's activation operators as the activations that sparsec's operators fuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import scalar

Activation = tuple[str, float, float]  # name, alpha, beta of sparsec's operators


def _clip(node: ir.Node) -> Activation | None:
    """Bounds as inputs (opset 11 and later) or attributes; an absent one is no bound."""
    low = node.attributes.get_float("min", -np.inf)
    high = node.attributes.get_float("max", np.inf)
    for index, value in enumerate(node.inputs[1:]):
        number = scalar(value)
        if value is not None and number is None:
            return None
        if number is not None:
            low, high = (number, high) if index == 0 else (low, number)
    return ("relu", 0.0, 0.0) if (low, high) == (0.0, np.inf) else ("clip", float(low), float(high))


def _gelu(node: ir.Node) -> Activation:
    tanh = node.attributes.get_string("approximate", "none") == "tanh"
    return ("gelu_tanh" if tanh else "gelu_erf", 0.0, 0.0)


def _hard_sigmoid(node: ir.Node) -> Activation:
    return ("hard_sigmoid", node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5))


ACTIVATIONS: dict[str, Callable[[ir.Node], Activation | None]] = {
    "Clip": _clip,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda _: ("hard_swish", 0.0, 0.0),
    "LeakyRelu": lambda n: ("leaky_relu", n.attributes.get_float("alpha", 0.01), 0.0),
    "Relu": lambda _: ("relu", 0.0, 0.0),
    "Sigmoid": lambda _: ("sigmoid", 0.0, 0.0),
    "Swish": lambda n: ("silu", 0.0, 0.0) if n.attributes.get_float("alpha", 1.0) == 1.0 else None,
    "Tanh": lambda _: ("tanh", 0.0, 0.0),
}
"""By operator of ONNX: the activation it is, or None where its parameters are not constants."""
