"""Computing at compile time what depends on constants and shapes only."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir import serde

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import has_subgraph, opset_of
from sparsec.graph.nodes import RANDOM
from sparsec.graph.shapes import static_shape

LARGEST = 65536  # elements of an input that the reference evaluator, which may loop in Python, is given


def evaluate(context: LoweringContext, node: ir.Node) -> list[np.ndarray] | None:
    """The node's outputs if they follow from constants and static shapes alone, else None."""
    if node.op_type in ("Shape", "Size") and node.inputs[0] is not None:
        arrays = [np.broadcast_to(np.float32(0), context.shape(node.inputs[0]))]
    else:
        known = [context.array(value) for value in node.inputs if value is not None]
        arrays = [array for array in known if array is not None and array.size <= LARGEST]
        if len(arrays) < len(known) or node.op_type in RANDOM or has_subgraph(node):
            return None
    if any(math.prod(static_shape(value) or ()) > LARGEST for value in node.outputs):
        return None
    names = [str(value.name) for value in node.inputs if value is not None]
    graph = onnx.helper.make_graph(
        [serde.serialize_node(node)], "node",
        [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
         for name, array in dict(zip(names, arrays, strict=True)).items()],
        [onnx.ValueInfoProto(name=value.name) for value in node.outputs if value.name])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, opset_of(node))])
    try:
        results = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    except Exception:  # noqa: BLE001 - the evaluator fails with any type; such a node is computed at run time
        return None
    return [np.asarray(result) for result in results]
