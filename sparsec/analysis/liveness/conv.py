"""Convolutions: Conv and ConvTranspose of any rank, grouped and depthwise, with constant weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.edit import set_data
from sparsec.analysis.liveness.facts import Array, Known, Mask, compact, dims, some, spread, unknown, where_known
from sparsec.analysis.liveness.node import constant_of, holder, name, shares_weight, weight_data
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Cut, Hold, Key, Relation, can_lose, freeze, nonempty, tie
from sparsec.analysis.liveness.window import (
    Taps,
    backwards,
    connections,
    correlate,
    may_read_padding,
    taps,
    too_many,
    transposed_taps,
)
from sparsec.graph.nodes import operand


def groups_of(node: ir.Node) -> int:
    """The number of a convolution's groups, 1 where the attribute is absent."""
    return int(node.attributes.get_int("group", 1))


def windows(node: ir.Node) -> Taps:
    """Which input position every output position reads."""
    x, weight, y = operand(node, 0), operand(node, 1), node.outputs[0]
    kernel = [int(dim or 1) for dim in dims(weight)[2:]]
    make = transposed_taps if node.op_type == "ConvTranspose" else taps
    return make(node, kernel, dims(x)[2:], dims(y)[2:])


def grouped_weight(node: ir.Node, weight: Array) -> Array:
    """The weight as (groups, outputs, inputs, *taps), a view."""
    groups = groups_of(node)
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return split.swapaxes(1, 2) if node.op_type == "ConvTranspose" else split


def ungrouped_weight(node: ir.Node, split: Array) -> Array:
    """A mask or array (groups, outputs, inputs, *kernel) as the weight (outputs, inputs, *kernel) again."""
    split = split.swapaxes(1, 2) if node.op_type == "ConvTranspose" else split
    return split.reshape(-1, *split.shape[2:])


def grouped(node: ir.Node, fact: Array, value: ir.Value) -> Array:
    """A fact about an image as (batch, groups, channels of a group, *positions)."""
    fact = spread(fact, [1], dims(value))
    return fact.reshape(fact.shape[0], groups_of(node), -1, *fact.shape[2:])


def _ungrouped(fact: Array) -> Array:
    return fact.reshape(fact.shape[0], -1, *fact.shape[3:])


def _split(node: ir.Node, weight: Known) -> Array:
    value = spread(weight.value, range(weight.value.ndim), dims(operand(node, 1)))
    return grouped_weight(node, value)


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """An output is known where every input that it reads through a non-zero weight is.

    Along a symbolic axis it is not known which outputs read padding, so that only inputs of zero tell anything.
    """
    source, x, bias = operand(node, 0), fact(inputs, 0), inputs[2] if len(inputs) > 2 else None
    split, reach = _split(node, fact(inputs, 1)), windows(node)
    telling = grouped(node, x.nonzero if may_read_padding(node) else ~x.mask, source)
    live = correlate(telling.astype(np.float32), (split != 0).astype(np.float32), reach) > 0
    if live.all():
        return [unknown(node.outputs[0])]
    value = constant_sum(grouped(node, x.value, source), split, reach)
    mask = _ungrouped(~live)
    value = _ungrouped(value)
    if bias is not None:
        column = (1, -1) + (1,) * (value.ndim - 2)
        value = value + bias.value.reshape(column)
        mask = mask & bias.mask.reshape(column)
    return [where_known(mask, value.astype(x.value.dtype))]


def constant_sum(x: Array, weight: Array, reach: Taps) -> Array:
    """What known inputs add up to, in double precision: (batch, groups, outputs, *positions)."""
    if weight.shape[0] == 1:
        used = some(x != 0, (i for i in range(x.ndim) if i != 2))
        x, weight = x[:, :, used], weight[:, :, used]
    return correlate(x.astype(np.float64), weight.astype(np.float64), reach)


def backward(node: ir.Node, needed: Sequence[Mask], inputs: Inputs) -> list[Mask | None]:
    """An input is needed where a needed output reads it through a non-zero weight."""
    split, reach = _split(node, fact(inputs, 1)), windows(node)
    out = grouped(node, needed[0], node.outputs[0])
    of_x = correlate(out.astype(np.float32), (split != 0).swapaxes(1, 2).astype(np.float32), backwards(reach)) > 0
    of_weight = connections(out, grouped(node, fact(inputs, 0).nonzero, operand(node, 0)), reach)
    masks: list[Mask | None] = [compact(_ungrouped(of_x)), ungrouped_weight(node, of_weight)]
    if len(inputs) > 2:
        masks.append(some(_ungrouped(out), (i for i in range(out.ndim - 1) if i != 1)))
    return masks


def couple(node: ir.Node) -> Iterator[Relation]:
    """Channels go with the rows and columns of the weight; positions stay."""
    x, weight, y = operand(node, 0), operand(node, 1), node.outputs[0]
    into, out = (0, 1) if node.op_type == "ConvTranspose" else (1, 0)
    bias = [(value, 0) for value in node.inputs[2:3] if value is not None]
    yield from tie((x, 0), (y, 0))
    if groups_of(node) == 1:
        yield from tie((x, 1), (weight, into))
        yield from tie((y, 1), (weight, out), *bias)
        yield from nonempty((x, 1), [(y, 1)], f"the last input of {name(node)}")
    elif weight_data(weight) is None or shares_weight(weight) or not (can_lose((x, 1)) and can_lose((y, 1))):
        yield from freeze([(x, 1), (y, 1)], f"{name(node)} is grouped and shares or computes its weight")
    else:
        yield from tie(((x if node.op_type == "ConvTranspose" else y), 1), (weight, 0))
        yield from tie((y, 1), *bias)
        yield _groups((x, 1), (y, 1), groups_of(node), f"{name(node)} needs as many channels in each group")


def _groups(x: Key, y: Key, groups: int, reason: str) -> Relation:
    """Whole groups go; of the others, as many inputs each, and as many outputs each, but not all."""

    def shrink(holds: Sequence[Hold], number: int) -> None:
        sides = [hold.reshape(groups, -1) for hold in holds]
        staying = np.any([side.any(axis=1) for side in sides], axis=0)
        for side in sides:
            free = side == 0
            count = min(free[staying].sum(axis=1).min(initial=side.shape[1]), side.shape[1] - 1)
            excess = free & (np.cumsum(free, axis=1) > count) & staying[:, None]
            side[excess] = number

    return Relation((x, y), shrink, reason, chooses=True)


def rewrite(node: ir.Node, cut: Cut) -> None:
    """Fewer groups, and the columns of a grouped weight, which differ from group to group."""
    groups, x, weight = groups_of(node), operand(node, 0), operand(node, 1)
    if groups == 1:
        return
    transposed = node.op_type == "ConvTranspose"
    rows_of, columns_of = (x, node.outputs[0]) if transposed else (node.outputs[0], x)
    rows = _kept(rows_of, cut).reshape(groups, -1)
    columns = _kept(columns_of, cut).reshape(groups, -1)
    staying = rows.any(axis=1)
    node.attributes["group"] = ir.AttrInt64("group", max(int(staying.sum()), 1))
    if columns.all():
        return
    stored = holder(weight)
    data = constant_of(stored)
    assert data is not None  # `couple` lets grouped channels go where the weight is a constant of its own
    width = int(columns[staying].sum(axis=1).max(initial=1))
    per_row = np.repeat(columns, rows.shape[1], axis=0)
    order = np.argsort(~per_row, axis=1, kind="stable")[:, :width]
    index = order.reshape(*order.shape, *(1,) * (data.ndim - 2))
    set_data(stored, np.take_along_axis(data, index, axis=1))
    weight.shape = stored.shape


def _kept(value: ir.Value, cut: Cut) -> Mask:
    channels = dims(value)[1]
    return cut.get(value, {}).get(1, np.ones(channels or 1, bool))


def reject(node: ir.Node, inputs: Inputs) -> str | None:
    """The weight must not depend on the input, nor positions be too many."""
    if not fact(inputs, 1).constant:
        return "its weight is computed from the input"
    return too_many(*(dims(value)[2:] for value in (operand(node, 1), operand(node, 0), node.outputs[0])))


CONVOLUTION = Rule(forward, backward, couple, rewrite, reject)
RULES = {"Conv": CONVOLUTION, "ConvTranspose": CONVOLUTION}
