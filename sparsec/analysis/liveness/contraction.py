"""Matrix products: MatMul and Gemm, of weights and of activations (attention)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.elementwise import broadcast_axes
from sparsec.analysis.liveness.facts import (
    Array,
    Dims,
    Known,
    Mask,
    aligned,
    compact,
    dims,
    every,
    gathered,
    some,
    unknown,
    where_known,
)
from sparsec.analysis.liveness.node import name
from sparsec.analysis.liveness.normalization import AXES
from sparsec.analysis.liveness.rule import Inputs, Rule
from sparsec.analysis.liveness.slabs import Relation, nonempty, tie
from sparsec.graph.nodes import operand


@dataclass(frozen=True)
class Operand:
    """A matrix operand: its facts and shape as multiplied, and whether that is transposed."""

    value: ir.Value
    fact: Known
    shape: Dims
    transposed: bool

    def back(self, mask: Mask) -> Mask:
        """A mask of the matrix as multiplied, for the operand as it is."""
        mask = gathered(mask, self.shape)
        mask = mask if self.value.is_initializer() else compact(mask)  # weights vary, and are large
        return mask.swapaxes(-1, -2) if self.transposed else mask

    def axis(self, index: int) -> tuple[ir.Value, int]:
        """The key of axis -1 or -2 of the matrix as multiplied."""
        return self.value, len(self.shape) + (-3 - index if self.transposed else index)


def operands(node: ir.Node, inputs: Inputs) -> tuple[Operand, Operand]:
    """The two factors of the product, as values: left, then right."""
    pair = []
    for index, flag in enumerate(("transA", "transB")):
        value = operand(node, index)
        fact = inputs[index] or unknown(value)
        shape, turned = dims(value), node.op_type == "Gemm" and bool(node.attributes.get_int(flag, 0))
        if turned:
            fact = fact.transposed()
            shape = shape[::-1]
        pair.append(Operand(value, fact, shape, turned))
    return pair[0], pair[1]


def _inner(left: Array, right: Array) -> tuple[Array, Array]:
    """Both at full length along the contracted axis, unless neither varies along it."""
    (depth,) = np.broadcast_shapes(left.shape[-1:], right.shape[-2:-1])
    return np.broadcast_to(left, (*left.shape[:-1], depth)), \
        np.broadcast_to(right, (*right.shape[:-2], depth, right.shape[-1]))


def _meet(left: Mask, right: Mask) -> Mask:
    """[row, column]: some index of the contracted axis holds in both."""
    left, right = _inner(left, right)
    if min(*left.shape[-2:], right.shape[-1]) == 1:  # then it is no larger than an operand, and faster than a product
        return some(left[..., :, :, None] & right[..., None, :, :], [-2])
    return left.astype(np.float32) @ right.astype(np.float32) > 0


def _reach(mask: Mask, fact: Known, *, turned: bool = False) -> Mask:
    """`_meet` of a mask and where a matrix, or its transpose, is not zero."""
    if mask.shape[-1] == 1:  # it holds for all or none of the indices
        return mask & fact.has_nonzero(-1 if turned else -2)[..., None, :]
    return _meet(mask, fact.nonzero.swapaxes(-1, -2) if turned else fact.nonzero)


def _rows_sum_to_one(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Softmax" and producer.domain == "" \
        and AXES["Softmax"](producer) == [len(dims(value)) - 1]


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Known where in every product of the sum both factors are known or one is zero."""
    a, b = operands(node, inputs)
    depth = a.shape[-1]
    live = _reach(~a.fact.mask, b.fact)
    if not b.fact.constant:
        live = live | _meet(a.fact.nonzero, ~b.fact.mask)
    mask = ~live
    if _rows_sum_to_one(a.value) and b.fact.value.shape[-2] == 1:
        same = every(b.fact.mask, [-2], keepdims=True)
        if same.any():  # a mean of equal rows
            return [where_known(same, b.fact.value)]
    if not mask.any():
        return [unknown(node.outputs[0])]
    x, y = _inner(a.fact.value, b.fact.value)
    repeated = (depth or 0) if x.shape[-1] == 1 else 1
    used = some(x != 0, range(x.ndim - 1))
    value = (x[..., used].astype(np.float64) @ y[..., used, :].astype(np.float64)) * repeated
    if depth is None:
        mask = mask & (value == 0)
    if node.op_type == "Gemm":
        value = value * node.attributes.get_float("alpha", 1.0)
        if len(inputs) > 2 and inputs[2] is not None:
            mask = mask & aligned(inputs[2].mask, 2)
            value = value + aligned(inputs[2].value, 2) * node.attributes.get_float("beta", 1.0)
    return [where_known(mask, value.astype(a.fact.value.dtype))]


def backward(node: ir.Node, needed: Sequence[Mask], inputs: Inputs) -> list[Mask | None]:
    """A factor is needed where a needed sum multiplies it by what is not zero.

    Of two factors that are both zero the second is needed, so that the product stays zero; initializers stay anyway.
    """
    a, b = operands(node, inputs)
    out = needed[0]
    of_a = _reach(out, b.fact, turned=True)
    of_b = _meet(a.fact.nonzero.swapaxes(-1, -2), out)
    if not b.value.is_initializer():
        of_b = of_b | (b.fact.zero & some(out, [-2], keepdims=True))
    bias = [None if value is None else gathered(out, dims(value)) for value in node.inputs[2:]]
    return [a.back(of_a), b.back(of_b), *bias]


def couple(node: ir.Node) -> Iterator[Relation]:
    """Rows, columns and batch axes go with the result's; the contracted axes lose the same slabs."""
    a, b = operands(node, [None, None])
    y = node.outputs[0]
    rank = len(dims(y))
    yield from tie(a.axis(-1), b.axis(-2))
    yield from tie(a.axis(-2), (y, rank - 2))
    yield from tie(b.axis(-1), (y, rank - 1))
    for factor in (a, b):
        for axis, target in broadcast_axes(factor.value, y):
            if target < rank - 2:
                yield from tie((factor.value, axis), (y, target))
    for bias in node.inputs[2:]:
        if bias is not None:
            for axis, target in broadcast_axes(bias, y):
                yield from tie((bias, axis), (y, target))
    yield from nonempty(a.axis(-1), [(y, axis) for axis in range(rank)], f"the last input of {name(node)}")


def reject(node: ir.Node, _inputs: Inputs) -> str | None:
    """Vectors take part in MatMul by rules of their own; what is summed over must be as long in both operands."""
    if any(value is not None and len(dims(value)) < 2 for value in node.inputs[:2]):
        return "an operand is a vector"
    a, b = operands(node, [None, None])
    return "the length that it sums over is known of one operand only" if a.shape[-1] != b.shape[-2] else None


PRODUCT = Rule(forward, backward, couple, reject=reject)
RULES = {"MatMul": PRODUCT, "Gemm": PRODUCT}
