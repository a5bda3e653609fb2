"""Operators of any number of inputs become trees of ones of few: thousands of inputs are too many for one kernel."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sparsec.passes import rewrite

MOST_INPUTS = 32
ASSOCIATIVE = ("Max", "Min", "Sum", "Concat")


def split(model: ir.Model) -> None:
    """Max, Min, Sum, Mean and Concat of over `MOST_INPUTS` inputs, in place, as trees that keep the inputs' order."""
    for node in list(model.graph):
        if node.domain == "" and len(node.inputs) > MOST_INPUTS:
            if node.op_type in ASSOCIATIVE:
                _replace(node, _tree(node, node.op_type, node.inputs))
            elif node.op_type == "Mean":
                total, count = _tree(node, "Sum", node.inputs), ir.tensor(float(len(node.inputs)))
                constant = _before(node, ir.node("Constant", [], {"value": count}))
                like = _before(node, ir.node("CastLike", [constant, total]))
                _replace(node, _before(node, ir.node("Div", [total, like])))


def _tree(node: ir.Node, kind: str, values: Sequence[ir.Value | None]) -> ir.Value | None:
    """The value of an associative operator over the values."""
    while len(values) > 1:
        groups = [values[at:at + MOST_INPUTS] for at in range(0, len(values), MOST_INPUTS)]
        attributes = dict(node.attributes) if kind == node.op_type else {}
        values = [group[0] if len(group) == 1 else _before(node, ir.node(kind, group, attributes)) for group in groups]
    return values[0]


def _before(node: ir.Node, made: ir.Node) -> ir.Value:
    """The output of a node put before another."""
    node.prepend(made)
    return made.outputs[0]


def _replace(node: ir.Node, value: ir.Value | None) -> None:
    assert value is not None and node.graph is not None  # noqa: PT018  # there were inputs, in the model's graph
    value.type = node.outputs[0].type
    rewrite.take_over(value, node.outputs[0])
    node.graph.remove(node, safe=True)
