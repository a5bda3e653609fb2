"""RNN, GRU and LSTM of any number of steps and members: a product for the inputs of all, and a kernel for the steps.

The product is rows like any other. The steps of a direction become a `graph.sized.RECURRENCE`, whose kernel takes so
many members of the batch through all of them; any batch is made of such calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.graph import operators
from sparsec.graph.constants import add_constant, constant
from sparsec.graph.nodes import node_name, optional
from sparsec.graph.operators.recurrence import GATES
from sparsec.graph.sized import RECURRENCE, SIZED_DOMAIN
from sparsec.passes import rewrite
from sparsec.passes.chain import Chain
from sparsec.passes.recurrent import direction, reason_against

STEPS = 16
"""The number of steps that plans are made for."""
CONSTANTS = ("weight", "bias", "peepholes")
"""The attributes that are tensors."""
Rejects = Callable[[str, int], str | None]
"""Why there is no kernel for a cell and the size of its state, None where there is one."""


def write_recurrent(graph: ir.Graph, symbols: Symbols, rejects: Rejects) -> int:
    """Rewrite every layer that kernels can run and whose inputs are rows, in place; returns how many."""
    found = [node for node in graph if not node.domain and node.op_type in GATES
             and reason_against(node, any_size=True) is None and _has_rows(symbols.shape(node.inputs[0]))
             and rejects(node.op_type, node.attributes.get_int("hidden_size", 0) or 0) is None]
    for node in found:
        _rewrite(node)
    if found:
        graph.opset_imports.setdefault(SIZED_DOMAIN, 1)
    return len(found)


def _has_rows(shape: Shape | None) -> bool:
    """Whether steps and members of a sequence follow from the sizes of the inputs."""
    return shape is not None and all(size.known for size in shape)


def _rewrite(node: ir.Node) -> None:
    chain, weight = Chain(node), constant(node.inputs[1])
    assert weight is not None
    directions = [_steps(chain, number) for number in range(len(weight))]
    for place, output in enumerate(node.outputs):
        if not output.name or not (output.uses() or output.is_graph_output()):
            continue
        axis = 1 if place == 0 else 0
        parts = [chain.add("Unsqueeze", each[place], np.array([axis], np.int64)) for each in directions]
        rewrite.take_over(parts[0] if len(parts) == 1 else chain.add("Concat", *parts, axis=axis), output)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _steps(chain: Chain, number: int) -> Sequence[ir.Value]:
    """The states of a direction, the last one, and the last cell."""
    d, node = direction(chain.node, number), chain.node
    name = f"{node_name(node)}.{number}"
    product = chain.add("MatMul", node.inputs[0], np.ascontiguousarray(d.inputs.T), name=f"{name}.inputs")
    shares = chain.add("Add", product, d.bias)
    arrays = dict(zip(CONSTANTS, (d.weight, d.inner, d.peepholes), strict=True))
    new = ir.node(RECURRENCE, [shares, *(_state(chain, place, number) for place in (5, 6)), optional(node, 4)],
                  {"cell": d.cell, "activations": d.activations, "reverse": d.reverse, "clip": d.clip,
                   **{key: ir.tensor(array) for key, array in arrays.items() if array is not None}},
                  domain=SIZED_DOMAIN, name=f"{name}.steps", num_outputs=3)
    for place, value in enumerate(new.outputs):
        value.name, value.dtype = f"{name}.steps.{place}", ir.DataType.FLOAT
    node.prepend(new)
    return new.outputs


def _state(chain: Chain, place: int, number: int) -> ir.Value | None:
    """A direction's first state or cell, None where it is zeros."""
    value = optional(chain.node, place)
    if value is None or _is_zeros(value):
        return None
    return chain.add("Gather", value, np.array(number, np.int64), axis=0)


def _is_zeros(value: ir.Value) -> bool:
    """Whether a value is zeros, of whatever shape."""
    node = value.producer()
    while node is not None and node.op_type in ("Expand", "Identity", "Unsqueeze", "Reshape") and (
            node.inputs[0] is not None):
        value, node = node.inputs[0], node.inputs[0].producer()
    if node is not None and node.op_type == "ConstantOfShape":
        fill = node.attributes.get("value")
        return fill is None or not fill.as_tensor().numpy().any()
    array = constant(value)
    return array is not None and not array.any()


def add_layers(graph: ir.Graph, nodes: Sequence[ir.Node], members: int) -> list[ir.Node]:
    """Put the recurrences of a model into another graph, as layers for so many members, each by itself."""
    if nodes:
        graph.opset_imports[operators.DOMAIN] = operators.VERSION
    return [_layer(graph, node, members) for node in nodes]


def _layer(graph: ir.Graph, node: ir.Node, members: int) -> ir.Node:
    weight, bias, peepholes = (_tensor(node, key) for key in CONSTANTS)
    assert weight is not None
    gates, hidden = weight.shape
    given = [(0, "x", (STEPS, members, gates), ir.DataType.FLOAT), (1, "h", (members, hidden), ir.DataType.FLOAT),
             (2, "c", (members, hidden), ir.DataType.FLOAT), (3, "lengths", (members,), ir.DataType.INT32)]
    values: list[ir.Value | None] = [None] * 4
    for place, kind, shape, dtype in given:
        if optional(node, place) is not None or place == 0:
            value = ir.Value(name=f"{node.name}.{kind}", shape=ir.Shape(shape), type=ir.TensorType(dtype))
            graph.inputs.append(value)
            values[place] = value
    constants = [None if array is None else add_constant(graph, f"{node.name}.{key}", array)
                 for key, array in zip(CONSTANTS, (weight, bias, peepholes), strict=True)]
    x, *states = values
    attributes = {key: each for key, each in node.attributes.items() if key not in CONSTANTS}
    made = ir.Node(operators.DOMAIN, "Recurrence", [x, *constants[:2], *states, constants[2]],
                   list(attributes.values()), num_outputs=1, name=node.name)
    made.outputs[0].name, made.outputs[0].dtype = f"{node.name}.y", ir.DataType.FLOAT
    made.outputs[0].shape = ir.Shape((STEPS + 2, members, hidden))
    graph.append(made)
    graph.outputs.append(made.outputs[0])
    return made


def _tensor(node: ir.Node, name: str) -> np.ndarray | None:
    """A constant of a recurrence."""
    return np.asarray(node.attributes[name].as_tensor().numpy()) if name in node.attributes else None
