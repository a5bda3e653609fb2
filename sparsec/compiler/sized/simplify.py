"""Before a graph with run-time sizes is staged: nothing is computed twice, and integers that are sizes by no node."""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.analysis.symbols.shapes import chosen
from sparsec.analysis.symbols.size import Size
from sparsec.graph.constants import add_constant, constant, constant_shape
from sparsec.graph.nodes import node_name
from sparsec.graph.sized import SELECT, SIZED_DOMAIN
from sparsec.passes.rewrite import take_over
from sparsec.runtime.sized.elementwise import OPERATORS as ELEMENTWISE
from sparsec.runtime.sized.tensors import OPERATORS as MOVES

SMALL = 64
"""Elements up to which constants are compared."""
LARGE = 1 << 28
"""Elements of weights of which parts are taken, or that are turned."""
FOLDED = {**ELEMENTWISE, **{name: MOVES[name] for name in ("Slice", "Transpose", "Squeeze", "Unsqueeze", "Reshape")}}
"""What is computed from constants: numbers, and parts of weights, as of the queries', keys' and values' in one."""


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


def fold_known(graph: ir.Graph, symbols: Symbols) -> int:
    """Let what follows from sizes that are numbers, as a scale from the width of heads, be constants; returns how many.

    Exporters compute such from shapes, of which the run tells other dimensions only.
    """
    folded = 0
    for node in list(graph):
        out = node.outputs[0] if len(node.outputs) == 1 else None
        array = None if out is None or out.is_graph_output() else _known_array(node, out, symbols)
        if out is None or array is None:
            continue
        made = add_constant(graph, f"{out.name}.known", array)
        symbols.shapes[made] = tuple(map(Size.of, array.shape))
        out.replace_all_uses_with(made)
        graph.remove(node, safe=True)
        folded += 1
    return folded


def choose_known(graph: ir.Graph, symbols: Symbols) -> int:
    """Let the branch that sizes choose take the place of a `SELECT`, in place; returns how many."""
    known = [(node, value) for node in graph if node.op_type == SELECT and node.domain == SIZED_DOMAIN
             and (value := chosen(symbols, node)) is not None]
    for node, value in known:
        made = ir.node("Identity", [value], name=node_name(node))
        node.prepend(made)
        take_over(made.outputs[0], node.outputs[0])
        graph.remove(node, safe=True)
    return len(known)


def _known_array(node: ir.Node, out: ir.Value, symbols: Symbols) -> np.ndarray | None:
    """What a node computes from numbers alone, where that is small, or from weights whose elements it only moves."""
    data, shape = symbols.data.get(out), symbols.shape(out)
    if data is not None and shape is not None and all(size.number is not None for size in (*data, *shape)):
        numbers = [size.number for size in data]
        return np.array(numbers, empty_like(out)).reshape([size.number or 0 for size in shape])
    if node.domain or node.op_type not in FOLDED or not node.inputs or out.dtype is None or any(
            value is not None and constant_shape(value) is None for value in node.inputs):
        return None
    size = max(math.prod(constant_shape(value) or ()) for value in node.inputs)
    if size > (SMALL if node.op_type in ELEMENTWISE else LARGE):
        return None
    arrays = [constant(value) for value in node.inputs]
    attributes = {name: each.value for name, each in node.attributes.items() if isinstance(each, ir.Attr)}
    if node.op_type == "Cast":
        attributes["to"] = empty_like(out)
    with np.errstate(all="ignore"):
        return np.asarray(FOLDED[node.op_type](arrays, attributes)[0], order="C")


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
