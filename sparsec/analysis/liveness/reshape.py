"""Operators that write the same elements, in the same order, as another rectangle; and those that ask for its shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.edit import replace_input
from sparsec.analysis.liveness.facts import Array, Dims, Known, Mask, constant, dims, some, spread, unknown
from sparsec.analysis.liveness.node import constant_of, name
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Cut, Relation, freeze, product
from sparsec.graph.nodes import operand, optional

Groups = list[tuple[range, range]]  # axes of the input beside the axes of the output that hold the same elements


def groups(source: Dims, target: Dims) -> Groups:
    """The finest pairs of axis ranges with as many elements; from the first symbolic dimension to the last is one."""
    cuts = [(0, 0), *_cuts(source, target)]
    ends = [(len(source) - i, len(target) - j) for i, j in reversed(_cuts(source[::-1], target[::-1]))]
    for i, j in [*ends, (len(source), len(target))] if None in (*source, *target) else []:
        if i >= cuts[-1][0] and j >= cuts[-1][1]:
            cuts.append((i, j))
    return [(range(a, c), range(b, d)) for (a, b), (c, d) in pairwise(cuts) if (a, b) != (c, d)]


def _cuts(source: Dims, target: Dims) -> list[tuple[int, int]]:
    """Axes (i, j) that as many elements precede, up to the first symbolic dimension."""
    last = [{size: axis for axis, size in enumerate(_products(shape))} for shape in (source, target)]
    return [(axis, last[1][size]) for size, axis in last[0].items() if size in last[1]]


def _products(shape: Dims) -> list[int]:
    result = [1]
    for dim in shape:
        if dim is None:
            break
        result.append(result[-1] * dim)
    return result


def _varies(fact: Array, axes: range) -> bool:
    return any(fact.shape[axis] > 1 for axis in axes)


def _symbolic(shape: Dims, axes: range) -> bool:
    return any(shape[axis] is None for axis in axes)


def rearranged(fact: Array, source: Dims, target: Dims) -> Array:
    """The fact of the output from the input's; where a symbolic dimension is merged, it must not vary."""
    full: list[int] = []
    for before, after in groups(source, target):
        varies = _varies(fact, before)
        if varies:
            fact = spread(fact, before, source)
        full += [(target[axis] or 0) if varies else 1 for axis in after]
    return fact.reshape(full)


def _settled(mask: Mask, source: Dims, target: Dims) -> Mask:
    """The mask with any element standing for all those that it shares a symbolic dimension with."""
    for before, after in groups(source, target):
        if _symbolic(source, before) or _symbolic(target, after):
            mask = some(mask, before, keepdims=True)
    return mask


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """The elements' facts move with them."""
    x, source, target = fact(inputs, 0), _source(node), dims(node.outputs[0])
    if any(_varies(array, before) for before, after in groups(source, target) for array in (x.mask, x.value)
           if _symbolic(source, before) or _symbolic(target, after)):
        return [unknown(node.outputs[0])]
    return [Known(rearranged(x.mask, source, target), rearranged(x.value, source, target))]


def backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """The same elements are needed."""
    source, target = _source(node), dims(node.outputs[0])
    everything = np.ones((1,), bool)
    return [rearranged(_settled(needed[0], target, source), target, source), *(everything for _ in node.inputs[1:])]


def _source(node: ir.Node) -> Dims:
    return dims(operand(node, 0))


def couple(node: ir.Node) -> Iterator[Relation]:
    """What is left must be a rectangle on both sides."""
    x, y = operand(node, 0), node.outputs[0]
    source, target = dims(x), dims(y)
    if node.op_type == "Reshape" and constant_of(node.inputs[1]) is None:
        yield from freeze([(y, axis) for axis in range(len(target))], f"{name(node)} computes its shape")
    for before, after in groups(source, target):
        keys = [(x, axis) for axis in before], [(y, axis) for axis in after]
        if _symbolic(source, before) or _symbolic(target, after):
            yield from freeze([*keys[0], *keys[1]], f"{name(node)} merges symbolic dimensions")
        else:
            yield from product(*keys, f"{name(node)} needs whole rows and columns")


def rewrite(node: ir.Node, cut: Cut) -> None:
    """The constant shape of Reshape; 0 and -1 hold for any size."""
    lost, shape = cut.get(node.outputs[0], {}), constant_of(optional(node, 1))
    if node.op_type not in ("Reshape", "Expand") or not lost or shape is None:
        return
    sizes = [int(lost[i].sum()) if i in lost and size > 0 else size for i, size in enumerate(shape.tolist())]
    if sizes != shape.tolist():
        replace_input(node, 1, np.array(sizes, np.int64))


def shape_forward(node: ir.Node, _inputs: Inputs) -> list[Known]:
    """Shape and Size: known where the dimensions are."""
    source = _source(node)
    if node.op_type == "Shape":
        end = node.attributes.get_int("end", len(source))
        source = source[node.attributes.get_int("start", 0):end]
    if None in source:
        return [unknown(node.outputs[0])]
    value = np.array(source if node.op_type == "Shape" else math.prod(dim or 0 for dim in source), np.int64)
    return [constant(value)]


def shape_backward(_node: ir.Node, _needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """Shape and Size read no data."""
    return [None]


def shape_couple(node: ir.Node) -> Iterator[Relation]:
    """Shape and Size: what is computed from them may count on every slab."""
    yield from freeze([(operand(node, 0), axis) for axis in range(len(_source(node)))], f"{name(node)} reads the shape")


RESHAPE = Rule(forward, backward, couple, rewrite)
SHAPE = Rule(shape_forward, shape_backward, shape_couple)
RULES = {**dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), RESHAPE), "Shape": SHAPE, "Size": SHAPE}
