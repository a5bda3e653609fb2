"""What moves elements between layers of run-time sizes is written in few nodes, and moves no rows where it need not.

`nn.MultiheadAttention` turns (batch, tokens, features) to (tokens, batch, features), flattens both in front of its
projection, and turns them back: every row stays what it is. Layers compute the same rows in another order, so that
such movements go behind them, until two of them cancel out or one is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.compiler.sized.rows import ELEMENTWISE, constants, is_single, leading
from sparsec.compiler.sized.views import MOVES, Groups, View, view_of, whole, written
from sparsec.compiler.sized.views import steps as steps_of
from sparsec.graph.constants import add_constant, constant, scalar
from sparsec.graph.nodes import node_name, operand
from sparsec.graph.quantized import dequantized
from sparsec.passes import rewrite

CODES = ("QuantizeLinear", "DequantizeLinear")
ROW_WISE = {*ELEMENTWISE, *CODES, "Gemm", "LayerNormalization", "MatMul"}
"""Operators that movements of rows go behind."""
MATRIX = 2
"""The dimensions of a matrix."""


def sink_rows(graph: ir.Graph, symbols: Symbols) -> int:
    """Let layers compute rows in the order of the inputs' dimensions, in place; returns how many do so now."""
    rank = _ranks(graph)
    fixed = constants(graph)
    return sum(_sink(graph, node, symbols, rank, fixed) for node in list(graph)
               if node.op_type in ROW_WISE and not node.domain and len(node.outputs) == 1)


def _ranks(graph: ir.Graph) -> dict[str, int]:
    """By symbol its place among the dimensions of inputs."""
    names = (dim.value for value in graph.inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim))
    return {name: place for place, name in enumerate(dict.fromkeys(filter(None, names)))}


@dataclass(frozen=True)
class _Rows:
    """The rows of an operand: its view, the atoms that lead in the order of inputs, and those behind them."""

    view: View
    lead: tuple[int, ...]
    own: Groups

    def sizes(self) -> Shape:
        """Those of the leading dimensions."""
        return tuple(self.view.sizes[atom] for atom in self.lead)


def _sink(graph: ir.Graph, node: ir.Node, symbols: Symbols, ranks: dict[str, int], fixed: set[ir.Value]) -> bool:
    moving = [index for index, value in enumerate(node.inputs) if value is not None and value not in fixed
              and not (node.op_type in CODES and index)]
    shape = symbols.shape(node.outputs[0])
    if shape is None or not moving or not _keeps_rows(node, moving, symbols) or _scales_scores(node):
        return False
    rank = len(leading(shape))
    if any(_differs(node, index, len(shape) - rank, symbols) for index in range(len(node.inputs))
           if index not in moving):
        return False
    if rank == len(shape) and _are_scores(node.inputs[moving[0]], symbols):
        return False
    single = all(index in moving or value is None or is_single(symbols.shape(value))
                 for index, value in enumerate(node.inputs)) and node.op_type in (*ELEMENTWISE, *CODES)
    found = [_rows(node.inputs[index], rank, symbols, ranks, single=single, rounded=node.op_type in CODES)
             for index in moving]
    rows = [each for each in found if each is not None]
    if not rank or len(rows) < len(found) or any(
            len(each.view.groups) != len(shape) or each.view.shape()[:rank] != shape[:rank]
            or each.sizes() != rows[0].sizes() or _order(each, rank) != _order(rows[0], rank) for each in rows):
        return False
    moved = [written(View(each.view.source, each.view.atoms, each.view.sizes, each.view.chosen,
                          (*((atom,) for atom in each.lead), *each.own)), symbols, graph, node,
                     f"{node_name(node)}.operand{index}") for index, each in zip(moving, rows, strict=True)]
    if any(value is None for value in moved):
        return False
    out = _computed(graph, node, dict(zip(moving, moved, strict=True)), symbols, (*rows[0].sizes(), *shape[rank:]))
    return _put_back(graph, node, out, rows[0], rank, symbols)


def _differs(node: ir.Node, index: int, features: int, symbols: Symbols) -> bool:
    """Whether an operand that stays is another one for other rows, such as numbers by head or a matrix for each."""
    if node.op_type not in (*ELEMENTWISE, "MatMul") or node.inputs[index] is None:
        return False
    shape = symbols.shape(node.inputs[index])
    behind = MATRIX if node.op_type == "MatMul" else features
    return shape is None or any(size.number != 1 for size in shape[:max(0, len(shape) - behind)])


def _scales_scores(node: ir.Node) -> bool:
    """Whether a node only scales an operand of attention's scores, whose kernel does that."""
    reader = rewrite.only_use(node.outputs[0])
    return node.op_type in ("Mul", "Div") and reader is not None and reader.op_type == "MatMul" and any(
        scalar(value) is not None for value in node.inputs)


def _are_scores(value: ir.Value | None, symbols: Symbols) -> bool:
    """Whether a value is no movement of another, as scores and their weights, which no layer reads."""
    found = None if value is None else view_of(value, symbols)
    return found is None or not found[1]


def _keeps_rows(node: ir.Node, moving: list[int], symbols: Symbols) -> bool:
    """Whether a node computes each row of one or more operands by itself, whatever comes in front of its features."""
    if node.op_type == "LayerNormalization":
        return moving == [0] and node.attributes.get_int("axis", -1) == -1
    if node.op_type == "Gemm":
        factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
        return moving == [0] and factors == [1.0, 1.0] and not node.attributes.get_int("transA", 0) and (
            constant(node.inputs[1]) is not None or dequantized(node.inputs[1]) is not None)
    if node.op_type in CODES:
        return moving == [0] and is_single(symbols.shape(node.inputs[1]))
    return node.op_type != "MatMul" or moving == [0]


def _rows(value: ir.Value | None, rank: int, symbols: Symbols, ranks: dict[str, int], *,
          single: bool, rounded: bool) -> _Rows | None:
    """An operand whose rows are in another order than that of inputs, or flat; None for all others.

    Where the other operands are `single` numbers, features may be among the rows in any order. What is `rounded` need
    not be moved so far, as the heads that attention gives.
    """
    found = None if value is None else view_of(value, symbols)
    view = found[0] if found is not None else whole(value, symbols) if rounded and value is not None else None
    if view is None:
        return None
    lead = [atom for group in view.groups[:rank] for atom in group]
    symbolic = [atom for atom in lead if view.sizes[atom].number is None]
    if not symbolic or any(not view.sizes[atom].symbols <= ranks.keys() for atom in symbolic):
        return None
    symbolic.sort(key=lambda atom: min(ranks[name] for name in view.sizes[atom].symbols))
    numbers = [atom for atom in lead if atom not in symbolic]
    if len(numbers) > 1 and not single:
        return None  # parts of images
    wanted = (*symbolic, *numbers)
    groups = (*((atom,) for atom in wanted),)
    return None if view.groups[:rank] == groups else _Rows(view, wanted, view.groups[rank:])


def _order(rows: _Rows, rank: int) -> list[list[int]]:
    """By dimension in front of the features, the places that its atoms go to."""
    return [[rows.lead.index(atom) for atom in group] for group in rows.view.groups[:rank]]


def _computed(graph: ir.Graph, node: ir.Node, moved: dict[int, ir.Value | None], symbols: Symbols,
              shape: Shape) -> ir.Value:
    """The node's result from operands of another order of rows."""
    inputs = [moved.get(index, value) for index, value in enumerate(node.inputs)]
    name = f"{node_name(node)}.rows"
    if node.op_type == "Gemm" and len(shape) > 2:
        if node.attributes.get_int("transB", 0):
            inputs[1] = _turned_weight(graph, node, f"{name}.weight", symbols)
        made = [ir.node("MatMul", inputs[:2], name=node.name)]
        if len(inputs) > 2 and inputs[2] is not None:
            made.append(ir.node("Add", [made[0].outputs[0], inputs[2]], name=f"{name}.bias"))
    else:
        made = [ir.Node("", node.op_type, inputs, list(node.attributes.values()), num_outputs=1, name=node.name)]
    for number, each in enumerate(made):
        out = each.outputs[0]
        out.name, out.type = f"{name}.{number}", node.outputs[0].type
        symbols.shapes[out] = shape
        graph.insert_before(node, each)
    return made[-1].outputs[0]


def _turned_weight(graph: ir.Graph, node: ir.Node, name: str, symbols: Symbols) -> ir.Value:
    """The transpose of a Gemm's weight, of which there may be codes."""
    value = operand(node, 1)
    array, source = constant(value), value.producer()
    if array is None and source is not None:
        array = constant(source.inputs[0])
    assert array is not None
    turned = add_constant(graph, name, np.ascontiguousarray(array.T))
    symbols.shapes[turned] = tuple(map(Size.of, array.T.shape))
    if source is None or constant(value) is not None:
        return turned
    axis = 1 - source.attributes.get_int("axis", 1) % 2
    numbers = ir.node("DequantizeLinear", [turned, *source.inputs[1:]], {"axis": axis}, name=f"{name}.numbers")
    out = numbers.outputs[0]
    out.name, out.type, symbols.shapes[out] = numbers.name, value.type, symbols.shapes[turned]
    graph.insert_before(node, numbers)
    return out


def _put_back(graph: ir.Graph, node: ir.Node, out: ir.Value, rows: _Rows, rank: int, symbols: Symbols) -> bool:
    """Replace a node's result by the same rows in its own order, unless that order cannot be written."""
    view, old = whole(out, symbols), node.outputs[0]
    assert view is not None
    order = _order(rows, rank)
    turned = View(out, view.atoms, view.sizes, {}, (*(tuple(places) for places in order),
                                                    *view.groups[len(rows.lead):]))
    value = written(turned, symbols, graph, node, f"{old.name}.turned")
    if value is not None:
        _replace(graph, node, value)
    return value is not None


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    old = node.outputs[0]
    value.shape = old.shape
    output = old.is_graph_output()
    name = old.name
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if output:
        value.name = name


def shorten_moves(graph: ir.Graph, symbols: Symbols) -> int:
    """Write every chain of movements in as few nodes as it takes, in place; returns how many are shorter."""
    shortened = 0
    for node in list(graph):
        if node.op_type not in MOVES or node.domain or node.graph is None or not _is_last(node):
            continue
        value = node.outputs[0]
        found = view_of(value, symbols)
        if found is None or value.is_graph_output():
            continue
        view, chain = found
        needed = steps_of(view, symbols)
        if needed is not None and _cost([each.op_type for each in needed]) < _cost([each.op_type for each in chain]):
            new = written(view, symbols, graph, node, f"{value.name}.moved")
            assert new is not None
            value.replace_all_uses_with(new)
            shortened += 1
    return shortened


def _cost(operators: list[str]) -> tuple[int, int]:
    """What makes a chain longer than another: its nodes, and those that may have to move elements."""
    return len(operators), operators.count("Transpose")


def _is_last(node: ir.Node) -> bool:
    """Whether something else than movements reads a movement."""
    return any(use.node.op_type not in MOVES or use.idx for use in node.outputs[0].uses())
