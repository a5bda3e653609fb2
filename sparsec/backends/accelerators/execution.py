"""Executing a planned graph: the products with weights by a function of the accelerator's, the rest on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.accelerators import host, vectors
from sparsec.errors import InputError, SimulationError
from sparsec.graph.evaluate import run_node
from sparsec.graph.operators import epilogue

Feeds = Mapping[str, np.ndarray]
Product = Callable[[ir.Node, NDArray[np.float32]], NDArray[np.float32]]
Observe = Callable[[ir.Node, Sequence[np.ndarray | None], Sequence[np.ndarray]], None]
T = TypeVar("T")


class Watch(Protocol):
    """Passes the items of a long loop on and shows how far it is; the text says what is done."""

    def __call__(self, items: Sequence[T], text: str, /) -> Iterable[T]:
        """The items, one after the other."""
        ...


def unwatched(items: Sequence[T], _text: str, /) -> Iterable[T]:
    """Shows nothing."""
    return items


def _unseen(_node: ir.Node, _inputs: Sequence[np.ndarray | None], _outputs: Sequence[np.ndarray]) -> None:
    """Keeps nothing."""


@dataclass(frozen=True)
class HostNode:
    """A node that ran on the host."""

    name: str
    op_type: str
    flops: int


def relu_at_write_back(node: ir.Node) -> bool:
    """Whether the accelerator itself applies the node's ReLU, as it writes results back."""
    return node.attributes.get_string("activation", "none") == "relu" and len(node.inputs) < 4


def write_back(node: ir.Node, y: NDArray[np.float32]) -> NDArray[np.float32]:
    """A product's output from (outputs, vectors) sums: with its bias, and ReLU where the accelerator applies it."""
    bias = vectors.bias(node)
    y = y if bias is None else y + bias[:, None]
    return vectors.fold(node, np.maximum(y, 0) if relu_at_write_back(node) else y)


def execute(model: ir.Model, feeds: Feeds, multiply: Product, watch: Watch, text: str, observe: Observe = _unseen,
             ) -> tuple[dict[str, np.ndarray], list[HostNode]]:
    """Run the graph, the products by `multiply` (bias and ReLU at write-back included), the rest on the host.

    Args:
        model: the planned graph.
        feeds: inputs by name.
        multiply: from a product's node and its activations to its results.
        watch: is shown the nodes.
        text: what `watch` is told.
        observe: is shown what every node of the host has read and written.

    Returns:
        The outputs by name, and what ran on the host, in order.

    Raises:
        SimulationError: activations are not finite.
        UnsupportedOperatorError: a node runs neither on the accelerator nor on the host.
        InputError: an input is missing or has the wrong shape.

    """
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
            observe(node, inputs, outputs)
            on_host.append(HostNode(str(node.name), node.op_type, host.flops(node, inputs, outputs)))
        values.update(zip((value for value in node.outputs if value.name), outputs, strict=True))
    return {str(value.name): get(value) for value in model.graph.outputs}, on_host


def _product(node: ir.Node, x: np.ndarray, residual: np.ndarray | None, multiply: Product) -> NDArray[np.float32]:
    if not np.isfinite(x).all():
        raise SimulationError(f"layer '{node.name}' is given NaN or infinite activations, which fixed point does not "
                              "have; check the input and the layers before")
    y = multiply(node, x)
    if relu_at_write_back(node):
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
