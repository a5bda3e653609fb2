"""The operators with a weight of their own, as what kernels compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu import conv, matmul, quantized, recurrence
from sparsec.cost.option import Option
from sparsec.graph import operators
from sparsec.graph.nodes import is_depthwise, on_the_left, operator_of, weight_array
from sparsec.kernels.cpu.families import FAMILIES
from sparsec.kernels.cpu.layer import CpuProduct
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.family import offers
from sparsec.target import Target

LAYERS: dict[str, Callable[[ir.Node, Isa], CpuProduct | None]] = {
    "sparsec::Conv": conv.layer_of, "sparsec::MatMul": matmul.layer_of,
    "sparsec::QConv": quantized.layer_of, "sparsec::QMatMul": quantized.layer_of,
    "sparsec::Recurrence": recurrence.layer_of}
"""By operator: the layer that a node is, None where kernels have nothing to choose for it."""


def layer_of(node: ir.Node, isa: Isa) -> CpuProduct | None:
    """The layer that a node of a laid-out graph is, None where it is none with a weight of its own."""
    make = LAYERS.get(operator_of(node))
    return None if make is None else make(node, isa)


def offers_of(node: ir.Node, target: Target, isa: Isa, precision: str) -> tuple[list[Option], dict[str, str]]:
    """The options for a node, and by kernel family why there are no others."""
    layer = layer_of(node, isa)
    if layer is None:
        return [], {}
    options, refused = offers(FAMILIES, layer, target, isa, precision if allows_fewer_bits(node) else "fp32")
    runs = repeats(node)
    return [replace(each, work=each.cpu_work.times(runs)) for each in options] if runs > 1 else options, refused


def repeats(node: ir.Node) -> int:
    """How often a layer's kernel runs for one run of its node: once a step of a recurrence."""
    return recurrence.shape_of(node).products if operator_of(node) == "sparsec::Recurrence" else 1


def allows_fewer_bits(node: ir.Node) -> bool:
    """Whether kernels of fewer bits may run a layer: not where its weight multiplies columns, as no error is known."""
    match node.domain, node.op_type:
        case operators.DOMAIN, "Conv":
            return not is_depthwise(node)
        case operators.DOMAIN, "MatMul":
            return not on_the_left(node)
    return False


def matrix_of(node: ir.Node) -> np.ndarray:
    """A layer's weight as kernels multiply it, (outputs, inner)."""
    return conv.weight_matrix(node) if node.op_type == "Conv" else weight_array(node)
