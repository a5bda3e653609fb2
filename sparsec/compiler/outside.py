"""The weighted layers that passes leave as ONNX's operators: these run without sparsec's kernels, each with why."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sparsec.compiler.report import Outside
from sparsec.graph.nodes import LAYERS, bodies, node_name
from sparsec.passes.context import Report

WEIGHTED = (*LAYERS, "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")
"""ONNX's operators that have weights worth pruning."""

LAYERS_OF_CODES = ("Conv", "Gemm", "MatMul")
"""Those that the pass `integers` takes."""

IN_BODY = "it is in the body of an If, a Loop or a Scan, where layers have no kernels"


def left_as_operators(graph: ir.Graph, passes: Sequence[Report]) -> list[Outside]:
    """The layers with a weight of their own that stayed ONNX operators in a graph after all passes, also in bodies."""
    reasons = {note.node: note.text for report in passes for note in report.notes}
    return [Outside(name := node_name(node), node.op_type,
                    IN_BODY if node.graph is not graph else reasons.get(name, _why(node)))
            for node in graph.all_nodes() if is_layer(node)]


def in_bodies(node: ir.Node) -> list[Outside]:
    """The layers with a weight of their own in the bodies of a node."""
    return [Outside(node_name(each), each.op_type, IN_BODY)
            for body in bodies(node) for each in body.all_nodes() if is_layer(each)]


def is_layer(node: ir.Node) -> bool:
    """Whether a node is of an operator of ONNX that multiplies by weights, and has some."""
    return node.domain == "" and node.op_type in WEIGHTED and has_weight(node)


def has_weight(node: ir.Node) -> bool:
    """Whether a node has a constant of two dimensions or more."""
    return any(value is not None and value.const_value is not None and len(value.const_value.shape) > 1
               for value in node.inputs)


def _why(node: ir.Node) -> str:
    """Why a layer has no kernel that no pass has a word about: its type, or its operator."""
    made = node.outputs[0].dtype
    if made is not None and made != ir.DataType.FLOAT:
        return f"{node.op_type} stays: computes in {made}, not float32"
    return f"{node.op_type} has no kernel of sparsec's own"


def in_floats(passes: Sequence[Report]) -> list[Outside]:
    """The layers of codes that compute in float32, because the operators on integers cannot represent them."""
    notes = [note for report in passes if report.name == "integers" for note in report.notes]
    named = [(note.node, *note.text.split(" ", 1)) for note in notes]
    return [Outside(layer, operator, text) for layer, operator, text in named if operator in LAYERS_OF_CODES]
