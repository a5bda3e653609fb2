"""Which models compute every row of their outputs from the same row of their inputs, and such a model for fewer rows.

Rows lie along axis 0. That a row depends on no other is proved from the relations by which slabs are dropped
(`liveness.slabs`): an operator keeps rows apart where a slabwise relation names axis 0 of its output and of every input
that has rows. What the rules do not cover counts as mixing rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness import attention, elementwise, normalization, reshape
from sparsec.analysis.liveness.analysis import RULES, reject
from sparsec.analysis.liveness.edit import replace_input
from sparsec.analysis.liveness.facts import Known, constant, dims, unknown
from sparsec.analysis.liveness.node import constant_of, name
from sparsec.analysis.liveness.slabs import Cut
from sparsec.errors import ModelError
from sparsec.graph.shapes import static_shape
from sparsec.graph.verify import infer

WHOLE_CONSTANTS = {**normalization.RULES, **attention.RULES}
"""Operators whose relations do not name the leading axes of scales and masks."""


@dataclass(frozen=True)
class Rows:
    """The rows of a model.

    Attributes:
        count: how many there are.
        values: the values that have one slab along axis 0 for each.
        repeated: constants of equal slabs, one for each row: a node, the number of its input, and the axis.

    """

    count: int
    values: frozenset[ir.Value]
    repeated: tuple[tuple[ir.Node, int, int], ...]


def rows_of(graph: ir.Graph) -> Rows | str:
    """The rows of a sorted graph of static shapes, or why they cannot be computed one by one."""
    counts = {value: (static_shape(value) or (0,))[0] for value in graph.inputs}
    if len({*counts.values()}) != 1:
        told = [f"'{value.name}' has {rows or 'none'}" for value, rows in counts.items()]
        return f"its inputs differ in their number of rows: {', '.join(told) or 'there are none'}"
    count = next(iter(counts.values()))
    values = set(graph.inputs)
    repeated: list[tuple[ir.Node, int, int]] = []
    known = dict(_facts(graph))
    for node in graph:
        reason = reject(node, known)
        if reason is None and not values.isdisjoint(node.inputs):
            reason = _mixes(node, values, count)
        if reason is not None:
            return f"{name(node)}: {reason}"
        if not values.isdisjoint(node.inputs):
            repeated += ((node, index, axis) for index, axis in _constant_axes(node, values))
            values.update(node.outputs)
    if fixed := [value.name for value in graph.outputs if value not in values]:
        return f"output '{fixed[0]}' does not depend on the inputs"
    return Rows(count, frozenset(values), tuple(repeated))


def with_rows(model: ir.Model, count: int) -> ir.Model | str:
    """A copy of a model for fewer rows, or why there is none."""
    model = model.clone()
    rows = rows_of(model.graph)
    if isinstance(rows, str):
        return rows
    expected = {value: (count, *dims(value)[1:]) for value in rows.values}
    kept = np.arange(rows.count) < count
    cut: Cut = {value: {0: kept} for value in rows.values}
    for node in model.graph:
        if not rows.values.isdisjoint(node.outputs):
            RULES[node.op_type].rewrite(node, cut)
    for node, index, axis in rows.repeated:
        data = constant_of(node.inputs[index])
        assert data is not None
        replace_input(node, index, data.compress(kept, axis))
    for value, shape in expected.items():
        value.shape = ir.Shape(shape) if value.is_graph_input() else None
    try:
        infer(model, f"the model for {count} rows")
    except ModelError as error:
        return str(error)
    astray = [value.name for value, shape in expected.items() if static_shape(value) != shape]
    return f"the shape of '{astray[0]}' does not follow the number of rows" if astray else model


def _facts(graph: ir.Graph) -> Iterator[tuple[ir.Value, Known]]:
    """What `reject` needs to know: constants, and nothing of what is computed."""
    for value in (*graph.inputs, *graph.initializers.values()):
        data = constant_of(value)
        yield value, unknown(value) if data is None else constant(data)
    for node in graph:
        yield from ((value, unknown(value)) for value in node.outputs)


def _mixes(node: ir.Node, values: set[ir.Value], count: int) -> str | None:
    """Why a row of the node's outputs may depend on several rows of its inputs, or None."""
    operands = [value for value in node.inputs if value in values]
    if any(dims(value)[:1] != (count,) for value in node.outputs):
        return "its output's first axis is not the rows"
    if RULES[node.op_type] is reshape.RESHAPE:  # the elements keep their order
        computed = [value for value in node.inputs[1:] if value is not None and constant_of(value) is None]
        return "its shape is computed" if computed else None
    if len(set(operands)) < len(operands) and node.op_type not in elementwise.RULES:
        return "it reads a value twice"
    for out in node.outputs:
        apart = {value for value, axis in _related(node, out) if axis == 0}
        if not apart.issuperset(operands):
            return "it mixes rows"
    if node.op_type == "Expand":
        shape = constant_of(node.inputs[1])
        if shape is None or len(shape) < len(dims(node.outputs[0])):
            return "its shape is computed, or leaves the rows out"
    return _differing(node, values, count)


def _related(node: ir.Node, out: ir.Value) -> set[tuple[ir.Value, int]]:
    """The axes that correspond to the output's rows, index by index."""
    ties = (relation.keys for relation in RULES[node.op_type].couple(node) if relation.slabwise)
    return {key for keys in ties if (out, 0) in keys for key in keys}


def _constant_axes(node: ir.Node, values: set[ir.Value]) -> Iterator[tuple[int, int]]:
    """Inputs without rows of their own, by number, with the axis that meets the rows of an output."""
    related = set().union(*(_related(node, out) for out in node.outputs))
    for index, value in enumerate(node.inputs):
        if value is not None and value not in values:
            yield from ((index, axis) for other, axis in related if other is value)


def _differing(node: ir.Node, values: set[ir.Value], count: int) -> str | None:
    """Why a constant of the node is not the same for every row, or None."""
    for index, axis in _constant_axes(node, values):
        data = constant_of(node.inputs[index])
        if data is None or (data != data.take([0], axis)).any():
            return f"its input {index} differs from row to row"
    if node.op_type in WHOLE_CONSTANTS:
        rank = len(dims(node.outputs[0]))
        if any(dims(value)[:1] == (count,) and len(dims(value)) == rank
               for value in node.inputs if value is not None and value not in values):
            return "it has a constant with one value for each row"
    return None
