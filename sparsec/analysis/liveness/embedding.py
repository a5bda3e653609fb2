"""Gather: an embedding when it looks rows up by indices that depend on the input, else a pick of slabs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness import select
from sparsec.analysis.liveness.facts import Array, Dims, Known, Mask, dims, every, some, spread, unknown, where_known
from sparsec.analysis.liveness.node import constant_of
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Cut, Relation, tie
from sparsec.graph.nodes import operand


def _picks(node: ir.Node) -> bool:
    """Constant vectors of indices pick slabs; anything else is looked up."""
    indices = constant_of(node.inputs[1])
    return indices is not None and indices.ndim == 1


def _operands(node: ir.Node) -> tuple[ir.Value, ir.Value, Dims, int, int]:
    """The table, the indices, the table's shape, the axis looked up and how many axes the indices put in its place."""
    table, indices = operand(node, 0), operand(node, 1)
    shape = dims(table)
    return table, indices, shape, int(node.attributes.get_int("axis", 0)) % len(shape), len(dims(indices))


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """An element that is looked up is known where it is the same in all rows."""
    if _picks(node):
        return select.forward(node, inputs)
    x, (_, _, shape, axis, rank) = fact(inputs, 0), _operands(node)
    first = spread(x.value, [axis], shape).take([0], axis)
    mask = every(x.mask & (x.value == first), [axis], keepdims=True)

    def looked_up(array: Array) -> Array:
        return array.reshape(*array.shape[:axis], *(1,) * rank, *array.shape[axis + 1:])

    return [where_known(looked_up(mask), looked_up(first))] if mask.any() else [unknown(node.outputs[0])]


def backward(node: ir.Node, needed: Sequence[Mask], inputs: Inputs) -> list[Mask | None]:
    """Any row may be looked up."""
    if _picks(node):
        return select.backward(node, needed, inputs)
    _, _, _, axis, rank = _operands(node)
    found = some(needed[0], range(axis, axis + rank))
    return [np.expand_dims(found, axis), np.ones(1, bool)]


def couple(node: ir.Node) -> Iterator[Relation]:
    """The rows of a table stay; its columns go with the result's."""
    if _picks(node):
        yield from select.couple(node)
        return
    table, indices, shape, axis, rank = _operands(node)
    out = node.outputs[0]
    for i in range(rank):
        yield from tie((indices, i), (out, axis + i))
    for i in range(len(shape)):
        if i != axis:
            yield from tie((table, i), (out, i if i < axis else i + rank - 1))


def rewrite(node: ir.Node, cut: Cut) -> None:
    """Indices, where they are constant, count the rows that are left."""
    if _picks(node):
        select.rewrite(node, cut)


def reject(node: ir.Node, inputs: Inputs) -> str | None:
    """Slabs are picked along static axes; every lookup is covered."""
    return select.reject(node, inputs) if _picks(node) else None


RULES = {"Gather": Rule(forward, backward, couple, rewrite, reject)}
