"""Layer norm, attention and products of activations: one kernel for each step, sums in float32."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.cuda.context import CudaContext

op = relax.op


def lower_layer_norm(context: CudaContext, node: ir.Node) -> bool:
    """LayerNormalization without its statistics as outputs."""
    dims = context.shape(node.inputs[0])
    features = math.prod(dims[node.attributes.get_int("axis", -1) % len(dims):])
    parameters = [value for value in node.inputs[1:] if value is not None]
    if node.inputs[0] not in context.narrow or any(output.name for output in node.outputs[1:]) or any(
            math.prod(context.shape(value)) != features for value in parameters):
        return False
    epsilon, half = node.attributes.get_float("epsilon", 1e-5), context.half

    def build(x: te.Tensor, scale: te.Tensor, *bias: te.Tensor) -> te.Tensor:
        rows = x.shape[0]
        total, squares = (te.reduce_axis((0, features), name=name) for name in ("total", "squares"))
        mean = te.compute((rows,), lambda i: te.sum(x[i, total].astype("float32"), axis=total), name="mean")

        def centred(i: Any, j: Any) -> Any:
            return x[i, j].astype("float32") - mean[i] / features

        variance = te.compute((rows,), lambda i: te.sum(centred(i, squares) * centred(i, squares), axis=squares),
                              name="variance")

        def element(i: Any, j: Any) -> Any:
            y = centred(i, j) * tirx.rsqrt(variance[i] / features + epsilon) * scale[j]
            return (y + bias[0][j] if bias else y).astype(half)

        return te.compute(x.shape, element, name="layer_norm")

    x = context.stored(node.inputs[0], (math.prod(dims) // features, features))
    arguments = [context.reshaped(context.tensor(value), (features,)) for value in parameters]
    y = context.bb.emit_te(build, x, *arguments, primfunc_name_hint="layer_norm")
    context.bind(node.outputs[0], context.reshaped(y, dims))
    return True


def lower_attention(context: CudaContext, node: ir.Node) -> bool:
    """A sparsec::Attention: scores and weights in float32, both products on half-precision operands."""
    heads, scale = node.attributes.get_int("heads"), node.attributes.get_float("scale")
    q, k, v = (_heads(context, value, heads) for value in node.inputs[:3])
    scores = op.multiply(op.matmul(q, op.permute_dims(k, [0, 1, 3, 2]), out_dtype="float32"),
                         relax.const(scale, "float32"))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        scores = op.add(scores, context.tensor(node.inputs[3]))
    weights = op.astype(op.nn.softmax(scores, axis=-1), context.half)
    joined = op.permute_dims(op.matmul(weights, v, out_dtype="float32"), [0, 2, 1, 3])
    result = context.bb.emit(op.astype(joined, context.half))
    context.bind(node.outputs[0], context.reshaped(result, context.shape(node.outputs[0])))
    return True


def _heads(context: CudaContext, value: ir.Value | None, heads: int) -> relax.Expr:
    """A projection (batch, tokens, heads * width) as (batch, heads, tokens, width)."""
    batch, tokens, features = context.shape(value)
    split = context.stored(value, (batch, tokens, heads, features // heads))
    return context.bb.emit(op.permute_dims(split, [0, 2, 1, 3]))


def lower_product(context: CudaContext, node: ir.Node) -> bool:
    """MatMul of activations that are stored in half precision."""
    if any(value not in context.narrow for value in node.inputs):
        return False
    a, b = (context.stored(value, context.shape(value)) for value in node.inputs)
    context.bind(node.outputs[0], context.bb.emit(op.matmul(a, b, out_dtype="float32")))
    return True
