"""Folding units that are constant into the layers that read them; the graph computes the same values everywhere.

A constant unit goes into the bias of the layer that reads it. Behind zero padding its contribution differs at the
border: where the map of all positions is no larger than the kernel it is added position by position, elsewhere all
constant channels are merged into the largest of them, which is exact whatever the padding, and that one stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sparsec.graph.liveness.analysis import Liveness, weight_of
from sparsec.graph.liveness.contraction import operands
from sparsec.graph.liveness.conv import constant_sum, grouped, grouped_weight, ungrouped_weight, windows
from sparsec.graph.liveness.coupling import settle
from sparsec.graph.liveness.edit import set_data
from sparsec.graph.liveness.facts import Array, Known, Mask, constant_of, dims, spread
from sparsec.graph.liveness.slabs import Hold, Key
from sparsec.graph.liveness.window import Taps, reads_padding
from sparsec.passes.strip.addition import add, is_free

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

    """

    node: ir.Node
    inputs: Key
    folded: Mask
    staying: Mask
    weight: Array
    total: Array
    reason: str


def plan_units(model: ir.Model, liveness: Liveness) -> list[Plan]:
    """How every layer with constant inputs can do without them, unless that would make the model larger."""
    plans, changed = list(_plans(model.graph, liveness.known)), True
    while plans and changed:
        pinned: dict[Key, Mask] = {}
        for plan in plans:
            pinned[plan.inputs] = pinned.get(plan.inputs, np.zeros_like(plan.staying)) | plan.staying
        holds, _ = settle(model.graph, liveness, lambda v: liveness.needed[v] & ~liveness.known[v].mask, pinned)
        weighed = [_weighed(plan, holds) for plan in plans]
        changed = any(new is not old for new, old in zip(weighed, plans, strict=True))
        plans = weighed
    return plans


def fold_units(plans: list[Plan]) -> None:
    """Carries the plans out, in place."""
    for plan in plans:
        if plan.folded.any():
            weight = plan.node.inputs[weight_of(plan.node) or 0]
            assert weight is not None
            set_data(weight, plan.weight)
            if plan.total.any():
                add(plan.node, plan.total)


def _weighed(plan: Plan, holds: Mapping[Key, Hold]) -> Plan:
    """The plan, or if it adds a constant and yet no unit can go, one that folds nothing."""
    hold = holds.get(plan.inputs)
    pays = hold is not None and bool((hold[plan.folded] == 0).any())
    if pays or not plan.folded.any() or not plan.total.any() or is_free(plan.node, plan.total):
        return plan
    nothing = np.zeros_like(plan.folded)
    return replace(plan, folded=nothing, staying=plan.staying | plan.folded, reason="the unit has to stay elsewhere")


def _plans(graph: ir.Graph, known: Facts) -> Iterator[Plan]:
    for node in graph:
        place = weight_of(node)
        if place is None or node.op_type == "Gather":
            continue
        data = node.inputs[1 - place]
        assert data is not None
        if not known[data].mask.any() or not known[data].value.any():
            continue
        plan = _for_convolution(node, known) if node.op_type.startswith("Conv") else _for_product(node, known, place)
        if plan is not None and (plan.folded.any() or plan.staying.any()):
            yield plan


def _shared(node: ir.Node, place: int) -> bool:
    weight = node.inputs[place]
    return weight is None or len(weight.uses()) > 1


def _for_convolution(node: ir.Node, known: Facts) -> Plan | None:
    source, weight = node.inputs[:2]
    assert source is not None
    assert weight is not None
    data = constant_of(weight)
    assert data is not None
    split, reach = grouped_weight(node, data), windows(node)
    mask, value = (grouped(node, array, source) for array in (known[source].mask, known[source].value))
    level = value[(0, ..., *(0,) * len(reach))]
    positions = (0, *range(3, value.ndim))
    constant = mask.all(axis=positions) & (split != 0).any(axis=(1, *range(3, split.ndim)))
    if not constant.any():
        return None
    uniform = constant & (value == np.expand_dims(level, positions)).all(axis=positions)
    exact = _exact(node, reach, constant, uniform, value.shape[0])
    if _shared(node, 1):
        exact = uniform = np.zeros_like(constant)
    total = constant_sum(np.where(np.expand_dims(exact, positions), value, 0), split, reach)
    new = np.where(exact[:, None, :, *(None,) * len(reach)], np.zeros((), split.dtype), split)
    gone = exact | _merge(new, level, uniform & ~exact)
    return Plan(node, (source, 1), gone.reshape(-1), (constant & ~gone).reshape(-1),
                ungrouped_weight(node, new), total.reshape(1, -1, *total.shape[3:]),
                "its weight is shared" if _shared(node, 1) else "constant behind zero padding")


def _exact(node: ir.Node, reach: Taps, constant: Mask, uniform: Mask, batch: int) -> Mask:
    """The constant channels for which a sum per output channel, or a small one per position, stands exactly."""
    if not reads_padding(reach):
        return uniform
    positions, taps = dims(node.outputs[0])[2:], math.prod(axis.shape[0] for axis in reach)
    small = None not in positions and math.prod(dim or 0 for dim in positions) <= taps
    return constant if small and batch == 1 else np.zeros_like(constant)


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


def _for_product(node: ir.Node, known: Facts, place: int) -> Plan | None:
    pair = operands(node, [None if value is None else known[value] for value in node.inputs])
    matrix, data, fact = pair[place], pair[1 - place], pair[1 - place].fact
    stored = constant_of(matrix.value)
    assert stored is not None
    values = stored.T if matrix.transposed else stored
    if values.ndim > 2:
        return None
    depth = -1 if place == 1 else -2  # of the data, the contracted axis; of the weight, the other one
    length = values.shape[-3 - depth]
    others = tuple(axis for axis in range(fact.mask.ndim) if axis != fact.mask.ndim + depth)
    mask, value = (spread(array, [array.ndim + depth], (length,) * array.ndim) for array in (fact.mask, fact.value))
    level = value[tuple(0 if axis in others else slice(None) for axis in range(value.ndim))]
    constant = mask.all(axis=others) & (values != 0).any(axis=depth)
    if not constant.any():
        return None
    uniform = constant & (value == np.expand_dims(level, others)).all(axis=others)
    if _shared(node, place):
        uniform = np.zeros_like(constant)
    row = level[uniform].astype(np.float64)
    total = (row @ values[uniform])[None, :] if place == 1 else (values[:, uniform] @ row)[:, None]
    new = np.where(np.expand_dims(uniform, depth), np.zeros((), values.dtype), values)
    alpha = node.attributes.get_float("alpha", 1.0) if node.op_type == "Gemm" else 1.0
    return Plan(node, data.axis(depth), uniform, constant & ~uniform, new.T if matrix.transposed else new, alpha * total,
                "its weight is shared" if _shared(node, place) else "constant, but not the same in every row")
