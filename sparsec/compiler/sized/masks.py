"""Two masks that are added to scores one after the other are added to each other first, so that attention has one.

(Q K^T + bias) + mask = Q K^T + (bias + mask), as of T5's relative positions, and of windows that are shifted.
"""

from __future__ import annotations

import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.analysis.symbols.shapes import broadcast
from sparsec.compiler.sized.attention import leads_to_product
from sparsec.graph.nodes import node_name
from sparsec.passes import rewrite


def add_masks(graph: ir.Graph, symbols: Symbols) -> int:
    """Add masks to each other in front of every softmax, in place; returns how many additions changed."""
    return sum(_add(graph, node, symbols) for node in list(graph) if node.op_type == "Softmax" and not node.domain)


def _add(graph: ir.Graph, softmax: ir.Node, symbols: Symbols) -> bool:
    outer = _only_addition(softmax.inputs[0])
    if outer is None:
        return False
    for index, value in enumerate(outer.inputs):
        inner, mask = _only_addition(value), outer.inputs[1 - index]
        if inner is None or mask is None or leads_to_product(mask):
            continue
        products = [each is not None and leads_to_product(each) for each in inner.inputs]
        bias = inner.inputs[products.index(False)] if products.count(True) == 1 else None
        if bias is None or bias not in symbols.shapes or mask not in symbols.shapes:
            continue
        both = ir.node("Add", [bias, mask], name=f"{node_name(outer)}.masks")
        out = both.outputs[0]
        out.name, out.type = both.name, mask.type
        symbols.shapes[out] = broadcast(symbols, [symbols.shapes[bias], symbols.shapes[mask]])
        graph.insert_before(outer, both)
        outer.replace_input_with(index, inner.inputs[products.index(True)])
        outer.replace_input_with(1 - index, out)
        graph.remove(inner, safe=True)
        return True
    return False


def _only_addition(value: ir.Value | None) -> ir.Node | None:
    """The Add that makes a value which nothing else reads."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != "Add" or node.domain or rewrite.only_use(value) is None:
        return None
    return node
