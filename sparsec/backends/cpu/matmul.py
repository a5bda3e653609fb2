"""Lowering of sparsec::MatMul: over tiles of tokens, or row-major for few rows."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from sparsec.backends.cpu import few_rows, narrow, products
from sparsec.backends.cpu.context import KernelCall, LoweringContext
from sparsec.backends.cpu.weights import bias_vector, chosen, epilogue_of, residual, weight_array
from sparsec.graph.layout import Tiled
from sparsec.kernels.isa import Isa
from sparsec.kernels.stencil import linear
from sparsec.option import Option
from sparsec.target import Target


def layer_of(node: ir.Node, source: Tiled, lanes: int) -> products.Layer:
    """The linear layer as a product over tiles of tokens."""
    weight = weight_array(node)
    return products.Layer(weight, bias_vector(node), linear(source, weight.shape[0], lanes), epilogue_of(node))


def options(node: ir.Node, target: Target, isa: Isa, precision: str) -> list[Option]:
    """Every way to run the layer."""
    source = node.inputs[0].meta.get("layout")
    if isinstance(source, Tiled):
        layer = layer_of(node, source, isa.lanes)
        return [*products.options(layer, target, isa), *narrow.options(layer, target, isa, precision)]
    return few_rows.options(node, isa)


def call(node: ir.Node, params: Any, isa: Isa) -> KernelCall:
    """The kernel of an option with the layer's constants."""
    source = node.inputs[0].meta.get("layout")
    if isinstance(source, Tiled):
        return products.call(layer_of(node, source, isa.lanes), params, isa)
    return few_rows.call(node, params)


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the layer with the option that the plan chose."""
    inputs = [context.flat(value) for value in (node.inputs[0], residual(node)) if value is not None]
    context.bind(node.outputs[0], context.emit(call(node, chosen(node), context.isa), inputs))
