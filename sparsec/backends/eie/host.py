"""What the accelerator does not have runs on the host, in onnxruntime, node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.operators import DOMAIN, REFERENCES
from sparsec.graph.reader import IR_VERSION

MOVES = frozenset({"Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze",
                   "Transpose", "Unsqueeze"})
"""Operators that only move data."""


def run(node: ir.Node, inputs: list[NDArray[Any] | None], opsets: dict[str, int]) -> list[NDArray[Any]]:
    """The outputs of one node.

    Raises:
        UnsupportedOperatorError: onnxruntime cannot run it.

    """
    import onnxruntime

    proto = ir.to_proto(node)
    feeds = {name: x for name, x in zip(proto.input, inputs, strict=True) if x is not None}
    sources = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
               for name, x in feeds.items()]
    results = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    model = helper.make_model(helper.make_graph([proto], "host", sources, results), ir_version=IR_VERSION,
                              opset_imports=[helper.make_opsetid(*opset) for opset in opsets.items()])
    if node.domain == DOMAIN:
        return list(ReferenceEvaluator(model, new_ops=REFERENCES).run(None, feeds))
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return list(session.run(None, feeds))
    except Exception as error:  # onnxruntime's errors have no public base
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedOperatorError(f"node '{node.name}' ({node.op_type}) runs neither on the accelerator nor in "
                                       f"onnxruntime: {reason}") from error


def flops(node: ir.Node, inputs: list[NDArray[Any] | None], outputs: list[NDArray[Any]]) -> int:
    """Floating-point operations of a node: two a multiply-add, one a pooled or an elementwise result, none a move."""
    if node.op_type in MOVES:
        return 0
    size = sum(int(y.size) for y in outputs if np.issubdtype(y.dtype, np.floating))
    if node.op_type == "MatMul" and inputs[0] is not None:
        return 2 * size * int(inputs[0].shape[-1])
    if node.op_type == "Attention" and inputs[1] is not None:
        return 4 * size * int(inputs[1].shape[-2])
    if node.op_type.startswith("Global") and inputs[0] is not None:
        return int(inputs[0].size)
    return size * int(np.prod(node.attributes.get_ints("kernel_shape", [1])))
