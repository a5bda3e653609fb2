"""Folding what is constant for every input into the layers that read it; the graph computes the same values everywhere.

A constant unit goes into the bias of the layer that reads it. Behind zero padding its contribution differs at the
border: where the map of all positions is no larger than the kernel it is added position by position, elsewhere all
constant channels are merged into the largest of them, which is exact whatever the padding, and that one stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.graph.liveness.analysis import weight_of
from sparsec.graph.liveness.contraction import operands
from sparsec.graph.liveness.conv import constant_sum, grouped, grouped_weight, ungrouped_weight, windows
from sparsec.graph.liveness.edit import replace_input, set_data
from sparsec.graph.liveness.facts import Array, Known, Mask, dims, spread
from sparsec.graph.liveness.window import reads_padding
from sparsec.passes.rewrite import node_name
from sparsec.passes.strip.addition import add

Facts = Mapping[ir.Value, Known]
COMBINING = ("Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "Where")


@dataclass(frozen=True)
class Folded:
    """What became of the constant inputs of a layer: how many were folded, how many stay and why."""

    layer: str
    units: int
    staying: int = 0
    reason: str = ""


def fold_units(model: ir.Model, known: Facts) -> list[Folded]:
    """Folds constant units into the layers that read them, in place."""
    folded = []
    sums: list[tuple[ir.Node, Array]] = []  # added at the end, because what they insert is not in `known`
    for node in list(model.graph):
        place = weight_of(node)
        if place is None or node.op_type == "Gather" or any(v is not None and v not in known for v in node.inputs):
            continue
        weight, data = node.inputs[place], node.inputs[1 - place]
        assert weight is not None
        assert data is not None
        if not known[data].mask.any():
            continue
        fold = _fold_convolution if node.op_type.startswith("Conv") else _fold_product
        result, total = fold(node, known, place)
        if total is not None and total.any():
            sums.append((node, total))
        if result.units or result.staying:
            folded.append(result)
    for node, total in sums:
        add(node, total)
    return folded


def _fold_convolution(node: ir.Node, known: Facts, _place: int) -> tuple[Folded, Array | None]:
    source, weight = node.inputs[:2]
    assert source is not None
    assert weight is not None
    split, reach = grouped_weight(node, known[weight].value), windows(node)
    mask, value = (grouped(node, array, source) for array in (known[source].mask, known[source].value))
    level = value[(0, ..., *(0,) * len(reach))]
    positions = (0, *range(3, value.ndim))
    read = (split != 0).any(axis=(1, *range(3, split.ndim)))
    constant = mask.all(axis=positions) & read
    uniform = constant & (value == np.expand_dims(level, positions)).all(axis=positions)
    if len(weight.uses()) > 1:
        return Folded(node_name(node), 0, int(constant.sum()), "its weight is shared"), None
    exact = _foldable(node, constant, uniform, level, value.shape[0])
    total = constant_sum(np.where(_at(exact, value), value, 0), split, reach)
    new = np.where(exact[:, None, :, *(None,) * len(reach)], 0, split)
    merged = _merge(new, level, uniform & ~exact)
    if exact.any() or merged.any():
        set_data(weight, ungrouped_weight(node, new).astype(split.dtype))
    staying = int((constant & ~exact & ~merged).sum())
    result = Folded(node_name(node), int((exact | merged).sum()), staying, "constant behind zero padding")
    return result, total.reshape(1, -1, *total.shape[3:])


def _at(channels: Mask, value: Array) -> Mask:
    """A choice (groups, channels) aligned with an image (batch, groups, channels, *positions)."""
    return np.expand_dims(channels, (0, *range(3, value.ndim)))


def _foldable(node: ir.Node, constant: Mask, uniform: Mask, level: Array, batch: int) -> Mask:
    """The constant channels that a sum per output channel, or a small one per position, replaces exactly."""
    reach, positions = windows(node), dims(node.outputs[0])[2:]
    if not reads_padding(reach):
        return uniform
    taps = math.prod(axis.shape[0] for axis in reach)
    if batch == 1 and None not in positions and math.prod(dim or 0 for dim in positions) <= taps:
        return constant
    return uniform & (level == 0)


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


def _fold_product(node: ir.Node, known: Facts, place: int) -> tuple[Folded, Array | None]:
    weight = node.inputs[place]
    assert weight is not None
    pair = operands(node, [None if value is None else known[value] for value in node.inputs])
    matrix, data = pair[place], pair[1 - place].fact
    depth, side = (-1, -2) if place == 1 else (-2, -1)  # of the data, and of the weight: the contracted axis
    others = tuple(axis for axis in range(data.mask.ndim) if axis != data.mask.ndim + depth)
    if matrix.fact.value.ndim > 2:
        return Folded(node_name(node), 0), None
    length = matrix.fact.value.shape[side]
    mask, value = (spread(array, [array.ndim + depth], (length,) * array.ndim) for array in (data.mask, data.value))
    level = value[tuple(slice(None) if axis not in others else 0 for axis in range(value.ndim))]
    read = (matrix.fact.value != 0).any(axis=depth)
    constant = mask.all(axis=others) & read
    uniform = constant & (value == np.expand_dims(level, others)).all(axis=others)
    if len(weight.uses()) > 1:
        return Folded(node_name(node), 0, int(constant.sum()), "its weight is shared"), None
    rows = np.where(uniform, level, 0).astype(np.float64)
    total = (rows @ matrix.fact.value)[None, :] if place == 1 else (matrix.fact.value @ rows)[:, None]
    new = np.where(np.expand_dims(uniform, depth), 0, matrix.fact.value)
    alpha = node.attributes.get_float("alpha", 1.0) if node.op_type == "Gemm" else 1.0
    if uniform.any():
        set_data(weight, (new.T if matrix.transposed else new).astype(new.dtype))
    staying = int((constant & ~uniform).sum())
    result = Folded(node_name(node), int(uniform.sum()), staying, "constant, but not the same in every row")
    return result, alpha * total


def fold_operands(model: ir.Model, known: Facts) -> int:
    """Turns computed operands that are constant, and no larger than one axis, into initializers; returns how many.

    Adding zero is left out. Only operators that broadcast can take the smaller operand.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type in COMBINING and node.domain == "" and not _constant(known, node.outputs[0]):
            count += sum(_fold_operand(node, index, known) for index in range(len(node.inputs)))
    return count


def _constant(known: Facts, value: ir.Value | None) -> bool:
    return value in known and known[value].constant


def _fold_operand(node: ir.Node, index: int, known: Facts) -> bool:
    operand, out = node.inputs[index], node.outputs[0]
    if operand is None or operand.is_initializer() or operand.is_graph_input() or not _constant(known, operand):
        return False
    value = known[operand].value
    shapes = [value.shape, *(dims(v) for i, v in enumerate(node.inputs) if i != index and v is not None)]
    if sum(length > 1 for length in value.shape) > 1 or None in dims(out) or any(None in shape for shape in shapes):
        return False
    if np.broadcast_shapes(*shapes) != dims(out):  # type: ignore[arg-type]  # no dimension is None here
        return False
    if node.op_type == "Add" and not value.any() and not out.is_graph_output():
        out.replace_all_uses_with(node.inputs[1 - index])  # type: ignore[arg-type]  # Add has both operands
    else:
        replace_input(node, index, value)
    return True
