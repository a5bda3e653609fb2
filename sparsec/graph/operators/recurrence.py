"""sparsec::Recurrence: the steps of an RNN, GRU or LSTM in one direction, on gates that have their inputs' share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx.defs import OpSchema
from onnx.helper import make_attribute
from onnx.reference.op_run import OpRun
from scipy.special import expit

from sparsec.graph.operators import schema

EARLY = "EarlyResetGRU"
"""The cell of a GRU with linear_before_reset = 0: it resets the state before the third gate's product."""

GATES = {"RNN": 1, "GRU": 3, EARLY: 3, "LSTM": 4}
"""Gates of a cell; in ONNX's order: i, o, f, c of an LSTM; z, r, h of a GRU."""

CELL = 2
"""The place of an LSTM's activation of the cell, which is not clipped."""

DOC = """
The recurrence of ONNX's operator `cell` in one direction, with gates in ONNX's order; X holds W x + bias for all steps.

Y[t] is the state after step t; Y[T] is the last state, Y[T + 1] the last cell (that of an LSTM; zeros otherwise).
A GRU resets after the product: linear_before_reset = 1; an EarlyResetGRU before it. B belongs to the product with the
state.
"""

ACTIVATIONS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "relu": lambda x, _a, _b: np.maximum(x, 0), "sigmoid": lambda x, _a, _b: expit(x),
    "tanh": lambda x, _a, _b: np.tanh(x), "hard_sigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "leaky_relu": lambda x, alpha, _b: np.where(x < 0, alpha * x, x)}
"""Of gates, by name, with two numbers."""


@dataclass(frozen=True)
class Activation:
    """What gates pass through: a name of `ACTIVATIONS`, and two numbers; as text, `name:alpha:beta` or `name`."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    @classmethod
    def read(cls, text: str) -> Activation:
        """The activation of a text."""
        name, *numbers = text.split(":")
        return cls(name, *map(float, numbers))

    def __str__(self) -> str:
        return f"{self.name}:{self.alpha!r}:{self.beta!r}" if self.alpha or self.beta else self.name

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Of numbers."""
        return ACTIVATIONS[self.name](x, self.alpha, self.beta)


def output_shape(shapes: Sequence[schema.Shape | None], attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    x, w = shapes[0] or (), shapes[1] or ()
    gates = GATES.get(attributes["cell"], 0)
    if len(x) != 3 or len(w) != 2 or w[0] != gates * w[1] or x[2] != w[0]:
        raise ValueError(f"Recurrence cannot run a {attributes['cell']} of weight {w} on {x}")
    state = (x[1], w[1])
    for name, shape, expected in zip(("bias", "state", "cell", "length", "peepholes"), (*shapes[2:], *[None] * 5),
                                     ((w[0],), state, state, (x[1],), (3 * w[1],)), strict=False):
        if shape is not None and shape != expected:
            raise ValueError(f"the {name} of a Recurrence has shape {shape}, not {expected}")
    return (x[0] + 2, *state)


SCHEMA = schema.make(
    "Recurrence", DOC,
    [
        schema.required("X", "T", "The inputs' share of all gates (T, N, gates * H)."),
        schema.required("W", "T", "Constant weight of the state (gates * H, H)."),
        schema.optional("B", "T", "Bias (gates * H,), added to the product with the state."),
        schema.optional("H", "T", "First state (N, H)."),
        schema.optional("C", "T", "First cell (N, H)."),
        schema.optional("L", "I", "Steps of every member (N,); Y is zero behind them."),
        schema.optional("P", "T", "Peepholes of an LSTM (3 * H,): i, o, f."),
    ],
    [
        OpSchema.Attribute("cell", OpSchema.AttrType.STRING, "RNN, GRU, EarlyResetGRU or LSTM.", required=True),
        OpSchema.Attribute("activations", OpSchema.AttrType.STRING, "Their names, with spaces; behind a name may be "
                           "two numbers, as in hard_sigmoid:0.2:0.5.", required=True),
        OpSchema.Attribute("clip", make_attribute("clip", 0.0), "Bounds of what gates' activations take; 0 for none."),
        OpSchema.Attribute("reverse", OpSchema.AttrType.INT, "1: from the last step to the first.", required=True),
    ],
    output_shape,
)


class Recurrence(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, X: np.ndarray, W: np.ndarray, B: np.ndarray | None = None, H: np.ndarray | None = None,
             C: np.ndarray | None = None, L: np.ndarray | None = None, P: np.ndarray | None = None, *, cell: str,
             activations: str, reverse: int, clip: float = 0.0) -> tuple[np.ndarray]:
        steps, batch, hidden = len(X), X.shape[1], W.shape[1]
        zeros = np.zeros((batch, hidden), np.float32)
        h, c = zeros if H is None else H, zeros if C is None else C
        bias = np.zeros(len(W), np.float32) if B is None else B
        lengths = np.full(batch, steps) if L is None else L
        peepholes = np.zeros((3, hidden), np.float32) if P is None else P.reshape(3, hidden)
        functions = [clipped(Activation.read(text), clip if place < CELL else 0.0)
                     for place, text in enumerate(activations.split())]
        y = np.zeros((steps + 2, batch, hidden), np.float32)
        for step in range(steps)[::-1 if reverse else 1]:
            going = (step < lengths)[:, np.newaxis]
            new_h, new_c = _CELLS[cell](X[step], lambda state: state @ W.T + bias, h, c, peepholes, functions)
            h, c = np.where(going, new_h, h), np.where(going, new_c, c)
            y[step] = np.where(going, h, 0)
        y[steps], y[steps + 1] = h, c if cell == "LSTM" else 0
        return (y,)


def clipped(function: Activation, clip: float) -> Callable[[np.ndarray], np.ndarray]:
    """An activation of numbers that are brought within bounds before; 0 for none."""
    return function if not clip else lambda x: function(np.clip(x, -clip, clip))


Product = Callable[[np.ndarray], np.ndarray]
Activations = Sequence[Callable[[np.ndarray], np.ndarray]]


def _rnn(x: np.ndarray, product: Product, h: np.ndarray, c: np.ndarray, _p: np.ndarray, act: Activations,
         ) -> tuple[np.ndarray, np.ndarray]:
    return act[0](x + product(h)), c


def _gru(x: np.ndarray, product: Product, h: np.ndarray, c: np.ndarray, _p: np.ndarray, act: Activations,
         ) -> tuple[np.ndarray, np.ndarray]:
    (xz, xr, xh), (pz, pr, ph) = np.split(x, 3, 1), np.split(product(h), 3, 1)
    update = act[0](xz + pz)
    return (1 - update) * act[1](xh + act[0](xr + pr) * ph) + update * h, c


def _early_gru(x: np.ndarray, product: Product, h: np.ndarray, c: np.ndarray, _p: np.ndarray, act: Activations,
               ) -> tuple[np.ndarray, np.ndarray]:
    (xz, xr, xh), (pz, pr, _) = np.split(x, 3, 1), np.split(product(h), 3, 1)
    update = act[0](xz + pz)
    return (1 - update) * act[1](xh + np.split(product(act[0](xr + pr) * h), 3, 1)[2]) + update * h, c


def _lstm(x: np.ndarray, product: Product, h: np.ndarray, c: np.ndarray, p: np.ndarray, act: Activations,
          ) -> tuple[np.ndarray, np.ndarray]:
    entering, leaving, kept, new = np.split(x + product(h), 4, 1)
    c = act[0](kept + p[2] * c) * c + act[0](entering + p[0] * c) * act[1](new)
    return act[0](leaving + p[1] * c) * act[2](c), c


_CELLS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "RNN": _rnn, "GRU": _gru, EARLY: _early_gru, "LSTM": _lstm}
