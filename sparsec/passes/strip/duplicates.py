"""Merging duplicate units: with equal incoming weights and equal treatment on the way to the layers that read them.

A layer that reads several of them reads the first with the sum of the weights instead; the others are then not needed.
Sums of weights round differently, so outputs change in the last digits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.analysis.liveness import reshape
from sparsec.analysis.liveness.analysis import RULES, Liveness, weight_index
from sparsec.analysis.liveness.conv import groups_of
from sparsec.analysis.liveness.edit import set_data
from sparsec.analysis.liveness.facts import Array, dims
from sparsec.analysis.liveness.node import constant_of
from sparsec.analysis.liveness.slabs import Key, can_lose

Labels = NDArray[np.int64]  # by slab, the first slab that is equal to it


def merge_duplicates(model: ir.Model, liveness: Liveness) -> int:
    """Lets layers read only the first of equal units, in place; returns how many inputs are not read any more."""
    labels: dict[Key, Labels] = {}
    merged = 0
    for node in model.graph:
        if node in liveness.opaque:
            continue
        place = weight_index(node)
        if place is not None and node.op_type != "Gather":
            merged += _merge(node, place, labels)
        for axis in range(len(dims(node.outputs[0]))):
            found = _labels(node, axis, labels)
            if found is not None and (found != np.arange(len(found))).any():
                labels[node.outputs[0], axis] = found
    return merged


def _merge(node: ir.Node, place: int, labels: dict[Key, Labels]) -> int:
    """Adds up the weights that read equal units."""
    data, weight = node.inputs[1 - place], node.inputs[place]
    if data is None or weight is None or len(weight.uses()) > 1 or groups_of(node) > 1:
        return 0
    stored = constant_of(weight)
    if stored is None:  # codes are no sums of others
        return 0
    axis, contracted = _contracted(node, place, len(dims(data)), stored.ndim)
    first = labels.get((data, axis))
    if first is None:
        return 0
    columns = np.moveaxis(stored, contracted, 0)
    total = np.zeros(columns.shape, np.float64)
    np.add.at(total, first, columns)
    read = columns.any(axis=tuple(range(1, columns.ndim))) & (first != np.arange(len(first)))
    if read.any():
        set_data(weight, np.moveaxis(total, 0, contracted).astype(stored.dtype))
    return int(read.sum())


def _contracted(node: ir.Node, place: int, data_rank: int, weight_rank: int) -> tuple[int, int]:
    """The axis of the data and the axis of the weight over which the layer sums."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return 1, 0 if node.op_type == "ConvTranspose" else 1
    turned = [bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB")]
    inner = [data_rank - 1, weight_rank - 2] if place == 1 else [data_rank - 2, weight_rank - 1]
    flipped = [2 * rank - 3 - axis for rank, axis in zip((data_rank, weight_rank), inner, strict=True)]
    return (flipped if turned[1 - place] else inner)[0], (flipped if turned[place] else inner)[1]


def _labels(node: ir.Node, axis: int, labels: dict[Key, Labels]) -> Labels | None:
    """Equal slabs of the node's first output, from those of what they are computed from."""
    out = node.outputs[0]
    if not can_lose((out, axis)) or (node.op_type.startswith("Conv") and groups_of(node) > 1 and axis == 1):
        return None
    if node.op_type == "Concat":
        return _concatenated(node, axis, labels)
    if RULES[node.op_type] is reshape.RESHAPE:
        return _rearranged(node, axis, labels)
    related = [relation.keys for relation in RULES[node.op_type].couple(node) if relation.slabwise]
    sources = [key for keys in related if (out, axis) in keys for key in keys if key != (out, axis)]
    if not sources:
        return None
    seen: dict[tuple[bytes | int, ...], int] = {}
    columns = [_identities(key, labels) for key in sources]
    return np.array([seen.setdefault(slab, i) for i, slab in enumerate(zip(*columns, strict=True))], np.int64)


def _identities(key: Key, labels: dict[Key, Labels]) -> Iterator[bytes | int]:
    """Something by slab that is equal for equal slabs."""
    value, axis = key
    data = constant_of(value)
    if data is None:
        yield from labels.get(key, np.arange(dims(value)[axis] or 0)).tolist()
    else:
        for slab in np.moveaxis(data, axis, 0) + np.zeros((), data.dtype):  # turns -0.0 into 0.0
            yield np.ascontiguousarray(slab).tobytes()


def _concatenated(node: ir.Node, axis: int, labels: dict[Key, Labels]) -> Labels | None:
    if axis != int(node.attributes.get_int("axis", 0)) % len(dims(node.outputs[0])):
        return None
    parts: list[Labels] = []
    for value in node.inputs:
        assert value is not None
        start = sum(map(len, parts))
        parts.append(labels.get((value, axis), np.arange(dims(value)[axis] or 0)) + start)
    return np.concatenate(parts)


def _rearranged(node: ir.Node, axis: int, labels: dict[Key, Labels]) -> Labels | None:
    """Where axes become one: an element is equal to the one at the labels of its indices."""
    source = node.inputs[0]
    assert source is not None
    for before, after in reshape.groups(dims(source), dims(node.outputs[0])):
        if axis in after and [i for i in after if dims(node.outputs[0])[i] != 1] == [axis]:
            each: list[Array] = [labels.get((source, i), np.arange(dims(source)[i] or 0)) for i in before]
            shape = [len(index) for index in each]
            return np.ravel_multi_index(tuple(np.meshgrid(*each, indexing="ij")), shape).reshape(-1)
    return None
