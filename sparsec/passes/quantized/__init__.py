"""Quantised models in every form, read into one: DequantizeLinear, an operator of ONNX on floats, QuantizeLinear.

What the graph computes is the same; float32 arithmetic between a DequantizeLinear and a QuantizeLinear may differ from
integers' by one step of rounding. Weights become constant codes directly in front of their layer (see `constants`).
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from sparsec.graph.nodes import node_name
from sparsec.graph.verify import infer
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Note, Report
from sparsec.passes.quantized import constants, contributed, dynamic, qoperator
from sparsec.passes.quantized.writer import Writer

WRITERS = {**qoperator.WRITERS, **contributed.WRITERS}


LINEAR = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
"""Operators of ONNX between floats and codes."""


def first_on_codes(model: ir.Model) -> ir.Node | None:
    """The first node that makes or reads codes, of a model as its file has it; None where all of it is in floats."""
    on_codes = {*WRITERS, *(("", name) for name in (*dynamic.FLOATS, *LINEAR))}
    return next((node for node in model.graph.all_nodes() if (node.domain, node.op_type) in on_codes), None)


def run(model: ir.Model, _context: Context) -> Report:
    """Reads every quantised operator, in place."""
    return read(model)


def read_foreign(model: ir.Model) -> None:
    """`read` with shapes inferred, in place, for a model that has operators on codes; others stay as they are."""
    foreign = (*WRITERS, *(("", name) for name in dynamic.FLOATS))
    if any((node.domain, node.op_type) in foreign for node in model.graph):
        read(model)
        infer(model, "the model with its quantised operators written out")


def read(model: ir.Model) -> Report:
    """`run`, for any target."""
    counts: Counter[str] = Counter()
    notes = []
    for node in list(model.graph.all_nodes()):
        write = WRITERS.get((node.domain, node.op_type))
        if write is not None:
            counts[node.op_type] += 1
            write(Writer(node))
        elif node.op_type in dynamic.FLOATS and not node.domain:
            reason = dynamic.run(node)
            if reason is None:
                counts[node.op_type] += 1
            else:
                notes.append(Note(node_name(node), f"{node.op_type} stays: {reason}"))
    rewrite.clean(model)
    constants.check_scales(model.graph)
    changed = constants.run(model.graph)
    rewrite.clean(model)
    counts.update({"constants": changed} if changed else {})
    return Report("quantized", bool(counts), counts, tuple(notes))
