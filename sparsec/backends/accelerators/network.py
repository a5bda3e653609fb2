"""The layers of a planned graph, with the activations that they meet in one inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.accelerators import recurrent, vectors
from sparsec.backends.accelerators.execution import Feeds, HostNode, Watch, execute, unwatched, write_back
from sparsec.backends.accelerators.layer import Layer, Operator


@dataclass(frozen=True)
class Network:
    """What one inference of a network gives an accelerator to do.

    Attributes:
        layers: those with a weight, in order.
        host: the other nodes, and of recurrent ones what is element-wise.

    """

    layers: list[Layer]
    host: list[HostNode]

    @property
    def host_share(self) -> float:
        """The share of the dense network's operations that are not in layers."""
        on_host = sum(node.flops for node in self.host)
        return on_host / max(1, on_host + 2 * sum(layer.dense_macs for layer in self.layers))


def record(model: ir.Model, feeds: Feeds, watch: Watch = unwatched) -> Network:
    """Run a planned graph in float32 and keep what every layer sees.

    Args:
        model: the graph.
        feeds: inputs by name.
        watch: is shown the nodes.

    Raises:
        SimulationError: activations are not finite.
        UnsupportedOperatorError, InputError: the graph cannot be run on these inputs.

    """
    layers: list[Layer] = []

    def multiply(node: ir.Node, x: NDArray[np.float32]) -> NDArray[np.float32]:
        layers.append(layer_of(node, x))
        return write_back(node, vectors.matrix(node) @ vectors.unfold(node, x).T)

    def observe(node: ir.Node, inputs: Sequence[np.ndarray | None], outputs: Sequence[np.ndarray]) -> None:
        if node.op_type in recurrent.OPERATORS and all(
                value is not None and value.const_value is not None for value in node.inputs[1:3]):
            layers.extend(recurrent.layers_of(node, inputs, outputs, dict(model.graph.opset_imports)))

    _, host = execute(model, feeds, multiply, watch, "execute", observe)
    return Network(layers, host)


def layer_of(node: ir.Node, x: NDArray[np.float32]) -> Layer:
    """A product of a planned graph as a layer; one-dimensional convolutions have one row, volumes are unfolded."""
    weight, bias = vectors.weight(node), vectors.bias(node)
    if node.op_type == "MatMul":
        return Layer(str(node.name), Operator.FC, weight.reshape(*weight.shape[:2], 1, 1),
                     _row(vectors.unfold(node, x)), bias=bias)
    rank = weight.ndim - 2
    group = node.attributes.get_int("group", 1)
    if rank > 2:
        return Layer(str(node.name), Operator.CONV, vectors.matrix(node)[:, :, None, None],
                     _row(vectors.unfold(node, x)), bias=bias)
    strides, dilations = (tuple(node.attributes.get_ints(name, [1] * rank)) for name in ("strides", "dilations"))
    pads = node.attributes.get_ints("pads", [0] * 2 * rank)
    if rank == 1:
        return Layer(str(node.name), Operator.CONV, weight[:, :, None], x[:, :, None], (0, pads[0], 0, pads[1]),
                     (1, strides[0]), (1, dilations[0]), group, bias)
    return Layer(str(node.name), Operator.CONV, weight, x, (pads[0], pads[1], pads[2], pads[3]),
                 (strides[0], strides[1]), (dilations[0], dilations[1]), group, bias)


def _row(vectors_: NDArray[np.float32]) -> NDArray[np.float32]:
    """(vectors, inputs) as one image of one row."""
    return np.ascontiguousarray(vectors_.T)[None, :, None]
