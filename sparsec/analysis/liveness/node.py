"""Reading nodes of a graph: operands, constants, parameters; and evaluating one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.analysis.liveness.facts import Array
from sparsec.graph import ort
from sparsec.graph.nodes import operand
from sparsec.graph.quantized import dequantized

IR_VERSION = 10  # every supported onnxruntime reads it


JOINING = {"Concat", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators by which exporters write a constant in parts, as of recurrent layers' gates."""

RECURRENT = {"GRU", "LSTM", "RNN"}
"""Operators whose weights are their second and third input."""
PARTS = ("", ".inputs", ".steps")
"""What their names end in where each weight has a line of its own, by input."""


def name(node: ir.Node) -> str:
    """How reports call a node."""
    return f"{node.op_type} '{node.name or node.outputs[0].name}'"


def evaluate(node: ir.Node, inputs: Sequence[Array | None]) -> Array | None:
    """The node's first output on these inputs, by onnxruntime; None where that has no kernel for it."""
    onnxruntime = ort.load()
    assert node.graph is not None
    feeds = {str(v.name): a for v, a in zip(node.inputs, inputs, strict=True) if v is not None and a is not None}
    typed = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
             for name, array in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=node.outputs[0].name)]
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in node.graph.opset_imports.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([ir.to_proto(node)], "node", typed, outputs),
                                   opset_imports=opsets, ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, feeds)[0])
    except Exception:  # noqa: BLE001 - its errors have no common base
        return None


def is_constant(value: ir.Value | None) -> bool:
    """An initializer that no caller of the model can override."""
    return value is not None and value.const_value is not None and value.is_initializer() and not value.is_graph_input()


def constant_of(value: ir.Value | None) -> Array | None:
    """The data of a constant, else None."""
    if value is None or value.const_value is None or not is_constant(value):
        return None
    return value.const_value.numpy()


def weight_data(value: ir.Value | None) -> Array | None:
    """The numbers of a constant, or those that constant codes in front of a DequantizeLinear stand for, else None."""
    codes = dequantized(value)
    return constant_of(value) if codes is None else codes.values()


def joined(value: ir.Value | None) -> Array | None:
    """The data of a constant, or of what operators in `JOINING` make of constants, else None."""
    node = None if value is None else value.producer()
    if node is None:
        return constant_of(value)
    if node.op_type not in JOINING or node.domain:
        return None
    inputs = [joined(each) for each in node.inputs]
    missing = any(each is not None and data is None for each, data in zip(node.inputs, inputs, strict=True))
    return None if missing else evaluate(node, inputs)


def holder(value: ir.Value) -> ir.Value:
    """The constant that holds a weight: itself, or the codes that it is dequantised from."""
    node = value.producer()
    return value if node is None or dequantized(value) is None else operand(node, 0)


def shares_weight(value: ir.Value) -> bool:
    """Whether something else reads the weight, or the codes that it is dequantised from."""
    return len(value.uses()) > 1 or len(holder(value).uses()) > 1


def parameter(node: ir.Node, name: str, index: int | None = None) -> list[int] | int | float | None:
    """An operator's parameter: the attribute `name`, or the constant at input `index` of newer opsets, else None.

    A parameter computed in the graph is None too; `is_computed` tells.
    """
    if name in node.attributes:
        value: list[int] | int | float = node.attributes[name].value
        return list(value) if isinstance(value, Sequence) else value
    if index is None or index >= len(node.inputs):
        return None
    data = constant_of(node.inputs[index])
    return None if data is None else data.tolist()


def is_computed(node: ir.Node, *indices: int) -> bool:
    """One of these inputs is present and not a constant."""
    present = (node.inputs[i] for i in indices if i < len(node.inputs))
    return any(value is not None and not is_constant(value) for value in present)
