"""Operators that couple all elements along some axes: reductions, softmax and the normalisations over features.

They keep every slab of those axes: dropping one would change the mean, the sum or the count for all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.graph.liveness.conv import name
from sparsec.graph.liveness.facts import (
    Array,
    Known,
    Mask,
    aligned,
    compact,
    dims,
    evaluate,
    is_computed,
    known,
    parameter,
    spread,
    unknown,
)
from sparsec.graph.liveness.rule import Inputs, Rule
from sparsec.graph.liveness.slabs import Relation, freeze, nonempty, tie

Axes = Callable[[ir.Node], list[int]]
REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
              "ReduceProd", "ReduceSum", "ReduceSumSquare")
GLOBAL_POOLS = ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")
CENTRED = ("InstanceNormalization", "LayerNormalization", "LogSoftmax", "Softmax")  # constant on a single element
ZERO_ADDS_NOTHING = ("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare")


def _source(node: ir.Node) -> ir.Value:
    assert node.inputs[0] is not None
    return node.inputs[0]


def _rank(node: ir.Node) -> int:
    return len(dims(_source(node)))


def reduced_axes(node: ir.Node) -> list[int]:
    """The axes of a reduction or global pooling."""
    rank = _rank(node)
    if node.op_type in GLOBAL_POOLS:
        return list(range(2, rank))
    axes = parameter(node, "axes", 1)
    if isinstance(axes, list) and axes:
        return sorted(axis % rank for axis in axes)
    return [] if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))


def _kept_axes(node: ir.Node) -> list[int]:
    """The input axis of every output axis."""
    if node.op_type in GLOBAL_POOLS or node.attributes.get_int("keepdims", 1):
        return list(range(_rank(node)))
    return [axis for axis in range(_rank(node)) if axis not in reduced_axes(node)]


def reduce_forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Known where everything that is reduced is."""
    x, axes, shape = inputs[0], reduced_axes(node), dims(_source(node))
    assert x is not None
    mask = x.mask.all(axis=tuple(axes), keepdims=True)
    if not mask.any() or None in (shape[axis] for axis in axes):
        return [unknown(node.outputs[0])]
    rest = [fact.value if fact is not None else None for fact in inputs[1:]]
    value = evaluate(node, [spread(x.value, axes, shape), *rest])
    if value is None:
        return [unknown(node.outputs[0])]
    return [known(mask.reshape([mask.shape[axis] for axis in _kept_axes(node)]), value)]


def reduce_backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """Everything that a needed element reduces."""
    shape = [1] * _rank(node)
    for axis, length in zip(_kept_axes(node), needed[0].shape, strict=True):
        shape[axis] = length
    return [needed[0].reshape(shape), *(np.ones(1, bool) for _ in node.inputs[1:])]


def reduce_couple(node: ir.Node) -> Iterator[Relation]:
    """The other axes pass; sums may lose zeros."""
    axes, x, y = reduced_axes(node), _source(node), node.outputs[0]
    for target, axis in enumerate(_kept_axes(node)):
        if axis not in axes:
            yield from tie((x, axis), (y, target))
    if node.op_type in ZERO_ADDS_NOTHING:
        for axis in axes:
            yield from nonempty((x, axis), [(y, i) for i in range(len(dims(y)))], f"the last slab of {name(node)}")
    else:
        yield from freeze([(x, axis) for axis in axes], f"{name(node)} couples what it reduces")


def reduce_reject(node: ir.Node, _inputs: Inputs) -> str | None:
    """The axes must not be computed."""
    return "its axes are computed" if is_computed(node, 1) else None


# Softmax and normalisations keep the shape; scale and bias, where there are any, apply element by element afterwards.


def softmax_axes(node: ir.Node) -> list[int]:
    """The coupled axes; before opset 13 all from `axis` on."""
    rank = _rank(node)
    if (node.version or 13) < 13 and node.op_type != "LpNormalization":
        return list(range(int(node.attributes.get_int("axis", 1)) % rank, rank))
    return [int(node.attributes.get_int("axis", -1)) % rank]


def last_axes(node: ir.Node) -> list[int]:
    """LayerNormalization and RMSNormalization: all axes from `axis` on."""
    return list(range(int(node.attributes.get_int("axis", -1)) % _rank(node), _rank(node)))


def sample_axes(node: ir.Node) -> list[int]:
    """GroupNormalization: within a sample; that groups stay apart is not used."""
    return list(range(1, _rank(node)))


def position_axes(node: ir.Node) -> list[int]:
    """InstanceNormalization: the positions of one channel."""
    return list(range(2, _rank(node)))


def _affine(node: ir.Node, array: Array) -> Array:
    """A fact about scale or bias, aligned with the input."""
    if node.op_type in ("GroupNormalization", "InstanceNormalization"):
        return array.reshape(-1, *(1,) * (_rank(node) - 2))
    return array


def row_rule(axes_of: Axes) -> Rule:
    """The rule of an operator that couples `axes_of(node)`."""

    def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
        x, scale, *rest = (*inputs, None)
        axes, shape, rank = axes_of(node), dims(_source(node)), _rank(node)
        assert x is not None
        whole, value = x.mask.all(axis=tuple(axes), keepdims=True), None
        if all(shape[axis] == 1 for axis in axes) and node.op_type in CENTRED:
            whole = np.ones_like(whole)
        if whole.any() and None not in (shape[axis] for axis in axes):
            parameters = [fact.value if fact is not None else None for fact in inputs[1:]]
            value = evaluate(node, [spread(x.value, [1, *axes] if rank > 1 else axes, shape), *parameters])
        if value is None:
            whole, value = np.zeros_like(whole), np.zeros((1,) * rank, x.value.dtype)
        if scale is not None:
            flat = aligned(_affine(node, scale.zero), rank)
            shift = rest[0] if rest else None
            bias = aligned(_affine(node, shift.value), rank) if shift is not None else np.zeros((), value.dtype)
            value, whole = np.where(flat, bias, value), whole | flat
        return [known(whole, value)] if whole.any() else [unknown(node.outputs[0])]

    def backward(node: ir.Node, needed: Sequence[Mask], inputs: Inputs) -> list[Mask | None]:
        scale, through = inputs[1] if len(inputs) > 1 else None, needed[0]
        if scale is not None:
            through = through & ~aligned(_affine(node, scale.zero), _rank(node))
        masks: list[Mask | None] = [compact(through.any(axis=tuple(axes_of(node)), keepdims=True))]
        return [*masks, *(np.ones(1, bool) for _ in node.inputs[1:])]

    def couple(node: ir.Node) -> Iterator[Relation]:
        axes, x, y = axes_of(node), _source(node), node.outputs[0]
        for axis in range(_rank(node)):
            if axis not in axes:
                yield from tie((x, axis), (y, axis))
        yield from freeze([(value, axis) for value in (x, y) for axis in axes], f"{name(node)} couples what it covers")
        if node.op_type == "InstanceNormalization":
            for value in node.inputs[1:]:
                if value is not None:
                    yield from tie((value, 0), (y, 1))

    return Rule(forward, backward, couple)


REDUCE = Rule(reduce_forward, reduce_backward, reduce_couple, reject=reduce_reject)
RULES = {
    **dict.fromkeys((*REDUCTIONS, *GLOBAL_POOLS), REDUCE),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), row_rule(softmax_axes)),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), row_rule(last_axes)),
    "GroupNormalization": row_rule(sample_axes),
    "InstanceNormalization": row_rule(position_axes),
}
