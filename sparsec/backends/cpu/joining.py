"""Layers that the kernel of the convolution in front of them may compute as well."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.cost.plan import CHOICE
from sparsec.graph.nodes import operand


def reader(node: ir.Node) -> ir.Node | None:
    """The node of the same graph that alone reads a node's output, as its first input; None where there is none."""
    value = node.outputs[0]
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    found, place = uses[0].node, uses[0].idx
    return found if place == 0 and found.graph is node.graph else None


def is_computed(node: ir.Node) -> bool:
    """Whether the kernel of the convolution in front of a node computes it as well."""
    producer = operand(node, 0).producer()
    choice = None if producer is None else CHOICE.get(producer)
    return choice is not None and choice.winner.option.joined
