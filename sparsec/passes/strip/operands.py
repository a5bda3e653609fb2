"""Folding computed operands that are constant wherever they matter into initializers; adding zero is left out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.analysis import RULES, Liveness
from sparsec.analysis.liveness.edit import replace_input
from sparsec.analysis.liveness.facts import dims

BROADCASTING = ("Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "Where")


def fold_operands(model: ir.Model, liveness: Liveness) -> int:
    """Replaces constant operands of operators that broadcast, in place; returns how many.

    Only where the model becomes no larger: what computes the operand goes, and an initializer of its distinct values
    comes.
    """
    constant = [(node, index) for node in model.graph if node.op_type in BROADCASTING and node.domain == ""
                for index in range(len(node.inputs)) if _is_constant(node, index, liveness)]
    return sum(_fold(node, index, liveness) for node, index in constant)


def _is_constant(node: ir.Node, index: int, liveness: Liveness) -> bool:
    """The operand is computed, and known wherever the node needs it."""
    operand, out = node.inputs[index], node.outputs[0]
    if operand is None or operand.producer() is None or node in liveness.opaque or liveness.known[out].constant:
        return False
    facts = [None if value is None else liveness.known[value] for value in node.inputs]
    fact, needed = liveness.known[operand], RULES[node.op_type].backward(node, [liveness.needed[out]], facts)[index]
    return needed is not None and bool((fact.mask | ~needed).all())


def _fold(node: ir.Node, index: int, liveness: Liveness) -> bool:
    operand, out = node.inputs[index], node.outputs[0]
    assert operand is not None
    value = liveness.known[operand].value
    shapes = [value.shape, *(dims(v) for i, v in enumerate(node.inputs) if i != index and v is not None)]
    if None in dims(out) or any(None in shape for shape in shapes) or np.broadcast_shapes(*shapes) != dims(out):
        return False
    if node.op_type == "Add" and not value.any() and not out.is_graph_output():
        other = node.inputs[1 - index]
        assert other is not None
        out.replace_all_uses_with(other)
    elif _freed(operand, node) >= value.nbytes and not _is_dequantized(operand):
        replace_input(node, index, value)
    else:
        return False
    return True


def _is_dequantized(value: ir.Value) -> bool:
    """Whether a value comes from codes, which an operator on integers may read."""
    node = value.producer()
    return node is not None and node.op_type == "DequantizeLinear" and not node.domain


def _freed(operand: ir.Value, user: ir.Node) -> int:
    """The bytes of constants that nothing reads any more once `user` reads the operand no more."""
    gone: set[ir.Node] = set()
    waiting, freed = [operand], 0
    while waiting:
        value = waiting.pop()
        readers = {use.node for use in value.uses()} - gone
        if value.is_graph_output() or (readers if value is not operand else readers - {user}):
            continue
        producer = value.producer()
        if value.is_initializer() and value.const_value is not None:
            freed += value.const_value.nbytes
        elif producer is not None and producer not in gone:
            gone.add(producer)
            waiting += [v for v in producer.inputs if v is not None]
    return freed
