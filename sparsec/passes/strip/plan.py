"""How a layer can do without its constant inputs; the graph computes the same values everywhere.

A constant unit goes into the bias of the layer that reads it. Behind zero padding its contribution differs at the
border: constant channels that are the same at all positions merge into the largest of them, which is exact whatever the
padding, and that one stays; or the sum of all of them is added position by position, where that takes less memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.analysis import weight_index
from sparsec.analysis.liveness.contraction import operands
from sparsec.analysis.liveness.conv import constant_sum, grouped, grouped_weight, ungrouped_weight, windows
from sparsec.analysis.liveness.facts import Array, Known, Mask, dims, spread
from sparsec.analysis.liveness.node import holder, shares_weight, weight_data
from sparsec.analysis.liveness.slabs import Key
from sparsec.analysis.liveness.window import may_read_padding, reads_padding
from sparsec.graph.nodes import operand

Facts = Mapping[ir.Value, Known]


@dataclass(frozen=True)
class Plan:
    """How a layer does without its constant inputs.

    Attributes:
        node: the layer.
        inputs: the axis of its data along which they lie.
        folded: which of them it need not read any more.
        staying: which of them it still reads.
        weight: the new data of its weight.
        total: what to add to its output.
        reason: why inputs stay.
        fallback: a plan that adds less, if there is one.

    """

    node: ir.Node
    inputs: Key
    folded: Mask
    staying: Mask
    weight: Array
    total: Array
    reason: str
    fallback: Plan | None = None

    @property
    def layer_weight(self) -> ir.Value:
        """The layer's weight."""
        return operand(self.node, weight_index(self.node) or 0)

    @property
    def weights_per_input(self) -> int:
        """What the layer loses with each of its inputs."""
        return self.weight.size // self.folded.size


def plan_layer(node: ir.Node, place: int, known: Facts) -> Plan | None:
    """The plan for a node whose weight is its input number `place`; None if no input that it reads is constant."""
    weight, data = node.inputs[place], node.inputs[1 - place]
    assert weight is not None
    assert data is not None
    if not known[data].mask.any() or not known[data].value.any():
        return None
    plan = _for_convolution(node, known) if node.op_type.startswith("Conv") else _for_product(node, place, known)
    return _idle(plan, "its weight is shared") if plan is not None and shares_weight(weight) else plan


def _idle(plan: Plan, reason: str) -> Plan:
    """A plan that folds nothing."""
    nothing = np.zeros_like(plan.folded)
    return Plan(plan.node, plan.inputs, nothing, plan.staying | plan.folded, plan.weight, np.zeros(1), reason)


def cheaper(plan: Plan) -> Plan:
    """The next plan to try where what this one adds does not pay."""
    return plan.fallback or _idle(plan, "the unit has to stay elsewhere")


def _for_convolution(node: ir.Node, known: Facts) -> Plan | None:
    source, weight = node.inputs[:2]
    assert source is not None
    data = weight_data(weight)
    assert data is not None
    split, reach = grouped_weight(node, data), windows(node)
    mask, value = (grouped(node, array, source) for array in (known[source].mask, known[source].value))
    positions = (0, *range(3, value.ndim))
    constant = mask.all(axis=positions) & (split != 0).any(axis=(1, *range(3, split.ndim)))
    if not constant.any():
        return None
    level = value[0].reshape(*constant.shape, -1)[:, :, 0]
    uniform = constant & (value == np.expand_dims(level, positions)).all(axis=positions)

    def plan(exact: Mask, merging: Mask, fallback: Plan | None = None) -> Plan:
        total = constant_sum(np.where(np.expand_dims(exact, positions), value, 0), split, reach)
        new = np.where(exact[:, None, :, *(None,) * len(reach)], np.zeros((), split.dtype), split)
        gone = exact | _merge(new, level, merging)
        return Plan(node, (source, 1), gone.reshape(-1), (constant & ~gone).reshape(-1), ungrouped_weight(node, new),
                    total.reshape(1, -1, *total.shape[3:]), "constant behind zero padding", fallback)

    nothing = np.zeros_like(constant)
    is_quantized = weight is not None and holder(weight) is not weight  # codes are no sums of others
    padded = reads_padding(reach) or may_read_padding(node)
    base = plan(nothing, nothing if is_quantized else uniform) if padded else plan(uniform, nothing)
    places = dims(node.outputs[0])[2:]
    if None in places or value.shape[0] > 1 or is_quantized:
        return base
    size = split.shape[0] * split.shape[1] * math.prod(dim or 0 for dim in places)
    return plan(constant, nothing, base) if size <= base.staying.sum() * base.weights_per_input else base


def _merge(weight: Array, level: Array, channels: Mask) -> Mask:
    """Lets the largest constant channel of every group stand for the others, in place; returns the others."""
    merged = np.zeros_like(channels)
    for group in np.flatnonzero(channels.sum(axis=1) > 1):
        (members,) = np.nonzero(channels[group])
        keeper = members[np.abs(level[group, members]).argmax()]
        others = members[members != keeper]
        ratio = level[group, others].astype(np.float64) / level[group, keeper]
        weight[group, :, keeper] += np.tensordot(weight[group][:, others], ratio, axes=([1], [0])).astype(weight.dtype)
        weight[group][:, others] = 0
        merged[group, others] = True
    return merged


def _for_product(node: ir.Node, place: int, known: Facts) -> Plan | None:
    pair = operands(node, [None if value is None else known[value] for value in node.inputs])
    matrix, data, fact = pair[place], pair[1 - place], pair[1 - place].fact
    stored = weight_data(matrix.value)
    assert stored is not None
    values = stored.T if matrix.transposed else stored
    if values.ndim > 2:
        return None
    depth = -1 if place == 1 else -2  # of the data, the contracted axis; of the weight, the other one
    length = values.shape[-3 - depth]
    others = tuple(axis for axis in range(fact.mask.ndim) if axis != fact.mask.ndim + depth)
    mask, value = (spread(array, [array.ndim + depth], (length,) * array.ndim) for array in (fact.mask, fact.value))
    constant = mask.all(axis=others) & (values != 0).any(axis=depth)
    if not constant.any():
        return None
    level = value[tuple(0 if axis in others else slice(None) for axis in range(value.ndim))]
    uniform = constant & (value == np.expand_dims(level, others)).all(axis=others)
    row = level[uniform].astype(np.float64)
    total = (row @ values[uniform])[None, :] if place == 1 else (values[:, uniform] @ row)[:, None]
    new = np.where(np.expand_dims(uniform, depth), np.zeros((), values.dtype), values)
    new = new.T if matrix.transposed else new
    alpha = node.attributes.get_float("alpha", 1.0) if node.op_type == "Gemm" else 1.0
    return Plan(node, data.axis(depth), uniform, constant & ~uniform, new, alpha * total,
                "constant, but not the same in every row")
