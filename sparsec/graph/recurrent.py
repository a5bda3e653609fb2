"""What the attributes of ONNX's RNN, GRU and LSTM say."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from sparsec.graph.operators.recurrence import ACTIVATIONS, Activation

DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
"""The activations of a direction."""
NAMES = {"hardsigmoid": "hard_sigmoid", "leakyrelu": "leaky_relu", "scaledtanh": "scaled_tanh",
         "thresholdedrelu": "thresholded_relu"}
"""Ours for ONNX's, in small letters, where they differ."""
NUMBERS: dict[str, tuple[float, ...]] = {
    "affine": (1.0, 0.0), "elu": (1.0,), "hard_sigmoid": (0.2, 0.5), "leaky_relu": (0.01,), "scaled_tanh": (1.0, 1.0),
    "thresholded_relu": (1.0,)}
"""The activations that take alpha, or alpha and beta, with what these are where the node does not say."""


def all_activations(node: ir.Node) -> tuple[Activation, ...]:
    """The activations of all directions, one after the other; those that take numbers take the next that are given."""
    attributes = node.attributes
    directions = 2 if attributes.get_string("direction", "forward") == "bidirectional" else 1
    given = attributes.get_strings("activations", ()) or DEFAULTS[node.op_type] * directions
    alphas, betas = (iter(attributes.get_floats(name, ()) or ()) for name in ("activation_alpha", "activation_beta"))
    return tuple(_activation(name.lower(), alphas, betas) for name in given)


def _activation(name: str, *given: Iterator[float]) -> Activation:
    own = NAMES.get(name, name)
    return Activation(own, *(next(numbers, default) for numbers, default in zip(given, NUMBERS.get(own, ()),
                                                                                strict=False)))


def activations_of(node: ir.Node) -> tuple[Activation, ...] | None:
    """As `all_activations`; None where one of them is none of `ACTIVATIONS`."""
    found = all_activations(node)
    return found if all(each.name in ACTIVATIONS for each in found) else None
