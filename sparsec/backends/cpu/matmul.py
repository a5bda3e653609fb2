"""Lowering of sparsec::MatMul: over tiles of tokens, or row-major for few rows."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.cpu import products
from sparsec.backends.cpu.context import LoweringContext
from sparsec.backends.cpu.conv import bias_vector
from sparsec.graph.layout import Tiled
from sparsec.kernels.isa import Isa
from sparsec.kernels.stencil import linear
from sparsec.option import Option
from sparsec.target import Target


def layer_of(node: ir.Node, lanes: int) -> products.Layer:
    """The linear layer as a product over tiles of tokens."""
    source: Tiled = node.inputs[0].meta["layout"]
    weight = node.inputs[1].const_value.numpy()
    return products.Layer(weight, bias_vector(node), linear(source, weight.shape[0], lanes), products.epilogue_of(node))


def options(node: ir.Node, target: Target, isa: Isa) -> list[Option]:
    """Every way to run the layer."""
    return products.options(layer_of(node, isa.lanes), target, isa)


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the layer with the option that the plan chose."""
    residual = node.inputs[3] if len(node.inputs) > 3 else None
    expr = products.emit(context, layer_of(node, context.isa.lanes), node.meta["choice"].winner.option.params,
                         context.flat(node.inputs[0]), None if residual is None else context.flat(residual))
    context.bind(node.outputs[0], expr)
