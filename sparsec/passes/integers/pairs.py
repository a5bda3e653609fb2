"""Moving DequantizeLinear down and QuantizeLinear up past what only moves elements, so that pairs meet and vanish.

    Move(DQ(q)) = DQ(Move(q)),   Q(Move(x)) = Move(Q(x)),   Q(DQ(q)) = q where both have the same scale and zero point.

MaxPool is among the moves, because quantisation keeps the order of numbers. A Concat of several scales takes all of its
inputs at the scale of the QuantizeLinear behind it.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_constant
from sparsec.graph.nodes import node_name
from sparsec.graph.quantized import MOVES, dequantization, quantization
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite

DEQUANTIZE, QUANTIZE = "DequantizeLinear", "QuantizeLinear"
MADE = (".codes", ".before")
"""How names of values end that this pass makes."""

Counts = Counter[str]


def run(graph: ir.Graph) -> Counts:
    """Moves and cancels in place, until nothing changes; returns what was done."""
    counts: Counts = Counter()
    changed = True
    while changed:
        changed = _share(graph)
        for node in list(graph):
            if node.graph is None or node.domain:
                continue
            step = _step(node)
            if step is not None:
                counts[step] += 1
                changed = True
    return counts


def _step(node: ir.Node) -> str | None:
    if node.op_type == QUANTIZE and _cancel(node):
        return "pairs cancelled"
    if node.op_type == QUANTIZE and _raise(node):
        return "quantisations moved up"
    if node.op_type in MOVES and _sink(node, 1):
        return "dequantisations moved down"
    if node.op_type == "Concat" and (_sink(node, len(node.inputs)) or _align(node)):
        return "dequantisations moved down"
    return None


def _share(graph: ir.Graph) -> bool:
    """One QuantizeLinear and one DequantizeLinear for equal ones of the same tensor."""
    seen: dict[tuple[object, ...], ir.Node] = {}
    changed = False
    for node in list(graph):
        found = quantization(node, node.op_type) if node.op_type in (QUANTIZE, DEQUANTIZE) else None
        if found is None:
            continue
        key = (node.op_type, node.inputs[0], found)
        first = seen.setdefault(key, node)
        if first is not node and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(first.outputs[0])
            graph.remove(node, safe=True)
            changed = True
    return changed


def _cancel(node: ir.Node) -> bool:
    """Q(DQ(q)) with the same parameters is q."""
    source = dequantization(node.inputs[0])
    if source is None or source.parameters != quantization(node, QUANTIZE):
        return False
    output = node.outputs[0]
    if output.is_graph_output():
        return False
    output.replace_all_uses_with(source.codes)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    if (source.codes.name or "").endswith(MADE):  # the file's name, by which it is compared with the file
        source.codes.name, output.name = output.name, None
    return True


def _sink(node: ir.Node, count: int) -> bool:
    """Lets a move work on codes, with the DequantizeLinear behind it."""
    sources = [dequantization(value) for value in node.inputs[:count]]
    first = sources[0]
    if first is None or any(source is None or source.parameters != first.parameters for source in sources):
        return False
    if node.op_type == "MaxPool" and len(node.outputs) > 1:
        return False
    given = node.inputs[0]
    assert given is not None
    producer = given.producer()
    assert producer is not None
    parameters = producer.inputs[1:]
    for index, source in enumerate(sources):
        assert source is not None
        node.replace_input_with(index, source.codes)
    last = node
    for output in node.outputs:
        dequantize = ir.node(DEQUANTIZE, [output, *parameters], name=f"{node_name(node)}.{output.index()}.dq")
        last.append(dequantize)
        last = dequantize
        rewrite.take_over(dequantize.outputs[0], output)
        dequantize.replace_input_with(0, output)
        output.shape, output.type = dequantize.outputs[0].shape, ir.TensorType(_dtype(first.dtype))
        output.name = f"{dequantize.outputs[0].name}.codes"
    return True


def _dtype(name: str) -> ir.DataType:
    return ir.DataType.from_numpy(np.dtype(name))


def _raise(node: ir.Node) -> bool:
    """Quantises what a move reads instead of what it gives."""
    found, value = quantization(node, QUANTIZE), node.inputs[0]
    move = None if value is None else value.producer()
    if found is None or value is None or move is None or move.domain or move.op_type not in MOVES:
        return False
    before = move.inputs[0]
    if (rewrite.only_use(value) is not node or len(move.outputs) > 1 or before is None or before.is_initializer()
            or static_shape(before) is None or before.producer() is None or rewrite.only_use(before) is not move):
        return False
    assert node.graph is not None
    quantize = ir.node(QUANTIZE, [before, *node.inputs[1:]], name=f"{node_name(node)}.before")
    output = quantize.outputs[0]
    output.shape, output.type = before.shape, ir.TensorType(_dtype(found[2]))
    output.name = f"{node.outputs[0].name}.before"
    move.prepend(quantize)
    move.replace_input_with(0, output)
    old = node.outputs[0]
    rewrite.take_over(value, old)
    node.graph.remove(node, safe=True)
    return True


def _align(node: ir.Node) -> bool:
    """Gives the inputs of a Concat the scale of the QuantizeLinear behind it."""
    user = rewrite.only_use(node.outputs[0])
    target = quantization(user, QUANTIZE)
    if target is None or user is None or any(dequantization(value) is None for value in node.inputs):
        return False
    graph = node.graph
    assert graph is not None
    name = node_name(node)
    scale = add_constant(graph, f"{name}.scale", np.asarray(target[0], np.float32))
    zero = add_constant(graph, f"{name}.zero_point", np.asarray(target[1], target[2]))
    for index, value in enumerate(node.inputs):
        source = dequantization(value)
        if source is None or source.parameters == target or value is None:
            continue
        quantize = ir.node(QUANTIZE, [value, scale, zero], name=f"{name}.{index}.q")
        dequantize = ir.node(DEQUANTIZE, [quantize.outputs[0], scale, zero], name=f"{name}.{index}.dq")
        for new, dtype in ((quantize, _dtype(target[2])), (dequantize, ir.DataType.FLOAT)):
            new.outputs[0].name = f"{new.name}.out"
            new.outputs[0].shape, new.outputs[0].type = value.shape, ir.TensorType(dtype)
            node.prepend(new)
        node.replace_input_with(index, dequantize.outputs[0])
    return True
