"""Removing what no output needs: inactive weights become zero, slabs of tensors and whole branches go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparsec.graph.liveness.analysis import RULES, Liveness, captured, weight_of
from sparsec.graph.liveness.conv import name
from sparsec.graph.liveness.edit import set_data
from sparsec.graph.liveness.facts import constant_of
from sparsec.graph.liveness.slabs import NEEDED, Cut, Hold, Key, Relation, can_lose, freeze, solve


@dataclass(frozen=True)
class Removal:
    """What was cut, and by layer output why slabs stay that no output needs: how many by reason."""

    cut: Cut
    staying: Mapping[ir.Value, Mapping[str, int]]


def remove(model: ir.Model, liveness: Liveness) -> Removal:
    """Zeroes weights and drops slabs that no output needs, in place; shapes and sizes in the graph follow."""
    graph = model.graph
    for node in graph:
        place = weight_of(node)
        weight = None if place is None else node.inputs[place]
        if weight is not None:
            _zero(weight, liveness)
    holds = {key: _hold(key, liveness) for value in liveness.known for key in keys(value)}
    reasons = solve(holds, list(_relations(graph, liveness)))
    cut: dict[ir.Value, dict[int, np.ndarray]] = {}
    for (value, axis), hold in holds.items():
        if not hold.all():
            cut.setdefault(value, {})[axis] = hold > 0
    staying = {value: _count(holds[value, axis], reasons) for value, axis in unit_axes(graph)}
    for node in graph:
        if node not in liveness.opaque:
            RULES[node.op_type].rewrite(node, cut)
    _slice(cut)
    RemoveUnusedNodesPass()(model)
    return Removal(cut, staying)


def keys(value: ir.Value) -> list[Key]:
    """The axes of a value that can lose slabs."""
    rank = len(value.shape) if value.shape is not None else 0
    return [(value, axis) for axis in range(rank) if can_lose((value, axis))]


def unit_axes(graph: ir.Graph) -> Iterator[Key]:
    """The axis of every layer's output along which its units lie."""
    for node in graph:
        if weight_of(node) is not None:
            out = node.outputs[0]
            key = (out, 1 if node.op_type.startswith("Conv") else len(out.shape or ()) - 1)
            if can_lose(key):
                yield key


def _zero(weight: ir.Value, liveness: Liveness) -> None:
    data = constant_of(weight)
    assert data is not None
    dead = ~liveness.needed[weight] & (data != 0)
    if dead.any():
        set_data(weight, np.where(dead, np.zeros((), data.dtype), data))


def _hold(key: Key, liveness: Liveness) -> Hold:
    """Held where an element is needed and not known to be zero; initializers follow their users."""
    value, axis = key
    assert value.shape is not None
    length = value.shape[axis]
    assert isinstance(length, int)
    if value.is_initializer():
        return np.zeros(length, np.int32)
    held = liveness.needed[value] & ~liveness.known[value].zero
    held = held.any(axis=tuple(i for i in range(held.ndim) if i != axis))
    return np.broadcast_to(held, (length,)).astype(np.int32) * NEEDED


def _relations(graph: ir.Graph, liveness: Liveness) -> Iterator[Relation]:
    for value in graph.inputs:
        yield from freeze(keys(value), "input of the model")
    for value in graph.outputs:
        yield from freeze(keys(value), "output of the model")
    for value in captured(graph):
        yield from freeze(keys(value), "read by a subgraph")
    for node in graph:
        everything = [key for value in (*node.inputs, *node.outputs) if value is not None for key in keys(value)]
        if node in liveness.opaque:
            yield from freeze(everything, f"{name(node)}: {liveness.opaque[node]}")
            continue
        relations = list(RULES[node.op_type].couple(node))
        yield from relations
        touched = {key for relation in relations for key in relation.keys}
        yield from freeze((key for key in everything if key not in touched), f"{name(node)} keeps the axis")


def _count(hold: Hold, reasons: list[str]) -> dict[str, int]:
    """How many slabs stay although they are not needed, by reason."""
    numbers, counts = np.unique(hold[hold > NEEDED], return_counts=True)
    return {reasons[number]: int(count) for number, count in zip(numbers, counts, strict=True)}


def _slice(cut: Cut) -> None:
    for value, axes in cut.items():
        data = constant_of(value)
        if data is not None:
            for axis, kept in axes.items():
                data = data.compress(kept, axis)
            set_data(value, data)
        elif value.shape is not None:
            value.shape = ir.Shape([int(axes[i].sum()) if i in axes else dim for i, dim in enumerate(value.shape)])
