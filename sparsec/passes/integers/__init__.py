"""Quantised graphs (see `passes.quantized`) become operators on integers, with codes from layer to layer.

First pairs of QuantizeLinear and DequantizeLinear meet and vanish (`pairs`), then functions of one code become tables
(`tables`), layers, sums and means products and sums of integers (`layers`, `elementwise`), and what follows them moves
into them (`epilogue`); attention is one operator (`attention`). What is left computes in float32 between a
DequantizeLinear and a QuantizeLinear, by float weights; the report says why.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from sparsec.graph.nodes import node_name
from sparsec.graph.quantized import dequantized
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Note, Report
from sparsec.passes.integers import attention, elementwise, epilogue, layers, pairs, tables
from sparsec.passes.quantized.constants import fold

RULES = {**layers.RULES, **elementwise.RULES}
WIDENED = "its codes are widened: the target has no kernels on codes, but on the floats that they stand for"


def run(model: ir.Model, context: Context) -> Report:
    """Rewrites the graph in place; on a target without vectors of bytes, layers compute in its floats."""
    graph = model.graph
    if not any(node.op_type == "DequantizeLinear" and not node.domain for node in graph):
        return Report("integers", modified=False)
    counts, notes = pairs.run(graph), list[Note]()
    rewrite.clean(model)
    counts["tables"] += tables.run(graph)
    rewrite.clean(model)
    for node in list(graph):
        rule = RULES.get(node.op_type) if not node.domain and node.graph is not None else None
        if rule is None or not _reads_codes(node):
            continue
        name, kind = node_name(node), node.op_type
        if not context.target.lanes:
            if not (context.target.archs and kind in layers.RULES and dequantized(node.inputs[1]) is not None):
                notes.append(Note(name, WIDENED))  # of layers with weights on tensor cores the plan says what they do
            continue
        reason = rule(node)
        if reason is None:
            counts[kind] += 1
        else:
            notes.append(Note(name, f"{kind} computes in float32: {reason}"))
    rewrite.clean(model)  # what nothing reads would count as a second reader
    counts["attention"] += attention.run(graph)
    rewrite.clean(model)
    counts["epilogues"] += epilogue.run(graph)
    rewrite.clean(model)
    for node in list(graph):
        codes = dequantized(node.outputs[0]) if node.outputs else None
        if codes is not None:
            fold(node, codes.values())
    rewrite.clean(model)
    return Report("integers", modified=True, counts=Counter({key: count for key, count in counts.items() if count}),
                  notes=tuple(notes))


def _reads_codes(node: ir.Node) -> bool:
    producers = [value.producer() for value in node.inputs if value is not None]
    return any(each is not None and each.op_type == "DequantizeLinear" for each in producers)
