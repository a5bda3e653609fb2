"""Refuse what is no tensor operator of ONNX, or computes on strings, before any work: all such nodes at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
import onnx_ir as ir

from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.nodes import LAYERS, node_name
from sparsec.graph.operators import DOMAIN
from sparsec.graph.sized import SIZED_DOMAIN
from sparsec.passes import contributed
from sparsec.passes.context import Context, Report
from sparsec.passes.contributed.body import WAYS_OUT

MOST = 20
"""Nodes that a message names."""

CUSTOM = "write these operators as ONNX functions, or cut the model around them"
STRINGS = "encode strings as integers before the model, and compile the rest"
LABELS = ("it gives labels as strings: train or export it with integers for labels (skl2onnx takes "
          "options={'zipmap': False}, too), or cut the model in front of them")
FORESTS = ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")
NO_NETWORK = "trees are no network, and sparsec compiles networks: run the model in onnxruntime or scikit-learn"


def run(model: ir.Model, _context: Context) -> Report:
    """Raises UnsupportedOperatorError with every operator of another domain and every value of strings."""
    domains: dict[str, list[str]] = {}
    for node in model.graph.all_nodes():
        if node.domain not in ("", DOMAIN, SIZED_DOMAIN) and not _known(node):
            domains.setdefault(node.domain, []).append(f"'{node_name(node)}' ({node.domain}::{node.op_type})")
    ways = WAYS_OUT | ({"ai.onnx.ml": NO_NETWORK} if _is_forest(model.graph) else {})
    lines = [f"{_listed(nodes)}; {ways.get(domain, CUSTOM)}" for domain, nodes in domains.items()]
    values = [*model.graph.inputs, *model.graph.initializers.values(),
              *(value for node in model.graph.all_nodes() for value in node.outputs)]
    strings = [f"'{value.name}'" for value in values if value.dtype == ir.DataType.STRING]
    if strings:
        taken = any(value.dtype == ir.DataType.STRING for value in model.graph.inputs)
        lines.append(f"strings {_listed(strings)}; {STRINGS if taken else LABELS}")
    if lines:
        raise UnsupportedOperatorError("the model has operators beyond ONNX's on tensors of numbers: "
                                       + "; ".join(lines))
    return Report("foreign", modified=False)


def _is_forest(graph: ir.Graph) -> bool:
    """Whether a graph has trees and no layer of a network."""
    kinds = {node.op_type for node in graph.all_nodes()}
    return not kinds.isdisjoint(FORESTS) and kinds.isdisjoint(LAYERS)


def _known(node: ir.Node) -> bool:
    """Whether somebody lowers the operator: it is written out, or ONNX defines it by a function body."""
    if node.domain in contributed.DOMAINS:
        return node.op_type in contributed.DOMAINS[node.domain]
    if not onnx.defs.has(node.op_type, node.domain):
        return False
    schema: Any = onnx.defs.get_schema(node.op_type, node.domain)
    return bool(schema.has_function or schema.has_context_dependent_function)


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:MOST]) + (f" and {len(items) - MOST} more" if len(items) > MOST else "")
