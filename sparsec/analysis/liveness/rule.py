"""What the analysis knows of one operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparsec.analysis.liveness.facts import Known, Mask
from sparsec.analysis.liveness.slabs import Cut, Relation

Inputs = Sequence[Known | None]  # facts of a node's inputs; None for absent optional ones


def fact(inputs: Inputs, index: int) -> Known:
    """The facts of an input that the operator requires."""
    found = inputs[index]
    assert found is not None
    return found


def accept(_node: ir.Node, _inputs: Inputs) -> str | None:
    """The rule covers every use of the operator."""
    return None


def unchanged(_node: ir.Node, _cut: Cut) -> None:
    """The node says nothing about sizes."""


@dataclass(frozen=True)
class Rule:
    """The transfer functions of an operator.

    Attributes:
        forward: facts of the outputs from those of the inputs.
        backward: which elements of each input are needed, from which elements of the outputs are.
        couple: the relations that dropping slabs of the inputs and outputs must respect. An axis that no relation
            names cannot lose anything.
        rewrite: before the slabs outside the cut are dropped, adapts what the node says about sizes.
        reject: why the rule does not cover this node, or None.

    """

    forward: Callable[[ir.Node, Inputs], list[Known]]
    backward: Callable[[ir.Node, Sequence[Mask], Inputs], list[Mask | None]]
    couple: Callable[[ir.Node], Iterable[Relation]]
    rewrite: Callable[[ir.Node, Cut], None] = unchanged
    reject: Callable[[ir.Node, Inputs], str | None] = accept
