"""Lower one ONNX node through the converters of TVM's ONNX importer."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import tvm
from onnx_ir import serde
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map, onnx_input

from sparsec.backends.cpu.context import LoweringContext
from sparsec.errors import UnsupportedOperatorError

EMBEDDED = 1024  # elements up to which a constant is compiled in, where converters can read it


def convert(context: LoweringContext, node: ir.Node) -> None:
    """Bind the outputs of an ONNX node whose values are all in plain layout.

    Raises:
        UnsupportedOperatorError: no converter, the converter refuses, or it disagrees with the model on shape or dtype.

    """
    converters = _get_convert_map()
    if node.op_type not in converters:
        raise UnsupportedOperatorError("no implementation of this operator")
    converter = converters[node.op_type].get_converter(_opset(node))
    try:
        result = context.bb.normalize(converter(context.bb, _inputs(context, node), _attributes(node), [{}, {}]))
    except UnsupportedOperatorError:
        raise
    except Exception as error:  # the importer reports what it cannot do with any type of exception
        raise UnsupportedOperatorError(_first_line(error)) from error
    for value, expr in zip(node.outputs, _results(context, result), strict=False):
        _bind(context, value, expr)


def _opset(node: ir.Node) -> int:
    """The opset the node is written in."""
    if node.version is not None:
        return node.version
    return 1 if node.graph is None else node.graph.opset_imports[node.domain]


def _inputs(context: LoweringContext, node: ir.Node) -> onnx_input:
    """The importer's view of the inputs: small constants embedded, None for an absent optional one."""
    inputs = onnx_input()
    for value in node.inputs:
        array = None if value is None else context.array(value)
        if value is None:
            inputs.append(None)
        elif array is not None and array.size <= EMBEDDED:
            inputs.append(relax.const(array, array.dtype.name))
        else:
            inputs.append(context.tensor(value))
    return inputs


def _attributes(node: ir.Node) -> dict[str, Any]:
    """The importer's view of the attributes."""
    attributes: dict[str, Any] = ONNXGraphImporter({}, {})._parse_attr(serde.serialize_node(node).attribute)  # noqa: SLF001 - the importer offers no public way to convert one node
    attributes["tvm_custom"] = {"name": node.name, "num_outputs": len(node.outputs)}
    return attributes


def _results(context: LoweringContext, result: relax.Expr) -> list[relax.Expr]:
    """The node's outputs out of a tensor, a tuple or a variable bound to a tuple."""
    if isinstance(result, relax.Tuple):
        return list(result.fields)
    if isinstance(result.ty, relax.TupleType):
        var = context.bb.emit(result)
        return [relax.TupleGetItem(var, index) for index in range(len(result.ty.fields))]
    return [result]


def _bind(context: LoweringContext, value: ir.Value, expr: relax.Expr) -> None:
    """Bind an output after holding the importer's shape and dtype against the model's."""
    shape, dtype = context.shape(value), value.dtype
    found = static_shape(expr)
    if found != shape:
        raise UnsupportedOperatorError(f"the importer gives '{value.name}' the shape {found}, the model {shape}")
    if dtype is not None and str(expr.ty.dtype) != dtype.numpy().name:
        raise UnsupportedOperatorError(f"the importer gives '{value.name}' {expr.ty.dtype}, the model {dtype}")
    context.bind(value, expr if isinstance(expr, relax.Var) else context.bb.emit(expr))


def static_shape(expr: relax.Expr) -> tuple[int, ...] | None:
    """The shape Relax has inferred for a tensor, None unless it is static."""
    if not isinstance(expr.ty, relax.TensorType) or not isinstance(expr.ty.shape, relax.ShapeExpr):
        return None
    dims = tuple(expr.ty.shape)
    return tuple(int(dim) for dim in dims) if all(isinstance(dim, tvm.tirx.IntImm) for dim in dims) else None


def _first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
