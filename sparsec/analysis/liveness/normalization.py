"""Softmax and the normalisations, which couple all elements along some axes and keep the shape.

They keep every slab of those axes: dropping one would change the mean or the sum for all others. Scale and bias, where
there are any, apply element by element afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.facts import (
    Array,
    Known,
    Mask,
    aligned,
    compact,
    dims,
    every,
    some,
    spread,
    unknown,
    where_known,
)
from sparsec.analysis.liveness.node import evaluate, name
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Relation, freeze, tie
from sparsec.graph.nodes import operand

CENTRED = ("InstanceNormalization", "LayerNormalization", "LogSoftmax", "Softmax")  # constant on a single element
PER_CHANNEL = ("GroupNormalization", "InstanceNormalization")  # as their scale and bias are


def _rank(node: ir.Node) -> int:
    return len(dims(operand(node, 0)))


def _softmax_axes(node: ir.Node) -> list[int]:
    """Before opset 13, all from `axis` on."""
    if (node.version or 13) < 13:
        return list(range(int(node.attributes.get_int("axis", 1)) % _rank(node), _rank(node)))
    return _one_axis(node)


def _one_axis(node: ir.Node) -> list[int]:
    return [int(node.attributes.get_int("axis", -1)) % _rank(node)]


def _last_axes(node: ir.Node) -> list[int]:
    return list(range(int(node.attributes.get_int("axis", -1)) % _rank(node), _rank(node)))


def _sample_axes(node: ir.Node) -> list[int]:
    """That groups stay apart is not used."""
    return list(range(1, _rank(node)))


def _position_axes(node: ir.Node) -> list[int]:
    return list(range(2, _rank(node)))


AXES: Mapping[str, Callable[[ir.Node], list[int]]] = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax_axes),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _last_axes),
    "LpNormalization": _one_axis,
    "GroupNormalization": _sample_axes,
    "InstanceNormalization": _position_axes,
}


def _affine(node: ir.Node, array: Array) -> Array:
    """A fact about scale or bias, aligned with the input."""
    if node.op_type in PER_CHANNEL:
        array = array.reshape(-1, *(1,) * (_rank(node) - 2))
    return aligned(array, _rank(node))


def _normalised(node: ir.Node, inputs: Inputs) -> Known:
    """Known where all elements that are coupled are."""
    x, axes, shape = fact(inputs, 0), AXES[node.op_type](node), dims(operand(node, 0))
    mask = every(x.mask, axes, keepdims=True)
    if node.op_type in CENTRED and all(shape[axis] == 1 for axis in axes):
        mask = np.ones_like(mask)
    if not mask.any() or None in (shape[axis] for axis in axes):
        return unknown(node.outputs[0])
    full = spread(x.value, [1, *axes] if node.op_type in PER_CHANNEL else axes, shape)
    value = evaluate(node, [full, *(None if found is None else found.value for found in inputs[1:])])
    return unknown(node.outputs[0]) if value is None else where_known(mask, value)


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Known also at the bias where the scale is zero."""
    result, (scale, bias) = _normalised(node, inputs), (*inputs[1:], None, None)[:2]
    if scale is None or not scale.zero.any():
        return [result]
    flat, shift = _affine(node, scale.zero), np.zeros((), result.value.dtype)
    if bias is not None:
        flat, shift = flat & _affine(node, bias.mask), _affine(node, bias.value)
    return [where_known(result.mask | flat, np.where(flat, shift, result.value))]


def backward(node: ir.Node, needed: Sequence[Mask], inputs: Inputs) -> list[Mask | None]:
    """All that are coupled with a needed element, unless its scale is zero."""
    scale, through = inputs[1] if len(inputs) > 1 else None, needed[0]
    if scale is not None:
        through = through & ~_affine(node, scale.zero)
    return [compact(some(through, AXES[node.op_type](node), keepdims=True)),
            *(np.ones(1, bool) for _ in node.inputs[1:])]


def couple(node: ir.Node) -> Iterator[Relation]:
    """The coupled axes stay, the others pass."""
    axes, x, y = AXES[node.op_type](node), operand(node, 0), node.outputs[0]
    for axis in range(_rank(node)):
        if axis not in axes:
            yield from tie((x, axis), (y, axis))
    yield from freeze([(value, axis) for value in (x, y) for axis in axes], f"{name(node)} couples what it covers")
    if node.op_type == "InstanceNormalization":
        for value in node.inputs[1:]:
            if value is not None:
                yield from tie((value, 0), (y, 1))


RULES = dict.fromkeys(AXES, Rule(forward, backward, couple))
