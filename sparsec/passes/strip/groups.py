"""Which weights are 2:4, so that stripping says where taking inputs away breaks their groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.analysis import weight_index
from sparsec.analysis.liveness.node import weight_data
from sparsec.formats.nm import NM
from sparsec.graph.nodes import node_name

SOME = 64
"""Rows of a weight that are looked at first: almost every weight that is not 2:4 shows it there."""


def grouped(model: ir.Model) -> dict[ir.Node, str]:
    """The layers, with their names, whose weight is 2:4 along its inputs, of a convolution along its channels."""
    found = {}
    for node in model.graph:
        place = weight_index(node) if node.op_type in ("Conv", "MatMul", "Gemm") else None
        weight = None if place is None else weight_data(node.inputs[place])
        if weight is not None and _groups_hold(_matrix(node, weight, place or 0)):
            found[node] = node_name(node)
    return found


def broken(before: Mapping[ir.Node, str], after: ir.Model) -> tuple[str, ...]:
    """The layers that were 2:4, are still there, and are 2:4 no more."""
    left = grouped(after)
    return tuple(before[node] for node in after.graph if node in before and node not in left)


def _matrix(node: ir.Node, weight: np.ndarray, place: int) -> np.ndarray:
    """The weight with its inputs, the channels of a convolution, along the last axis."""
    if node.op_type == "Conv":
        return np.moveaxis(weight, 1, -1)
    turned = node.op_type == "Gemm" and bool(node.attributes.get_int("transB" if place else "transA", 0))
    return weight if turned is bool(place) else weight.swapaxes(-1, -2)


def _groups_hold(matrix: np.ndarray) -> bool:
    rows = matrix.reshape(-1, matrix.shape[-1])
    form = NM(2, 4)
    return form.reject(rows[:SOME]) is None and form.reject(rows) is None
