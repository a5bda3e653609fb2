"""Which nodes of a graph are needed by one branch of a `graph.sized.SELECT` alone, and are skipped where it is not."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from sparsec.graph.nodes import read_by
from sparsec.graph.sized import SELECT, SIZED_DOMAIN

Guard = frozenset[tuple[ir.Value, bool]]
"""Conditions, all of which must have their value."""

ALWAYS: Guard = frozenset()


def is_select(node: ir.Node) -> bool:
    """Whether a node chooses between branches."""
    return node.domain == SIZED_DOMAIN and node.op_type == SELECT


def guards(graph: ir.Graph) -> dict[ir.Node, Guard]:
    """When the results of every node of a sorted graph are needed."""
    found: dict[ir.Node, Guard] = {}
    for node in reversed(list(graph)):
        needed = [ALWAYS if value.is_graph_output() else _of_uses(value, found) for value in node.outputs]
        uses = [each for value, each in zip(node.outputs, needed, strict=True)
                if value.uses() or value.is_graph_output()]
        found[node] = frozenset.intersection(*uses) if uses else ALWAYS
    return found


def in_order(graph: ir.Graph, when: Mapping[ir.Node, Guard]) -> list[ir.Node]:
    """The nodes of a sorted graph, with what computes a condition in front of the branches that it guards."""
    ordered: dict[ir.Node, None] = {}
    for first in graph:
        waiting = [first]
        while waiting:
            node = waiting[-1]
            read = (value.producer() for value in (*(value for value, _ in when[node]), *read_by(node)))
            before = [each for each in read if each is not None and each in when and each not in ordered]
            if before and node not in ordered:
                waiting += before
            else:
                ordered.setdefault(waiting.pop())
    return list(ordered)


def _of_uses(value: ir.Value, found: dict[ir.Node, Guard]) -> Guard:
    """When what reads a value is needed, which reads it where its branch is chosen."""
    each = []
    for use in value.uses():
        own = found.get(use.node, ALWAYS)  # a node inside another's graph may need it always
        condition = use.node.inputs[0]
        if is_select(use.node) and use.idx and condition is not None:
            own |= {(condition, use.idx == 1)}
        each.append(own)
    return frozenset.intersection(*each) if each else ALWAYS
