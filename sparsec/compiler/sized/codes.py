"""Quantised graphs of run-time sizes: what is rounded to codes is rounded once, where layers can read the codes.

Quantisers put QuantizeLinear and DequantizeLinear around every operator, movements included. Numbers that stand for
codes stay such wherever they are moved, so that rounding them to the same codes again changes nothing:

    DQ(Q(Move(DQ(q)))) = Move(DQ(q))   where all have the same scale and zero point.

What is left lies behind the layers, in whose stages codes go from one to the next.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.compiler.sized.views import view_of
from sparsec.graph.constants import add_constant
from sparsec.graph.nodes import node_name, operand
from sparsec.graph.quantized import MOVES, dequantization, dequantized, quantization
from sparsec.graph.sized import IM2COL, LEVELS, SIZED_DOMAIN

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
Levels = tuple[float, int, str]
"""What numbers are rounded to: scale, zero point and type of their codes."""
KEPT = {*MOVES, "Relu"}
"""Operators whose results stand for codes where their first inputs do: of 0 there is always one."""
LAYERS = ("MatMul", "Gemm", "Conv")
WINDOWED = {(SIZED_DOMAIN, kind) for kind in (IM2COL, "MaxPool")}
"""Operators on images channels last of which that holds as well; zeros of padding are codes, too."""


def rounding(value: ir.Value | None) -> tuple[ir.Value, Levels] | None:
    """What is rounded to codes and back, and to which, where a value is that."""
    found = dequantization(value)
    node = None if found is None else found.codes.producer()
    if found is None or node is None or quantization(node, QUANTIZE) != found.parameters:
        return None
    return operand(node, 0), found.parameters


def round_once(graph: ir.Graph, symbols: Symbols) -> int:
    """Drop roundings of what has been rounded to the same codes, in place; returns how many."""
    _fold_scalars(graph, symbols)
    dropped = 0
    for node in list(graph):
        value = node.outputs[0] if node.op_type == DEQUANTIZE and not node.domain else None
        found = None if value is None or value.is_graph_output() else rounding(value)
        if value is None or found is None or not _stands_for(found[0], found[1]):
            continue
        value.replace_all_uses_with(found[0])
        dropped += 1
    return dropped


def _fold_scalars(graph: ir.Graph, symbols: Symbols) -> None:
    """Single numbers in codes, as factors of scores, become numbers."""
    for node in list(graph):
        value = node.outputs[0] if node.outputs else None
        codes = None if value is None else dequantized(value)
        if value is None or codes is None or codes.codes.size != 1 or value.is_graph_output():
            continue
        made = add_constant(graph, f"{node_name(node)}.number", codes.values())
        symbols.shapes[made] = symbols.shapes[value]
        value.replace_all_uses_with(made)


def _stands_for(value: ir.Value | None, levels: Levels) -> bool:
    """Whether all elements of a value have been rounded to codes of these levels."""
    while value is not None:
        found = dequantization(value)
        if found is not None:
            return found.parameters == levels
        node = value.producer()
        if node is None or node.domain:
            return False
        if node.op_type == "Concat":
            return all(_stands_for(each, levels) for each in node.inputs)
        if node.op_type not in KEPT or (node.op_type == "MaxPool" and value is not node.outputs[0]):
            return False
        value = node.inputs[0]
    return False


def split_dynamic(graph: ir.Graph, symbols: Symbols) -> int:
    """Write DynamicQuantizeLinear as what looks at all rows, and what then quantises each, in place; returns how many.

    The order of elements does not matter to the first.
    """
    found = [node for node in graph if node.op_type == "DynamicQuantizeLinear" and not node.domain]
    for node in found:
        x, name = operand(node, 0), node_name(node)
        view = view_of(x, symbols)
        source = x if view is None or view[0].chosen else view[0].source
        levels = ir.node(LEVELS, [source], domain=SIZED_DOMAIN, num_outputs=2, name=f"{name}.levels")
        quantize = ir.node(QUANTIZE, [x, *levels.outputs], name=name)
        made = [quantize.outputs[0], *levels.outputs]
        for new, old in zip(made, node.outputs, strict=True):
            new.name, new.type, new.shape, symbols.shapes[new] = old.name, old.type, old.shape, symbols.shapes[old]
        for each in (levels, quantize):
            graph.insert_before(node, each)
        for new, old in zip(made, node.outputs, strict=True):
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            old.name = None
        graph.remove(node, safe=True)
    if found:
        graph.opset_imports[SIZED_DOMAIN] = 1
    return len(found)


def round_for_layers(graph: ir.Graph, symbols: Symbols) -> int:
    """Let layers of codes that read moved numbers read codes, in place; returns how many do so now."""
    count = 0
    for node in list(graph):
        if node.op_type not in LAYERS or node.domain or dequantized(node.inputs[1]) is None:
            continue
        value = operand(node, 0)
        source = source_of(value)
        if source is None or dequantization(value) is not None:
            continue
        quantize = ir.node(QUANTIZE, [value, *source.inputs[1:]], name=f"{node_name(node)}.codes")
        back = ir.node(DEQUANTIZE, [quantize.outputs[0], *source.inputs[1:]], name=f"{node_name(node)}.rounded")
        for new, kind in ((quantize, operand(source, 0).type), (back, value.type)):
            out = new.outputs[0]
            out.name, out.type, symbols.shapes[out] = new.name, kind, symbols.shapes[value]
            graph.insert_before(node, new)
        node.replace_input_with(0, back.outputs[0])
        count += 1
    return count


def source_of(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear of one scale that a value is moved from."""
    while value is not None:
        node = value.producer()
        if node is None or (node.domain, node.op_type) in WINDOWED:
            value = None if node is None else node.inputs[0]
            continue
        if node.domain:
            return None
        if quantization(node, DEQUANTIZE) is not None:
            return node
        if node.op_type not in KEPT:
            return None
        value = node.inputs[0]
    return None


def dequantize_apart(graph: ir.Graph, stages: Iterable[list[ir.Node]], symbols: Symbols) -> None:
    """Let every stage turn codes of others into numbers by itself, so that codes go from one to the next; in place.

    Args:
        graph: of the nodes.
        stages: the nodes of each, in order; copies of the others' DequantizeLinear are put in front.
        symbols: of the graph.

    """
    whole = [(nodes, set(nodes)) for nodes in stages]
    anywhere = {node for _, own in whole for node in own}
    for nodes, own in whole:
        copies: dict[ir.Value, ir.Node] = {}
        for node in list(nodes):
            for index, value in enumerate(node.inputs):
                producer = None if value is None else value.producer()
                if value is None or producer is None or producer in own or producer not in anywhere or (
                        quantization(producer, DEQUANTIZE) is None or value.is_graph_output()):
                    continue
                if value not in copies:
                    copies[value] = _copy(graph, producer, node, len(anywhere), symbols)
                node.replace_input_with(index, copies[value].outputs[0])
        nodes[:0] = copies.values()
        anywhere.update(copies.values())


def _copy(graph: ir.Graph, node: ir.Node, before: ir.Node, number: int, symbols: Symbols) -> ir.Node:
    copy = ir.Node(node.domain, node.op_type, list(node.inputs), list(node.attributes.values()), num_outputs=1,
                   name=f"{node_name(node)}.{number}")
    old, new = node.outputs[0], copy.outputs[0]
    new.name, new.type, new.shape, symbols.shapes[new] = copy.name, old.type, old.shape, symbols.shapes[old]
    graph.insert_before(before, copy)
    return copy
