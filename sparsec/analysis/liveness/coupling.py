"""Which slabs of a graph's tensors can be dropped, given which elements must stay."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.analysis import RULES, Liveness, captured
from sparsec.analysis.liveness.facts import some
from sparsec.analysis.liveness.node import name
from sparsec.analysis.liveness.slabs import NEEDED, Hold, Key, Relation, can_lose, freeze, solve

CODES = (ir.DataType.UINT8, ir.DataType.INT8)


def settle(graph: ir.Graph, liveness: Liveness) -> tuple[dict[Key, Hold], list[str]]:
    """The holds of every axis that can lose slabs, and the reasons by number.

    A slab must stay if one of its elements is needed and not known to be zero; initializers follow their users.
    """
    holds = {key: _hold(key, liveness) for value in liveness.known for key in axes(value)}
    return holds, solve(holds, list(_relations(graph, liveness)))


def axes(value: ir.Value) -> list[Key]:
    """The axes of a value that can lose slabs."""
    rank = len(value.shape) if value.shape is not None else 0
    return [(value, axis) for axis in range(rank) if can_lose((value, axis))]


def _hold(key: Key, liveness: Liveness) -> Hold:
    value, axis = key
    assert value.shape is not None
    length = value.shape[axis]
    assert isinstance(length, int)
    if value.is_initializer():
        return np.zeros(length, np.int32)
    readers = {use.node for use in value.uses()}
    if value.dtype in CODES and readers and all(node.op_type == "DequantizeLinear" for node in readers):
        facts = [node.outputs[0] for node in readers]  # codes are zero where what they stand for is
    else:
        facts = [value]
    held = reduce(np.logical_or, (liveness.needed[each] & liveness.known[each].nonzero for each in facts))
    held = some(held, (i for i in range(held.ndim) if i != axis))
    return np.broadcast_to(held, (length,)).astype(np.int32) * NEEDED


def _relations(graph: ir.Graph, liveness: Liveness) -> Iterator[Relation]:
    for value in graph.inputs:
        yield from freeze(axes(value), "input of the model")
    for value in graph.outputs:
        yield from freeze(axes(value), "output of the model")
    for value in captured(graph):
        yield from freeze(axes(value), "read by a subgraph")
    for node in graph:
        everything = [key for value in (*node.inputs, *node.outputs) if value is not None for key in axes(value)]
        if node in liveness.opaque:
            yield from freeze(everything, f"{name(node)}: {liveness.opaque[node]}")
            continue
        relations = list(RULES[node.op_type].couple(node))
        yield from relations
        touched = {key for relation in relations for key in relation.keys}
        yield from freeze((key for key in everything if key not in touched), f"{name(node)} keeps the axis")
