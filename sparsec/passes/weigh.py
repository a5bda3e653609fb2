"""Every layer learns how much of the network's weights are its own, which decides in what cache they stay."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.graph.annotations import NETWORK
from sparsec.passes.context import Context, Report

LOOKED_UP = ("Gather", "GatherElements", "GatherND")
"""Operators that read a few rows of a constant."""


def run(model: ir.Model, _context: Context) -> Report:
    """Leaves `NETWORK` on every node with a constant matrix; the graph stays as it is."""
    weights = {node: sum(value.const_value.nbytes for value in node.inputs if _is_weight(value))
               for node in model.graph if node.op_type not in LOOKED_UP}
    shared = {value: value.const_value.nbytes for node in weights for value in node.inputs if _is_weight(value)}
    total = sum(shared.values())
    for node, own in weights.items():
        if own:
            NETWORK.set(node, total / own)
    return Report("weigh", modified=False)


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and len(value.const_value.shape) > 1
