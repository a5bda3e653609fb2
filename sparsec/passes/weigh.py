"""Every layer learns how much of the network's weights are its own, which decides in what cache they stay."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.graph.annotations import NETWORK
from sparsec.passes.context import Context, Report

LOOKED_UP = ("Gather", "GatherElements", "GatherND")
"""Operators that read a few rows of a constant."""


def run(model: ir.Model, _context: Context) -> Report:
    """Leaves `NETWORK` on every node with a constant matrix; the graph stays as it is."""
    weights = {node: _weights(node) for node in model.graph if node.op_type not in LOOKED_UP}
    total = sum({value: nbytes for each in weights.values() for value, nbytes in each.items()}.values())
    for node, own in weights.items():
        if own and sum(own.values()):
            NETWORK.set(node, total / sum(own.values()))
    return Report("weigh", modified=False)


def _weights(node: ir.Node) -> dict[ir.Value, int]:
    """The bytes of a node's constant matrices."""
    constants = {value: value.const_value for value in node.inputs if value is not None}
    return {value: tensor.nbytes for value, tensor in constants.items() if tensor is not None and len(tensor.shape) > 1}
