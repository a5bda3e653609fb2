"""Large tables of floats that are only gathered from, such as embeddings, are stored in fewer bits.

Where the artifact is to be small (`Context.compact`), a table takes the format that the model's precision allows: int8
codes with a scale for every row where layers multiply codes, float16 where they multiply 16-bit floats. What is
gathered is widened at run time. Float32 models keep their tables.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.cost.precisions import INTEGERS
from sparsec.graph.constants import add_constant, constant
from sparsec.graph.nodes import node_name, operand
from sparsec.graph.operators import DOMAIN
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Note, Report

LEAST = 1 << 16
"""Elements of a table that is worth it."""
MOST_CODE = 127
HALF_MOST = 65504.0
"""The largest float16."""
PRODUCTS = ("QConv", "QMatMul")


def run(model: ir.Model, context: Context) -> Report:
    """Stores tables in fewer bits, in place."""
    if not context.compact:
        return Report("embeddings", modified=False)
    codes = context.precision in INTEGERS or any(
        node.domain == DOMAIN and node.op_type in PRODUCTS for node in model.graph)
    if not codes and context.precision == "fp32":
        return Report("embeddings", modified=False)
    counts, notes = 0, []
    for node in list(model.graph):
        table = _table(node)
        if table is None:
            continue
        if codes:
            _as_codes(node, table)
        elif np.abs(table).max() <= HALF_MOST:
            _as_halves(node, table)
        else:
            notes.append(Note(node_name(node), "its table stays float32: float16 does not hold its numbers"))
            continue
        counts += 1
    rewrite.clean(model)
    return Report("embeddings", bool(counts), {"tables": counts} if counts else {}, tuple(notes))


def _table(node: ir.Node) -> np.ndarray | None:
    """The finite float32 matrix that a node gathers rows of, where nothing else reads it."""
    if node.op_type != "Gather" or node.domain or node.attributes.get_int("axis", 0) != 0:
        return None
    value = operand(node, 0)
    array = constant(value)
    if array is None or array.dtype != np.float32 or array.ndim != 2 or array.size < LEAST:
        return None
    alone = all(user.op_type == "Gather" and not user.domain for user in value.consumers())
    return array if alone and np.isfinite(array).all() else None


def _as_codes(node: ir.Node, table: np.ndarray) -> None:
    """Rows of int8 codes, each with a scale."""
    assert node.graph is not None
    name, indices = node_name(node), operand(node, 1)
    scale = np.abs(table).max(axis=1, keepdims=True) / np.float32(MOST_CODE)
    codes = np.rint(table / np.where(scale > 0, scale, 1)).astype(np.int8)
    parts = []
    for suffix, array in (("codes", codes), ("scales", scale.astype(np.float32))):
        gather = ir.node("Gather", [add_constant(node.graph, f"{name}.{suffix}", array), indices], {"axis": 0},
                         name=f"{name}/{suffix}")
        node.prepend(gather)
        parts.append(gather.outputs[0])
    cast = ir.node("Cast", [parts[0]], {"to": ir.DataType.FLOAT}, name=f"{name}/widened")
    product = ir.node("Mul", [cast.outputs[0], parts[1]], name=f"{name}/scaled")
    _replace(node, cast, product)


def _as_halves(node: ir.Node, table: np.ndarray) -> None:
    """Rows of float16."""
    assert node.graph is not None
    name = node_name(node)
    gather = ir.node("Gather", [add_constant(node.graph, f"{name}.halves", table.astype(np.float16)), node.inputs[1]],
                     {"axis": 0}, name=f"{name}/halves")
    cast = ir.node("Cast", [gather.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{name}/widened")
    _replace(node, gather, cast)


def _replace(node: ir.Node, *nodes: ir.Node) -> None:
    """Puts nodes in the place of one whose output the last of them gives."""
    assert node.graph is not None
    for each in nodes:
        node.prepend(each)
    rewrite.take_over(nodes[-1].outputs[0], node.outputs[0])
    node.graph.remove(node, safe=True)
