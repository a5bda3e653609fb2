"""If of a model with symbolic dimensions: both branches enter the graph, and `graph.sized.SELECT` joins their results.

Sessions compute what the branch that is chosen needs. Optimum's merged decoders are such: one branch for a prompt, one
for the tokens behind it, on the same weights.
"""

from __future__ import annotations

import onnx_ir as ir

from sparsec.graph.constants import constant
from sparsec.graph.nodes import node_name
from sparsec.graph.shapes import static_shape
from sparsec.graph.sized import SELECT, SIZED_DOMAIN
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Report

BRANCHES = ("then_branch", "else_branch")


def run(model: ir.Model, _context: Context) -> Report:
    """Takes every If of the graph apart, those in branches included, where an input has a symbolic dimension."""
    count = 0
    if any(static_shape(value) is None for value in model.graph.inputs):
        while nodes := [node for node in model.graph if node.op_type == "If" and not node.domain]:
            for node in nodes:
                _inline(model.graph, node)
            count += len(nodes)
    if count:
        model.graph.opset_imports.setdefault(SIZED_DOMAIN, 1)
        rewrite.clean(model)
    return Report("branches", bool(count), {"If": count} if count else {})


def _inline(graph: ir.Graph, node: ir.Node) -> None:
    """Both branches in the place of a node, or the one that a constant chooses."""
    condition, name = constant(node.inputs[0]), node_name(node)
    results = [_moved(graph, node, f"{name}/{branch}", node.attributes[branch].as_graph()) if
               condition is None or bool(condition.all()) == (branch == BRANCHES[0]) else None for branch in BRANCHES]
    for index, output in enumerate(node.outputs):
        chosen = [each[index] for each in results if each is not None]
        if len(chosen) == 1:
            joined = ir.node("Identity", chosen, name=f"{name}/{index}")
        else:
            joined = ir.node(SELECT, [node.inputs[0], *chosen], domain=SIZED_DOMAIN, name=f"{name}/{index}")
        node.prepend(joined)
        shape = output.shape
        rewrite.take_over(joined.outputs[0], output)
        joined.outputs[0].shape = shape
    graph.remove(node, safe=True)


def _moved(graph: ir.Graph, node: ir.Node, prefix: str, body: ir.Graph) -> list[ir.Value]:
    """The results of a branch whose nodes now stand in front of the If, under names of their own."""
    results, nodes = list(body.outputs), list(body)
    for name, value in list(body.initializers.items()):
        moved = ir.Value(name=f"{prefix}/{name}", const_value=value.const_value, shape=value.shape, type=value.type)
        value.replace_all_uses_with(moved, replace_graph_outputs=True)
        results = [moved if each is value else each for each in results]
        graph.register_initializer(moved)
    body.outputs.clear()
    body.remove(nodes)
    for each in nodes:
        each.name = f"{prefix}/{node_name(each)}"
        for value in each.outputs:
            if value.name:
                value.name = f"{prefix}/{value.name}"
    node.prepend(nodes)
    return results
