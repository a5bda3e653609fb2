"""A network for the accelerator: what it runs as entries, the rest on the host; and the network's execution.

Executing records which activations were not zero: together with the matrices they decide the timing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.accelerators import vectors
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.layer import Layer, Ranges, float_product, product, quantize, with_bias
from sparsec.backends.accelerators.execution import Feeds, HostNode, Watch, execute, relu_at_write_back, unwatched


@dataclass(frozen=True)
class Network:
    """A compiled network.

    Attributes:
        model: the planned graph.
        layers: the products by node name, in order.

    """

    model: ir.Model
    layers: dict[str, Layer]


@dataclass(frozen=True)
class Execution:
    """What one inference did.

    Attributes:
        outputs: by name.
        active: by layer, (vectors, columns) which activations were not zero, the bias column's included.
        saturated: by layer, additions that saturated.
        host: what ran on the host, in order.

    """

    outputs: dict[str, np.ndarray]
    active: dict[str, NDArray[np.bool_]]
    saturated: dict[str, int]
    host: list[HostNode]


def compile_network(model: ir.Model, feeds: Feeds, arch: Architecture, codebook: str = "cluster",
                    watch: Watch = unwatched) -> Network:
    """Quantise every `sparsec::MatMul` and `sparsec::Conv` of a planned graph.

    Args:
        model: the graph; it is not changed.
        feeds: inputs whose activations decide the fixed-point formats.
        arch: the accelerator.
        codebook: a key of `layer.CODEBOOKS`.
        watch: is shown the nodes.

    Raises:
        SimulationError: a layer cannot be quantised, or activations are not finite.
        UnsupportedOperatorError: a node runs neither on the accelerator nor on the host.
        InputError: an input is missing or has the wrong shape.

    """
    layers = {}

    def observe(node: ir.Node, x: NDArray[np.float32]) -> NDArray[np.float32]:
        name, weight, bias = str(node.name), vectors.matrix(node), vectors.bias(node)
        y = weight @ vectors.unfold(node, x).T
        y = y if bias is None else y + bias[:, None]
        ranges = Ranges(float(np.abs(x).max(initial=0)), float(np.abs(y).max(initial=0)))
        layers[name] = quantize(name, vectors.kind(node), weight, bias, ranges, arch, codebook=codebook,
                                relu=relu_at_write_back(node), groups=node.attributes.get_int("group", 1))
        return vectors.fold(node, np.maximum(y, 0) if layers[name].relu else y)

    execute(model, feeds, observe, watch, "quantise")
    return Network(model, layers)


def run(network: Network, feeds: Feeds, watch: Watch = unwatched) -> Execution:
    """Execute the network in fixed point, as the accelerator computes. Raises as `compile_network`."""
    active, saturated = {}, {}

    def compute(node: ir.Node, x: NDArray[np.float32]) -> NDArray[np.float32]:
        layer = network.layers[str(node.name)]
        integers = layer.source.quantize(x).astype(np.int16)
        inputs = with_bias(layer, vectors.unfold(node, integers))
        active[layer.name] = inputs != 0
        y, saturated[layer.name] = product(layer, inputs)
        return vectors.fold(node, y)

    outputs, on_host = execute(network.model, feeds, compute, watch, "execute")
    return Execution(outputs, active, saturated, on_host)


def run_float(network: Network, feeds: Feeds, watch: Watch = unwatched) -> dict[str, np.ndarray]:
    """The outputs with the shared weights in float32: what the codebook alone costs. Raises as `compile_network`."""
    def compute(node: ir.Node, x: NDArray[np.float32]) -> NDArray[np.float32]:
        layer = network.layers[str(node.name)]
        return vectors.fold(node, float_product(layer, vectors.unfold(node, x)))

    return execute(network.model, feeds, compute, watch, "compare")[0]
