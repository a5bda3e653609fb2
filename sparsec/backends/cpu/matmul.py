"""Lowering of sparsec::MatMul: over tiles of tokens, or row-major for few rows."""

from __future__ import annotations

import math

import onnx_ir as ir
from tvm import relax

from sparsec.backends.cpu.calls import call, emit
from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.weights import bias_vector, chosen, epilogue_of, residual
from sparsec.graph.annotations import NETWORK
from sparsec.graph.layout import Tiled, layout_of
from sparsec.graph.nodes import on_the_left, weight_array, weight_facts
from sparsec.graph.shapes import static_shape
from sparsec.graph.zeros import expected_zeros
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.stencil import linear
from sparsec.kernels.cpu.rows.layer import LAYERS, RowProduct
from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.ranges import RANGES


def layer_of(node: ir.Node, isa: Isa) -> StencilProduct | RowProduct:
    """The linear layer: over tiles of tokens, or on few rows."""
    source, weight, bias, epilogue = layout_of(node.inputs[0]), weight_array(node), bias_vector(node), epilogue_of(node)
    facts = weight_facts(node)
    if isinstance(source, Tiled):
        return StencilProduct(weight, bias, linear(source, weight.shape[0], isa.lanes), epilogue,
                              ranges=RANGES.get(node), facts=facts)
    sizes = static_shape(node.inputs[0]) or ()
    rows = math.prod((*sizes[:-2], sizes[-1]) if on_the_left(node) else sizes[:-1])
    shape = Matvec(weight.shape[0], weight.shape[1], rows, epilogue.activation, epilogue.alpha, epilogue.beta,
                   epilogue.residual, epilogue.multiplies)
    return RowProduct(weight, bias, shape, facts=facts, zeros=expected_zeros(node.inputs[0]),
                      network=NETWORK.get(node) or LAYERS)


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the layer with the option that the plan chose; columns that a weight on the left multiplies become rows."""
    values = [value for value in (node.inputs[0], residual(node)) if value is not None]
    columns = on_the_left(node)
    inputs = [_rows(context, context.tensor(value)) if columns else context.flat(value) for value in values]
    result = emit(context, call(layer_of(node, context.isa), chosen(node), context.isa, context.keep), inputs)
    if columns:
        *lead, outputs, count = context.shape(node.outputs[0])
        result = context.transposed(context.bb.emit(relax.op.reshape(result, (*lead, count, outputs))))
    context.bind(node.outputs[0], result)


def _rows(context: LoweringContext, tensor: relax.Expr) -> relax.Expr:
    """The columns of matrices as rows, flat."""
    return context.bb.emit(relax.op.reshape(context.transposed(tensor), (-1,)))
