"""Operators that work element by element, with broadcasting; products and quotients let a known zero absorb."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.facts import Known, Mask, aligned, dims, gathered, unknown, where_known
from sparsec.analysis.liveness.node import evaluate, parameter
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Relation, tie

UNARY = ("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu",
         "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log",
         "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
         "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu")
BROADCAST = ("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Greater", "GreaterOrEqual", "Less",
             "LessOrEqual", "Max", "Mean", "Min", "Mod", "Or", "PRelu", "Pow", "Sub", "Sum", "Xor")


def same_everywhere(masks: Sequence[Mask], rank: int) -> Mask:
    """Where all operands of a broadcast are known."""
    return reduce(np.logical_and, (aligned(mask, rank) for mask in masks))


def broadcast_axes(operand: ir.Value, result: ir.Value) -> Iterator[tuple[int, int]]:
    """The operand's axes beside the axes of the result that they become."""
    shift = len(dims(result)) - len(dims(operand))
    return ((axis, axis + shift) for axis in range(len(dims(operand))))


def _present(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Known where every operand is."""
    out = node.outputs[0]
    mask = same_everywhere([found.mask for found in inputs if found is not None], len(dims(out)))
    if not mask.any():
        return [unknown(out)]
    values = [None if found is None else found.value for found in inputs]
    if node.op_type == "PRelu":  # it does not broadcast its first input
        values = list(np.broadcast_arrays(*(value for value in values if value is not None)))
    value = evaluate(node, values)
    return [unknown(out) if value is None else where_known(mask, aligned(value, len(dims(out))))]


def backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """Needed where the result is."""
    return [None if value is None else gathered(needed[0], dims(value)) for value in node.inputs]


def couple(node: ir.Node) -> Iterator[Relation]:
    """Aligned axes lose the same slabs."""
    out = node.outputs[0]
    for operand in _present(node):
        for axis, target in broadcast_axes(operand, out):
            yield from tie((operand, axis), (out, target))


def _ranked(inputs: Inputs, index: int, rank: int) -> Known:
    """The facts of a required operand with the rank of the result."""
    found = fact(inputs, index)
    return Known(aligned(found.mask, rank), aligned(found.value, rank))


def product_forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """A zero factor or numerator makes the result zero."""
    rank = len(dims(node.outputs[0]))
    left, right = (_ranked(inputs, index, rank) for index in (0, 1))
    zero = left.zero if node.op_type == "Div" else left.zero | right.zero
    result = _ranked(forward(node, inputs), 0, rank)
    return [where_known(result.mask | zero, np.where(zero, np.zeros((), result.value.dtype), result.value))]


def product_backward(node: ir.Node, needed: Sequence[Mask], inputs: Inputs) -> list[Mask | None]:
    """A factor is not needed where the other one is zero; of two zeros the second is, so that the result stays zero."""
    rank = len(dims(node.outputs[0]))
    left, right = (_ranked(inputs, index, rank) for index in (0, 1))
    if node.op_type == "Div":
        of_left, of_right = needed[0], needed[0] & left.nonzero
    else:
        of_left, of_right = needed[0] & right.nonzero, needed[0] & (left.nonzero | right.zero)
    return [gathered(mask, dims(value)) for mask, value in zip((of_left, of_right), _present(node), strict=True)]


def where_forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Where: known where the condition and the chosen operand are, or where both operands are known and equal."""
    rank = len(dims(node.outputs[0]))
    condition, yes, no = (_ranked(inputs, index, rank) for index in (0, 1, 2))
    chosen = condition.mask & np.where(condition.value, yes.mask, no.mask)
    same = yes.mask & no.mask & (yes.value == no.value)
    return [where_known(chosen | same, np.where(chosen & condition.value, yes.value, no.value))]


def where_backward(node: ir.Node, needed: Sequence[Mask], inputs: Inputs) -> list[Mask | None]:
    """Where: an operand is not needed where the condition is known to choose the other."""
    condition = _ranked(inputs, 0, len(dims(node.outputs[0])))
    chosen = condition.value.astype(bool)
    masks = (needed[0], needed[0] & (~condition.mask | chosen), needed[0] & (~condition.mask | ~chosen))
    return [gathered(mask, dims(value)) for mask, value in zip(masks, _present(node), strict=True)]


def dropout_forward(_node: ir.Node, inputs: Inputs) -> list[Known]:
    """Dropout passes its input through at inference."""
    return [fact(inputs, 0)]


def dropout_reject(node: ir.Node, _inputs: Inputs) -> str | None:
    """Dropout may be exported in training mode."""
    training = parameter(node, "training_mode", 2)
    return "training mode" if training else None


ELEMENTWISE = Rule(forward, backward, couple)
PRODUCT = Rule(product_forward, product_backward, couple)
RULES = {
    **dict.fromkeys((*UNARY, *BROADCAST), ELEMENTWISE),
    **dict.fromkeys(("Mul", "Div"), PRODUCT),
    "Where": Rule(where_forward, where_backward, couple),
    "Dropout": Rule(dropout_forward, backward, couple, reject=dropout_reject),
}
