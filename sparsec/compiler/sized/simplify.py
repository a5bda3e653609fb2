"""Before a graph with run-time sizes is staged: nothing is computed twice, and integers that are sizes by no node."""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.graph.constants import constant, constant_shape

SMALL = 64
"""Elements up to which constants are compared."""


def merge_equal(graph: ir.Graph, symbols: Symbols) -> int:
    """Let nodes that compute the same be one, in place; returns how many went."""
    seen: dict[Hashable, ir.Node] = {}
    merged = 0
    for node in list(graph):
        key = _key(node, symbols)
        if key is None or any(value.is_graph_output() for value in node.outputs):
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            for old, new in zip(node.outputs, first.outputs, strict=True):
                old.replace_all_uses_with(new)
            graph.remove(node, safe=True)
            merged += 1
    return merged


def _key(node: ir.Node, symbols: Symbols) -> Hashable | None:
    """What equal nodes have in common; None for those that may differ from call to call, or hold graphs."""
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        if not isinstance(attribute, ir.Attr) or attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        value = attribute.value
        attributes.append((name, value.numpy().tobytes() if attribute.type == ir.AttributeType.TENSOR else repr(value)))
    if node.op_type.startswith(("Random", "Bernoulli", "Multinomial", "Dropout")):
        return None
    return node.domain, node.op_type, len(node.outputs), tuple(attributes), tuple(
        _identity(value, symbols) for value in node.inputs)


def _identity(value: ir.Value | None, symbols: Symbols) -> Hashable:
    """What a value is known by: its contents where they are small constants or sizes."""
    if value is None:
        return None
    shape = constant_shape(value)
    array = constant(value) if shape is not None and math.prod(shape) <= SMALL else None
    if array is not None:
        return array.dtype.name, array.shape, array.tobytes()
    data = known_data(value, symbols)
    return id(value) if data is None else (str(value.dtype), len(symbols.shapes[value]), data)


def known_data(value: ir.Value, symbols: Symbols) -> Hashable | None:
    """The integers that a value holds where they follow from the sizes of inputs."""
    data = symbols.data.get(value)
    return data if data is not None and all(size.known for size in data) else None


def empty_like(value: ir.Value) -> np.dtype[np.generic]:
    """The element type of a value."""
    assert value.dtype is not None
    return value.dtype.numpy()
