"""Lowering of sparsec::MatMul: a row of the product for every token."""

from __future__ import annotations

import math

import onnx_ir as ir
from tvm import relax

from sparsec.backends.cuda import coded
from sparsec.backends.cuda.context import CudaContext, is_only_output
from sparsec.backends.cuda.products import emit
from sparsec.backends.relax.weights import bias_vector, epilogue_of, residual
from sparsec.graph.nodes import on_the_left, operand, weight_array, weight_facts
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cuda.family import GpuProduct


def layer_of(node: ir.Node) -> GpuProduct:
    """The linear layer as a product."""
    weight = weight_array(node)
    columns = math.prod(static_shape(node.outputs[0]) or ()) // weight.shape[0]
    out = "float32" if is_only_output(node.outputs[0]) else ""
    return GpuProduct(weight, bias_vector(node), columns, epilogue_of(node), out=out, given=coded.given(node),
                      ranges=coded.ranges(node), written=coded.is_written(node), sides=on_the_left(node),
                      facts=weight_facts(node))


def lower(context: CudaContext, node: ir.Node) -> bool:
    """Emit the layer with the option that the plan chose."""
    left, extra, shape = on_the_left(node), residual(node), context.shape(node.outputs[0])
    inputs = [_read(context, node)] + ([] if extra is None else [_rows(context, extra, left=left)])
    result = emit(context, node, layer_of(node), inputs)
    if coded.bind(context, node, context.reshaped(result, shape), image=False):
        return True
    if left:
        *lead, outputs, count = shape
        result = context.transposed(context.reshaped(result, (*lead, count, outputs)))
    context.bind(node.outputs[0], context.reshaped(result, shape))
    return True


def _read(context: CudaContext, node: ir.Node) -> relax.Expr:
    """The layer's activations as flat rows, codes where its kernel reads such."""
    if coded.read(node) is None:
        return _rows(context, operand(node, 0), left=on_the_left(node))
    codes = coded.place(context, node, image=False)
    return context.reshaped(codes, (math.prod(context.shape(node.inputs[0])),))


def _rows(context: CudaContext, value: ir.Value, *, left: bool) -> relax.Expr:
    """Activations as flat rows of features."""
    expr = context.stored(value, context.shape(value))
    return context.reshaped(context.transposed(expr) if left else expr, (math.prod(context.shape(value)),))
