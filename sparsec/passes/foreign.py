"""Refuse what is no tensor operator of ONNX, or computes on strings, before any work: all such nodes at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
import onnx_ir as ir

from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.nodes import node_name
from sparsec.graph.operators import DOMAIN
from sparsec.graph.sized import SIZED_DOMAIN
from sparsec.passes import contributed
from sparsec.passes.context import Context, Report
from sparsec.passes.contributed.body import WAYS_OUT

MOST = 20
"""Nodes that a message names."""

CUSTOM = "write these operators as ONNX functions, or cut the model around them"
STRINGS = "encode strings as integers before the model, and compile the rest"


def run(model: ir.Model, _context: Context) -> Report:
    """Raises UnsupportedOperatorError with every operator of another domain and every value of strings."""
    domains: dict[str, list[str]] = {}
    for node in model.graph.all_nodes():
        if node.domain not in ("", DOMAIN, SIZED_DOMAIN) and not _known(node):
            domains.setdefault(node.domain, []).append(f"'{node_name(node)}' ({node.domain}::{node.op_type})")
    lines = [f"{_listed(nodes)}; {WAYS_OUT.get(domain, CUSTOM)}" for domain, nodes in domains.items()]
    values = [*model.graph.inputs, *model.graph.initializers.values(),
              *(value for node in model.graph.all_nodes() for value in node.outputs)]
    strings = [f"'{value.name}'" for value in values if value.dtype == ir.DataType.STRING]
    if strings:
        lines.append(f"strings {_listed(strings)}; {STRINGS}")
    if lines:
        raise UnsupportedOperatorError("the model has operators beyond ONNX's on tensors of numbers: "
                                       + "; ".join(lines))
    return Report("foreign", modified=False)


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
