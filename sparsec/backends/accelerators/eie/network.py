"""A network for the accelerator: what it runs as entries, the rest on the host; and the network's execution.

Executing records which activations were not zero: together with the matrices they decide the timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.accelerators.eie import host, vectors
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.layer import Layer, Ranges, float_product, product, quantize, with_bias
from sparsec.errors import InputError, SimulationError
from sparsec.graph.evaluate import run_node
from sparsec.graph.operators import epilogue

Feeds = Mapping[str, np.ndarray]
Product = Callable[[ir.Node, NDArray[np.float32]], NDArray[np.float32]]
T = TypeVar("T")


class Watch(Protocol):
    """Passes the items of a long loop on and shows how far it is; the text says what is done."""

    def __call__(self, items: Sequence[T], text: str, /) -> Iterable[T]:
        """The items, one after the other."""
        ...


def unwatched(items: Sequence[T], _text: str, /) -> Iterable[T]:
    """Shows nothing."""
    return items


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
class HostNode:
    """A node that ran on the host."""

    name: str
    op_type: str
    flops: int


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
                                relu=_relu_at_write_back(node), groups=node.attributes.get_int("group", 1))
        return vectors.fold(node, np.maximum(y, 0) if layers[name].relu else y)

    _execute(model, feeds, observe, watch, "quantise")
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

    outputs, on_host = _execute(network.model, feeds, compute, watch, "execute")
    return Execution(outputs, active, saturated, on_host)


def run_float(network: Network, feeds: Feeds, watch: Watch = unwatched) -> dict[str, np.ndarray]:
    """The outputs with the shared weights in float32: what the codebook alone costs. Raises as `compile_network`."""
    def compute(node: ir.Node, x: NDArray[np.float32]) -> NDArray[np.float32]:
        layer = network.layers[str(node.name)]
        return vectors.fold(node, float_product(layer, vectors.unfold(node, x)))

    return _execute(network.model, feeds, compute, watch, "compare")[0]


def _relu_at_write_back(node: ir.Node) -> bool:
    return node.attributes.get_string("activation", "none") == "relu" and len(node.inputs) < 4


def _execute(model: ir.Model, feeds: Feeds, multiply: Product, watch: Watch, text: str,
             ) -> tuple[dict[str, np.ndarray], list[HostNode]]:
    """Run the graph, the products by `multiply` (bias and ReLU at write-back included), the rest on the host."""
    values: dict[ir.Value, np.ndarray] = {value: _feed(value, feeds) for value in model.graph.inputs}

    def get(value: ir.Value) -> np.ndarray:
        return values[value] if value.const_value is None else value.const_value.numpy()

    on_host = []
    for node in watch(list(model.graph), text):
        if vectors.is_product(node):
            x, _, _, residual = (*node.inputs, None, None, None)[:4]
            assert x is not None  # the operators' schemas
            outputs = [_product(node, get(x), None if residual is None else get(residual), multiply)]
        else:
            inputs = [None if value is None else get(value) for value in node.inputs]
            outputs = run_node(node, inputs, dict(model.graph.opset_imports))
            on_host.append(HostNode(str(node.name), node.op_type, host.flops(node, inputs, outputs)))
        values.update(zip((value for value in node.outputs if value.name), outputs, strict=True))
    return {str(value.name): get(value) for value in model.graph.outputs}, on_host


def _product(node: ir.Node, x: np.ndarray, residual: np.ndarray | None, multiply: Product) -> NDArray[np.float32]:
    if not np.isfinite(x).all():
        raise SimulationError(f"layer '{node.name}' is given NaN or infinite activations, which fixed point does not "
                              "have; check the input and the layers before")
    y = multiply(node, x)
    if _relu_at_write_back(node):
        return y
    get = node.attributes.get_float
    return epilogue.apply(y, None, residual, node.attributes.get_string("activation", "none"), get("alpha", 0.0),
                          get("beta", 0.0))


def _feed(value: ir.Value, feeds: Feeds) -> np.ndarray:
    x = feeds.get(str(value.name))
    if x is None:
        raise InputError(f"no input '{value.name}'; the inputs given are {', '.join(feeds) or 'none'}")
    assert value.shape is not None  # the reader binds shapes and types
    assert value.dtype is not None
    shape, dtype = value.shape.numpy(), value.dtype.numpy()
    if x.shape != shape or x.dtype != dtype:
        raise InputError(f"input '{value.name}' is {x.dtype} of shape {x.shape}; the model takes {dtype} of {shape}")
    return x
