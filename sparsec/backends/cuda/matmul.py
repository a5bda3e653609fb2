"""Lowering of sparsec::MatMul: a row of the product for every token."""

from __future__ import annotations

import math

import onnx_ir as ir
from tvm import relax

from sparsec.backends.cuda.context import CudaContext, is_only_output
from sparsec.backends.cuda.products import emit
from sparsec.backends.relax.weights import bias_vector, chosen, epilogue_of, residual
from sparsec.graph.nodes import on_the_left, weight_array
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cuda.family import GpuProduct


def layer_of(node: ir.Node) -> GpuProduct:
    """The linear layer as a product."""
    weight = weight_array(node)
    columns = math.prod(static_shape(node.outputs[0]) or ()) // weight.shape[0]
    out = "float32" if is_only_output(node.outputs[0]) else ""
    return GpuProduct(weight, bias_vector(node), columns, epilogue_of(node), out=out)


def lower(context: CudaContext, node: ir.Node) -> bool:
    """Emit the layer with the option that the plan chose."""
    left, extra = on_the_left(node), residual(node)
    inputs = [_rows(context, value, left=left) for value in (node.inputs[0], extra) if value is not None]
    result = emit(context, layer_of(node), chosen(node), inputs)
    shape = context.shape(node.outputs[0])
    if left:
        *lead, outputs, count = shape
        result = context.transposed(context.reshaped(result, (*lead, count, outputs)))
    context.bind(node.outputs[0], context.reshaped(result, shape))
    return True


def _rows(context: CudaContext, value: ir.Value, *, left: bool) -> relax.Expr:
    """Activations as flat rows of features."""
    expr = context.stored(value, context.shape(value))
    return context.reshaped(context.transposed(expr) if left else expr, (math.prod(context.shape(value)),))
