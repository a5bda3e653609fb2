"""DynamicQuantizeLinear: all elements decide the scale, and so all are needed; those that are zero may go.

The range that it quantises holds 0 whatever its input, so that zeros change neither scale nor zero point, and become
the zero point, which stands for exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.facts import Known, Mask, compact, dims, unknown
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Relation, tie
from sparsec.graph.nodes import operand


@dataclass(frozen=True)
class Codes(Known):
    """Facts of codes whose zero point is found at run time; `at_zero` are those that equal it."""

    at_zero: Mask


def zeros_behind(node: ir.Node, x: Known) -> Mask | None:
    """Where a DequantizeLinear gives 0 because its codes are the zero point; None where it is not told by what it is.

    Args:
        node: the DequantizeLinear.
        x: the facts of its codes.

    """
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    own = producer is not None and tuple(node.inputs[1:]) == tuple(producer.outputs[1:])
    return x.at_zero if isinstance(x, Codes) and own else None


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Nothing but where the codes are the zero point."""
    codes = unknown(node.outputs[0])
    return [Codes(codes.mask, codes.value, compact(fact(inputs, 0).zero))]


def backward(node: ir.Node, _needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """Everything: another number might be the largest."""
    return [np.ones((1,) * len(dims(operand(node, 0))), bool)]


def couple(node: ir.Node) -> Iterator[Relation]:
    """Codes go with their numbers."""
    x, codes = operand(node, 0), node.outputs[0]
    for axis in range(len(dims(x))):
        yield from tie((x, axis), (codes, axis))


RULES = {"DynamicQuantizeLinear": Rule(forward, backward, couple)}
