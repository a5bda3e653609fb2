"""Reductions along axes, and pooling over all positions.

The reduced axes keep every slab, because dropping one would change the mean or the count; only sums may lose zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.facts import Known, Mask, dims, every, spread, unknown, where_known
from sparsec.analysis.liveness.node import evaluate, is_computed, name, parameter
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Relation, freeze, nonempty, tie
from sparsec.graph.nodes import operand

REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
              "ReduceProd", "ReduceSum", "ReduceSumSquare")
GLOBAL_POOLS = ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")
ZERO_ADDS_NOTHING = ("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare")


def _rank(node: ir.Node) -> int:
    return len(dims(operand(node, 0)))


def reduced_axes(node: ir.Node) -> list[int]:
    """The axes of a reduction or global pooling."""
    rank = _rank(node)
    if node.op_type in GLOBAL_POOLS:
        return list(range(2, rank))
    axes = parameter(node, "axes", 1)
    if isinstance(axes, list) and axes:
        return sorted(axis % rank for axis in axes)
    return [] if bool(node.attributes.get_int("noop_with_empty_axes", 0)) else list(range(rank))


def _kept_axes(node: ir.Node) -> list[int]:
    """The input axis of every output axis."""
    if node.op_type in GLOBAL_POOLS or bool(node.attributes.get_int("keepdims", 1)):
        return list(range(_rank(node)))
    return [axis for axis in range(_rank(node)) if axis not in reduced_axes(node)]


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Known where everything that is reduced is."""
    x, axes, shape = fact(inputs, 0), reduced_axes(node), dims(operand(node, 0))
    mask = every(x.mask, axes, keepdims=True)
    if not mask.any() or None in (shape[axis] for axis in axes):
        return [unknown(node.outputs[0])]
    rest = [found.value if found is not None else None for found in inputs[1:]]
    value = evaluate(node, [spread(x.value, axes, shape), *rest])
    if value is None:
        return [unknown(node.outputs[0])]
    return [where_known(mask.reshape([mask.shape[axis] for axis in _kept_axes(node)]), value)]


def backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """Everything that a needed element reduces."""
    shape = [1] * _rank(node)
    for axis, length in zip(_kept_axes(node), needed[0].shape, strict=True):
        shape[axis] = length
    return [needed[0].reshape(shape), *(np.ones(1, bool) for _ in node.inputs[1:])]


def couple(node: ir.Node) -> Iterator[Relation]:
    """The other axes pass; sums may lose zeros."""
    axes, x, y = reduced_axes(node), operand(node, 0), node.outputs[0]
    for target, axis in enumerate(_kept_axes(node)):
        if axis not in axes:
            yield from tie((x, axis), (y, target))
    if node.op_type in ZERO_ADDS_NOTHING:
        for axis in axes:
            yield from nonempty((x, axis), [(y, i) for i in range(len(dims(y)))], f"the last slab of {name(node)}")
    else:
        yield from freeze([(x, axis) for axis in axes], f"{name(node)} couples what it reduces")


def reject(node: ir.Node, _inputs: Inputs) -> str | None:
    """The axes must not be computed."""
    return "its axes are computed" if is_computed(node, 1) else None


REDUCE = Rule(forward, backward, couple, reject=reject)
RULES = dict.fromkeys((*REDUCTIONS, *GLOBAL_POOLS), REDUCE)
