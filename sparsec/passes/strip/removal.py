"""Removing what no output needs: inactive weights become zero, slabs of tensors and whole branches go."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparsec.analysis.liveness.analysis import RULES, Liveness, weight_index
from sparsec.analysis.liveness.coupling import settle
from sparsec.analysis.liveness.edit import set_data, set_weight
from sparsec.analysis.liveness.node import constant_of, holder, shares_weight, weight_data
from sparsec.analysis.liveness.slabs import NEEDED, Cut, Hold, Key, can_lose
from sparsec.graph.nodes import node_name
from sparsec.passes.strip.report import Kept


def zero_weights(model: ir.Model, liveness: Liveness) -> None:
    """Sets weights to zero, in place, that meet only zeros or whose products no output needs."""
    for node in model.graph:
        place = weight_index(node)
        weight = None if place is None else node.inputs[place]
        if weight is not None and not liveness.needed[weight].all():
            data = weight_data(weight)
            assert data is not None
            dead = liveness.known[weight].nonzero & ~liveness.needed[weight]
            if dead.any() and (holder(weight) is weight or not shares_weight(weight)):
                set_weight(weight, np.where(dead, np.zeros((), data.dtype), data))


def remove(model: ir.Model, liveness: Liveness) -> list[Kept]:
    """Drops slabs that no output needs, in place; shapes and sizes in the graph follow. Returns which units stay."""
    graph = model.graph
    holds, reasons = settle(graph, liveness)
    cut: dict[ir.Value, dict[int, np.ndarray]] = {}
    for (value, axis), hold in holds.items():
        if not hold.all():
            cut.setdefault(value, {})[axis] = hold > 0
    kept = [Kept(node_name(node), "unit", count, reason) for node, key in _unit_axes(graph)
            for reason, count in _count(holds[key], reasons).items()]
    for node in graph:
        if node not in liveness.opaque:
            RULES[node.op_type].rewrite(node, cut)
    _slice(cut)
    RemoveUnusedNodesPass()(model)
    return kept


def _unit_axes(graph: ir.Graph) -> Iterator[tuple[ir.Node, Key]]:
    """Every layer with the axis of its output along which its units lie; outputs of the model keep all of theirs."""
    for node in graph:
        if weight_index(node) is not None:
            out = node.outputs[0]
            key = (out, 1 if node.op_type.startswith("Conv") else len(out.shape or ()) - 1)
            if can_lose(key) and not out.is_graph_output():
                yield node, key


def _count(hold: Hold, reasons: list[str]) -> dict[str, int]:
    numbers, counts = np.unique(hold[hold > NEEDED], return_counts=True)
    return {reasons[number]: int(count) for number, count in zip(numbers, counts, strict=True)}


def _slice(cut: Cut) -> None:
    for value, axes in cut.items():
        data = constant_of(value)
        if data is not None:
            for axis, kept in axes.items():
                data = data.compress(kept, axis)
            set_data(value, data)
        elif value.shape is not None:
            value.shape = ir.Shape([int(axes[i].sum()) if i in axes else dim for i, dim in enumerate(value.shape)])
