"""Projections of the same rows that attention reads become one product on a device, whose parts lie side by side.

Attention, rotations and copies read a part where it lies, so that a Split behind the product only looks at memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.compiler.sized.attention import ATTENTION
from sparsec.compiler.sized.rotary import ROTARY
from sparsec.graph.annotations import APART
from sparsec.graph.constants import add_constant, constant
from sparsec.graph.nodes import node_name, operand
from sparsec.graph.operators.schema import DOMAIN
from sparsec.passes import rewrite

Division = Callable[[Sequence[np.ndarray]], Sequence[Sequence[int]]]
"""Of weights (inputs, outputs) the numbers of those that are one product each."""
MOST = 8
"""Layers that are joined; so many projections of one value are not those of one attention."""
PASSED = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity")
"""Operators that look at a part in another shape or order."""


def join_projections(graph: ir.Graph, symbols: Symbols, division: Division) -> int:
    """Join layers in place, as `division` says; returns how many became part of another."""
    groups: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        if node.op_type == "MatMul" and not node.domain and _is_projection(node, symbols):
            groups.setdefault(operand(node, 0), []).append(node)
    joined = 0
    for group in groups.values():
        if 1 < len(group) <= MOST:
            for numbers in division([np.asarray(constant(node.inputs[1])) for node in group]):
                joined += _join(graph, [group[number] for number in numbers], symbols) if len(numbers) > 1 else 0
    return joined


def _is_projection(node: ir.Node, symbols: Symbols) -> bool:
    """Whether only attention and what moves elements for it reads a linear layer of rows."""
    weight, shape = constant(node.inputs[1]), symbols.shape(node.outputs[0])
    floats = weight is not None and weight.ndim == len(("inputs", "outputs")) and weight.dtype == np.float32
    return floats and shape is not None and constant(node.inputs[0]) is None and _leads_to_attention(_end(node))


def _end(node: ir.Node) -> ir.Value:
    """A layer's result, with its bias."""
    use = rewrite.only_use(node.outputs[0])
    bias = _bias(use)
    return node.outputs[0] if bias is None or use is None else use.outputs[0]


def _bias(node: ir.Node | None) -> np.ndarray | None:
    """The vector that a node adds."""
    if node is None or node.op_type != "Add" or node.domain:
        return None
    found = [array for value in node.inputs if (array := constant(value)) is not None]
    return found[0] if len(found) == 1 and found[0].ndim == 1 and found[0].dtype == np.float32 else None


def _leads_to_attention(value: ir.Value) -> bool:
    uses = list(value.uses())
    return bool(uses) and not value.is_graph_output() and all(_takes(use.node, use.idx) for use in uses)


def _takes(node: ir.Node, index: int) -> bool:
    """Whether a node reads a part where it lies, or copies it for an attention."""
    if node.domain == DOMAIN and node.op_type in (ATTENTION, ROTARY):
        return True
    if node.domain or node.op_type not in (*PASSED, "Concat") or (index and node.op_type != "Concat"):
        return False
    return node.op_type == "Concat" or _leads_to_attention(node.outputs[0])


def _join(graph: ir.Graph, group: Sequence[ir.Node], symbols: Symbols) -> int:
    """Put one layer and a Split in the place of several."""
    ends = [_end(node) for node in group]
    weights = [np.asarray(constant(node.inputs[1])) for node in group]
    sizes, name = [weight.shape[1] for weight in weights], f"{node_name(group[0])}.joined"
    lead, x = symbols.shapes[group[0].outputs[0]][:-1], operand(group[0], 0)
    biases = [_bias(rewrite.only_use(node.outputs[0])) for node in group]
    whole = _made(ir.node("MatMul", [x, _constant(graph, symbols, f"{name}.weight", np.concatenate(weights, 1))],
                          name=name), (*lead, Size.of(sum(sizes))), symbols)
    nodes = [whole]
    if any(bias is not None for bias in biases):
        vector = np.concatenate([np.zeros(size, np.float32) if bias is None else np.broadcast_to(bias, (size,))
                                 for bias, size in zip(biases, sizes, strict=True)])
        nodes.append(_made(ir.node("Add", [whole.outputs[0], _constant(graph, symbols, f"{name}.bias", vector)],
                                   name=f"{name}.added"), (*lead, Size.of(sum(sizes))), symbols))
    parts = ir.node("Split", [nodes[-1].outputs[0], _constant(graph, symbols, f"{name}.sizes", np.array(sizes))],
                    {"axis": -1}, num_outputs=len(group), name=f"{name}.parts")
    for part, end, size in zip(parts.outputs, ends, sizes, strict=True):
        part.name, part.type, symbols.shapes[part] = f"{end.name}.part", end.type, (*lead, Size.of(size))
    graph.insert_before(group[0], [*nodes, parts])
    for part, end in zip(parts.outputs, ends, strict=True):
        end.replace_all_uses_with(part)
    _keep_apart(parts)
    return len(group) - 1


def _keep_apart(node: ir.Node) -> None:
    """Let a node, and what looks at its results, be in no stage, which would copy them."""
    APART.set(node, "attention reads its results where they lie")
    for use in (use for value in node.outputs for use in value.uses()):
        if use.node.op_type in PASSED and not use.node.domain:
            _keep_apart(use.node)


def _made(node: ir.Node, shape: tuple[Size, ...], symbols: Symbols) -> ir.Node:
    out = node.outputs[0]
    out.name, out.type, symbols.shapes[out] = node.name, ir.TensorType(ir.DataType.FLOAT), shape
    return node


def _constant(graph: ir.Graph, symbols: Symbols, name: str, array: np.ndarray) -> ir.Value:
    value = add_constant(graph, name, array)
    symbols.shapes[value] = tuple(map(Size.of, array.shape))
    return value
