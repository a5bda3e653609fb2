"""Recurrent layers as products: a step multiplies both weights of all gates by its input and the last hidden state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.accelerators.layer import Layer, Operator
from sparsec.graph.evaluate import run_node

OPERATORS = {"LSTM": Operator.LSTM, "GRU": Operator.RNN, "RNN": Operator.RNN}
"""ONNX's recurrent operators. A GRU's candidate sees the hidden state where it may see it behind the reset gate."""


def layers_of(node: ir.Node, inputs: Sequence[np.ndarray | None], outputs: Sequence[np.ndarray],
              opsets: Mapping[str, int]) -> list[Layer]:
    """A layer for each direction of a node with constant weights, whose vectors are the steps, in their order.

    Args:
        node: an LSTM, GRU or RNN.
        inputs: what it has read.
        outputs: what it has written.
        opsets: of the graph.

    """
    x, w, r, bias, _, first = (*inputs, *[None] * 6)[:6]
    assert x is not None  # required by ONNX
    assert w is not None
    assert r is not None
    y = outputs[0] if node.outputs[0].name else _states(node, inputs, opsets)
    if node.attributes.get_int("layout", 0):
        x, y = x.swapaxes(0, 1), y.transpose(1, 2, 0, 3)
        first = None if first is None else first.swapaxes(0, 1)
    backwards = node.attributes.get_string("direction", "forward") == "reverse"
    layers = []
    for direction in range(len(w)):
        reverse = backwards or direction == 1
        before = np.zeros_like(y[:1, direction]) if first is None else first[direction][None]
        steps, states = (x[::-1], y[::-1, direction]) if reverse else (x, y[:, direction])
        seen = np.concatenate((steps, np.concatenate((before, states[:-1]))), axis=2)
        layers.append(_layer(node, direction, np.hstack((w[direction], r[direction])),
                             seen.reshape(-1, seen.shape[2]), None if bias is None else bias[direction]))
    return layers


def _layer(node: ir.Node, direction: int, weight: NDArray[np.float32], vectors: NDArray[np.float32],
           bias: NDArray[np.float32] | None) -> Layer:
    added = None if bias is None else np.add(*np.split(bias, 2)).astype(np.float32)
    name = str(node.name) if direction == 0 else f"{node.name}/reverse"
    x = np.ascontiguousarray(vectors.T)[None, :, None]
    return Layer(name, OPERATORS[node.op_type], weight[:, :, None, None].astype(np.float32), x.astype(np.float32),
                 bias=added)


def _states(node: ir.Node, inputs: Sequence[np.ndarray | None], opsets: Mapping[str, int]) -> np.ndarray:
    """The hidden states of a node whose graph does not read them."""
    again = ir.Node("", node.op_type, node.inputs, node.attributes.values(), outputs=[ir.Value(name="states")])
    states: np.ndarray = run_node(again, list(inputs), dict(opsets))[0]
    return states
