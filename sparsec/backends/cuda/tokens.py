"""Products of activations, sums in float32."""

from __future__ import annotations

import onnx_ir as ir
from tvm import relax

from sparsec.backends.cuda.context import CudaContext

op = relax.op


def lower_product(context: CudaContext, node: ir.Node) -> bool:
    """MatMul of activations that are stored in half precision."""
    if any(value not in context.narrow for value in node.inputs):
        return False
    a, b = (context.stored(value, context.shape(value)) for value in node.inputs)
    context.bind(node.outputs[0], context.bb.emit(op.matmul(a, b, out_dtype="float32")))
    return True
