"""Attention as one operator (opset 23), on tensors (batch, heads, steps, features)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.facts import Known, Mask, compact, dims, every, some, unknown, where_known
from sparsec.analysis.liveness.node import name
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Relation, freeze, nonempty, tie
from sparsec.graph.nodes import operand, optional

HEADS, STEPS, FEATURES = 1, 2, 3


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Known where the values are the same at all steps, because the weights of a row add up to one."""
    values = fact(inputs, 2)
    if values.value.shape[STEPS] > 1:
        return [unknown(node.outputs[0])]
    return [where_known(every(values.mask, [STEPS], keepdims=True), values.value)]


def backward(node: ir.Node, needed: Sequence[Mask], inputs: Inputs) -> list[Mask | None]:
    """A value at all steps; of queries and keys, the features that meet one that is not zero, as in a product."""
    query, key = fact(inputs, 0), fact(inputs, 1)
    queries = some(needed[0], [FEATURES], keepdims=True)
    keys = some(queries, [STEPS], keepdims=True)
    masks = (queries & some(key.nonzero, [STEPS], keepdims=True),
             keys & (some(query.nonzero, [STEPS], keepdims=True) | key.zero),
             some(needed[0], [STEPS], keepdims=True))
    return [*(compact(mask) for mask in masks), *(np.ones(1, bool) for _ in node.inputs[3:])]


def couple(node: ir.Node) -> Iterator[Relation]:
    """Heads go together; features of queries and keys too, unless their number sets the scale."""
    query, key, value, out = operand(node, 0), operand(node, 1), operand(node, 2), node.outputs[0]
    for axis in (0, HEADS):
        yield from tie((query, axis), (key, axis), (value, axis), (out, axis))
    yield from tie((value, FEATURES), (out, FEATURES))
    features = [(query, FEATURES), (key, FEATURES)]
    if "scale" in node.attributes:
        yield from tie(*features)
        yield from nonempty(features[0], [(out, axis) for axis in range(4)], f"the last feature of {name(node)}")
    else:
        yield from freeze(features, f"{name(node)} scales by the number of features")


def reject(node: ir.Node, _inputs: Inputs) -> str | None:
    """Only four axes, as many heads everywhere, no cache and no mask by head."""
    shapes = [dims(operand(node, index)) for index in range(3)]
    if any(len(shape) != 4 for shape in shapes):
        return "heads and features share an axis"
    if len({shape[HEADS] for shape in shapes}) > 1 or None in (shape[HEADS] for shape in shapes):
        return "groups of heads share keys"
    if any(value is not None for value in node.inputs[4:]):
        return "it reads a cache"
    mask = optional(node, 3)
    by_head = mask is not None and len(dims(mask)) > 2 and dims(mask)[-3] != 1
    return "its mask differs by head" if by_head else None


RULES = {"Attention": Rule(forward, backward, couple, reject=reject)}
