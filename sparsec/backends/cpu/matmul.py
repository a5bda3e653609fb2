"""Lowering of sparsec::MatMul: over tiles of tokens, or row-major for few rows."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from tvm import relax

from sparsec.backends.cpu import few_rows, narrow, products
from sparsec.backends.relax.context import KernelCall, LoweringContext
from sparsec.backends.relax.weights import bias_vector, chosen, epilogue_of, residual, weight_array
from sparsec.cost.option import Option
from sparsec.graph.layout import Tiled, layout_of
from sparsec.kernels.cpu.products.spmm_int8 import RANGES
from sparsec.kernels.cpu.products.stencil import linear
from sparsec.kernels.emit.isa import Isa
from sparsec.target import Target


def layer_of(node: ir.Node, source: Tiled, lanes: int) -> products.Layer:
    """The linear layer as a product over tiles of tokens."""
    weight = weight_array(node)
    return products.Layer(weight, bias_vector(node), linear(source, weight.shape[0], lanes), epilogue_of(node))


def options(node: ir.Node, target: Target, isa: Isa, precision: str) -> list[Option]:
    """Every way to run the layer."""
    source = layout_of(node.inputs[0])
    if isinstance(source, Tiled):
        layer = layer_of(node, source, isa.lanes)
        return [*products.options(layer, target, isa),
                *narrow.options(layer, target, isa, precision, RANGES.get(node))]
    return few_rows.options(node, target, isa, precision)


def call(node: ir.Node, params: Any, isa: Isa) -> KernelCall:
    """The kernel of an option with the layer's constants."""
    source = layout_of(node.inputs[0])
    if isinstance(source, Tiled):
        return products.call(layer_of(node, source, isa.lanes), params, isa)
    return few_rows.call(node, params, isa)


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the layer with the option that the plan chose; columns that a weight on the left multiplies become rows."""
    values = [value for value in (node.inputs[0], residual(node)) if value is not None]
    columns = few_rows.on_the_left(node)
    inputs = [_rows(context, context.tensor(value)) if columns else context.flat(value) for value in values]
    result = context.emit(call(node, chosen(node), context.isa), inputs)
    if columns:
        *lead, outputs, count = context.shape(node.outputs[0])
        result = _transposed(context, context.bb.emit(relax.op.reshape(result, (*lead, count, outputs))))
    context.bind(node.outputs[0], result)


def _rows(context: LoweringContext, tensor: relax.Expr) -> relax.Expr:
    """The columns of matrices as rows, flat."""
    return context.bb.emit(relax.op.reshape(_transposed(context, tensor), (-1,)))


def _transposed(context: LoweringContext, tensor: relax.Expr) -> relax.Expr:
    *lead, rows, columns = range(len(tensor.ty.shape))
    return context.bb.emit(relax.op.permute_dims(tensor, [*lead, columns, rows]))
