"""The converters of TVM's ONNX importer, applied to one node at a time."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir import serde
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map, onnx_input

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import opset_of

TRUSTED = {
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "AveragePool", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Conv", "ConvTranspose", "Cos", "Cosh", "DepthToSpace",
    "Einsum", "Erf", "Exp", "Floor", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
    "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization", "Identity", "InstanceNormalization", "IsNaN",
    "LRN", "Less", "LessOrEqual", "Log", "LpPool", "MatMul", "MaxPool", "Mul", "Neg", "Not", "Or", "Reciprocal",
    "Round", "Sin", "Sinh", "Softmax", "Sqrt", "Sub", "Tan", "Where", "Xor",
}
"""Operators whose converters were held against ONNX's definition and tests; the others misread some attribute."""

CONVERTERS: dict[str, Any] = {name: converter for name, converter in _get_convert_map().items() if name in TRUSTED}


def convert(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """The outputs of a node through TVM's converter for its operator and opset.

    Raises:
        Exception: the converter refuses, with an exception of any type.

    """
    converter = CONVERTERS[node.op_type].get_converter(opset_of(node))
    inputs = onnx_input([None if value is None else context.tensor(value) for value in node.inputs])
    result = context.bb.normalize(converter(context.bb, inputs, _attributes(node), [{}, {}]))
    if isinstance(result, relax.Tuple):
        return list(result.fields)
    if isinstance(result.ty, relax.TupleType):
        var = context.bb.emit(result)
        return [relax.TupleGetItem(var, index) for index in range(len(result.ty.fields))]
    return [result]


def _attributes(node: ir.Node) -> dict[str, Any]:
    """The importer's view of a node's attributes."""
    importer = ONNXGraphImporter({}, {})
    attributes: dict[str, Any] = importer._parse_attr(serde.serialize_node(node).attribute)  # noqa: SLF001 - the importer offers no public way to convert one node
    attributes["tvm_custom"] = {"name": node.name, "num_outputs": len(node.outputs)}
    return attributes
