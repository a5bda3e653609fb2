"""Layer norm and products of activations, sums in float32."""

from __future__ import annotations

import math

import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.cuda.context import CudaContext
from sparsec.kernels.emit.tir import Expr

op = relax.op


def lower_layer_norm(context: CudaContext, node: ir.Node) -> bool:
    """LayerNormalization without its statistics as outputs."""
    dims = context.shape(node.inputs[0])
    features = math.prod(dims[node.attributes.get_int("axis", -1) % len(dims):])
    parameters = [value for value in node.inputs[1:] if value is not None]
    if context.dtype(node.inputs[0]) != "float32" or any(output.name for output in node.outputs[1:]) or any(
            math.prod(context.shape(value)) != features for value in parameters):
        return False
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    stored = context.half if node.inputs[0] in context.narrow else "float32"

    def build(x: te.Tensor, scale: te.Tensor, *bias: te.Tensor) -> te.Tensor:
        rows = x.shape[0]
        total, squares = (te.reduce_axis((0, features), name=name) for name in ("total", "squares"))
        mean = te.compute((rows,), lambda i: te.sum(x[i, total].astype("float32"), axis=total), name="mean")

        def centred(i: Expr, j: Expr) -> Expr:
            return x[i, j].astype("float32") - mean[i] / features

        variance = te.compute((rows,), lambda i: te.sum(centred(i, squares) * centred(i, squares), axis=squares),
                              name="variance")

        def element(i: Expr, j: Expr) -> Expr:
            y = centred(i, j) * tirx.rsqrt(variance[i] / features + epsilon) * scale[j]
            return (y + bias[0][j] if bias else y).astype(stored)

        return te.compute(x.shape, element, name="layer_norm")

    shape = math.prod(dims) // features, features
    x = (context.stored(node.inputs[0], shape) if stored == context.half
         else context.reshaped(context.tensor(node.inputs[0]), shape))
    arguments = [context.reshaped(context.tensor(value), (features,)) for value in parameters]
    y = context.bb.emit_te(build, x, *arguments, primfunc_name_hint="layer_norm")
    context.bind(node.outputs[0], context.reshaped(y, dims))
    return True


def lower_product(context: CudaContext, node: ir.Node) -> bool:
    """MatMul of activations that are stored in half precision."""
    if any(value not in context.narrow for value in node.inputs):
        return False
    a, b = (context.stored(value, context.shape(value)) for value in node.inputs)
    context.bind(node.outputs[0], context.bb.emit(op.matmul(a, b, out_dtype="float32")))
    return True
