"""Projections of the same tokens that attention reads become one product, whose slices attention reads where they lie.

Q, K and V are three short kernels, each too small for a GPU. Their weights are joined, all of them or those that take
the same format, as the cost model predicts it to be fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from sparsec.backends.cuda.attention import reads_slices
from sparsec.backends.cuda.matmul import layer_of
from sparsec.backends.cuda.planning import measured
from sparsec.backends.cuda.products import options
from sparsec.cost.plan import choose
from sparsec.cost.roofline import Rates
from sparsec.graph.constants import add_constant
from sparsec.graph.large import computed, is_large
from sparsec.graph.nodes import node_name, on_the_left, operand, optional
from sparsec.graph.operators import DOMAIN
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import Target

COUNTS = (16, 128)
"""Rows for which layers of run-time sizes are priced, together."""
MOST = 8
"""Layers that are joined; so many projections of one tensor are not those of one attention."""
Price = Callable[[GpuProduct], tuple[float, str]]
"""The predicted seconds of a product, and the format that reaches them."""
Group = list[ir.Node]


def join(model: ir.Model, target: Target, precision: str, machine: Rates) -> None:
    """Joins layers, in place."""
    def price(layer: GpuProduct) -> tuple[float, str]:
        winner = choose("", measured(*options(layer, target, precision))[0], machine=machine).winner
        return winner.predicted_s, winner.option.name

    for group in _siblings(model.graph):
        for chosen in _fastest([layer_of(node) for node in group], price):
            if len(chosen) > 1:
                _join(model.graph, [group[number] for number in chosen])


def division(weights: Sequence[np.ndarray], target: Target, precision: str, machine: Rates) -> list[list[int]]:
    """Which layers of one input, by their weights (inputs, outputs), are one product where the run tells the rows."""
    def price(layer: GpuProduct) -> tuple[float, str]:
        winners = [choose("", measured(*options(replace(layer, columns=count), target, precision))[0],
                          machine=machine).winner for count in COUNTS]
        return sum(winner.predicted_s for winner in winners), winners[0].option.name

    layers = [GpuProduct(np.ascontiguousarray(weight.T), np.zeros(weight.shape[1], np.float32), 1, Epilogue())
              for weight in weights]
    return _fastest(layers, price)


def _siblings(graph: ir.Graph) -> list[Group]:
    """Linear layers of one input that only attention reads, in order."""
    groups: dict[ir.Value, Group] = {}
    for node in graph:
        if node.domain == DOMAIN and node.op_type == "MatMul" and _is_projection(node):
            groups.setdefault(operand(node, 0), []).append(node)
    return [group for group in groups.values() if 1 < len(group) <= MOST]


def _is_projection(node: ir.Node) -> bool:
    """Whether only attention reads the layer's output, and takes a slice in its place."""
    plain = not on_the_left(node) and optional(node, 3) is None and "activation" not in node.attributes
    output = node.outputs[0]
    users = [use.node for use in output.uses()]
    inside = len(static_shape(output) or ()) == 3 and not output.is_graph_output()
    return plain and inside and bool(users) and all(map(reads_slices, users))


def _fastest(layers: Sequence[GpuProduct], price: Price) -> list[list[int]]:
    """The layers as they are, by formats, or as one: the numbers of those that are predicted to take the least time."""
    alone = [price(layer) for layer in layers]
    by_format: dict[str, list[int]] = {}
    for number, (_, form) in enumerate(alone):
        by_format.setdefault(form, []).append(number)
    divisions = [(sum(seconds for seconds, _ in alone), [[number] for number in range(len(layers))])]
    every = [list(range(len(layers)))]
    candidates = [every] if len(by_format) in (1, len(layers)) else [every, list(by_format.values())]
    divisions += [(sum(price(_joined([layers[number] for number in part]))[0] for part in parts), parts)
                  for parts in candidates]
    return min(divisions, key=lambda each: each[0])[1]


def _joined(layers: Sequence[GpuProduct]) -> GpuProduct:
    """Layers as one product."""
    return replace(layers[0], weight=np.concatenate([layer.weight for layer in layers]),
                   bias=np.concatenate([layer.bias for layer in layers]), facts={})


def _join(graph: ir.Graph, group: Group) -> None:
    """Puts one layer and its slices in the place of several."""
    first, name = group[0], f"{node_name(group[0])}.joined"
    layers = [layer_of(node) for node in group]
    sizes = [len(layer.weight) for layer in layers]
    bias = add_constant(graph, f"{name}.bias", np.concatenate([layer.bias for layer in layers]).astype(np.float32))
    joined = ir.node("MatMul", [first.inputs[0], _weight(graph, group, name), bias], dict(first.attributes),
                     domain=DOMAIN, name=name)
    first.prepend(joined)
    output = joined.outputs[0]
    output.dtype = ir.DataType.FLOAT
    output.shape = ir.Shape((*(static_shape(first.outputs[0]) or ())[:-1], sum(sizes)))
    axis, begin = len(output.shape) - 1, 0
    for node, size in zip(group, sizes, strict=True):
        places = [add_constant(graph, f"{node_name(node)}.{what}", np.array([place], np.int64))
                  for what, place in (("first", begin), ("end", begin + size), ("axis", axis))]
        part = ir.node("Slice", [output, *places], name=f"{node_name(node)}.part")
        first.prepend(part)
        _take_over(node.outputs[0], part.outputs[0])
        begin += size
    graph.remove(group, safe=True)


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Puts a value in the place of another."""
    new.name, new.shape, new.type = f"{old.name}.part", old.shape, old.type
    old.replace_all_uses_with(new)


def _weight(graph: ir.Graph, group: Group, name: str) -> ir.Value:
    """The weights of layers, one below the other; read when they are asked for where they are large."""
    tensors = [operand(node, 1).const_value for node in group]

    def read() -> np.ndarray:
        return np.concatenate([tensor.numpy() for tensor in tensors if tensor is not None])

    weight = read()
    value = add_constant(graph, f"{name}.weight", weight)
    if any(map(is_large, tensors)):
        value.const_value = computed(read, ir.DataType.FLOAT, weight.shape, str(value.name))
    return value
