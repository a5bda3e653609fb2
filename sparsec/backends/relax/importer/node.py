"""What lowering needs to know of one node: its opset, and the static types of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import serde
from tvm import relax, te, tirx

from sparsec.backends.relax.context import EMBEDDED, LoweringContext
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.nodes import optional
from sparsec.graph.shapes import static_shape
from sparsec.kernels.emit.tir import Expr
from sparsec.machine.memory import carrier

Operator = Callable[[LoweringContext, ir.Node], list[relax.Expr] | None]
"""An implementation: the outputs of a node in order, flat or of their ONNX shapes; None if it is not for this node."""

Indices: TypeAlias = tuple[Expr, ...]
"""The place of an element that TE computes."""
Operand: TypeAlias = te.Tensor
"""A tensor of TE; or, where contents are known at compile time, nested lists, which are indexed alike, or a number."""


def opset_of(node: ir.Node) -> int:
    """The opset the node is written in."""
    return node.version if node.version is not None else imports_of(node).get(node.domain, 1)


def imports_of(node: ir.Node) -> Mapping[str, int]:
    """The opsets of the graph that a node belongs to, by domain."""
    return {} if node.graph is None else node.graph.opset_imports


def static_type(expr: relax.Expr) -> tuple[str, tuple[int, ...]] | None:
    """The element type and shape Relax has inferred for a tensor, None unless it is static."""
    if not isinstance(expr.ty, relax.TensorType) or not isinstance(expr.ty.shape, relax.ShapeExpr):
        return None
    dims = tuple(expr.ty.shape)
    if not all(isinstance(dim, tirx.IntImm) for dim in dims):
        return None
    return str(expr.ty.dtype), tuple(int(dim) for dim in dims)


def infer_outputs(context: LoweringContext, node: ir.Node) -> None:
    """Fill in the types and shapes of the outputs that the model leaves open, where ONNX can infer them.

    Raises:
        UnsupportedOperatorError: ONNX finds the node invalid.

    """
    if has_subgraph(node) or all(value.dtype and static_shape(value) is not None for value in node.outputs):
        return
    schema = onnx.defs.get_schema(node.op_type, opset_of(node), node.domain)
    imports = [onnx.helper.make_opsetid(node.domain, opset_of(node))]
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, serde.serialize_node(node), input_types(context, node), _input_data(context, node),
            opset_imports=imports)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise UnsupportedOperatorError(f"shape inference: {' '.join(str(error).split())}") from error
    for value in node.outputs:
        if value.name in found:
            value.type = serde.deserialize_type_proto_for_type(found[value.name])
            value.shape = static_shape_or(value.shape, serde.deserialize_type_proto_for_shape(found[value.name]))


def static_shape_or(shape: ir.Shape | None, inferred: ir.Shape | None) -> ir.Shape | None:
    """The model's shape where it is static, else the inferred one."""
    return shape if shape is not None and shape.is_static() else inferred


def bind_typed(context: LoweringContext, value: ir.Value, expr: relax.Expr) -> None:
    """Bind a value to an expression, whose static type completes and must agree with what is known of the value's.

    Raises:
        UnsupportedOperatorError: it does not agree, or is not static.

    """
    found = static_type(expr)
    if found is not None and (value.dtype is None or static_shape(value) is None):
        value.type = value.type or ir.TensorType(ir.DataType.from_numpy(np.dtype(found[0])))
        value.shape = ir.Shape(found[1]) if static_shape(value) is None else value.shape
    dtype, shape = carrier(context.dtype(value)), context.shape(value)
    if found not in ((dtype, shape), (dtype, (math.prod(shape),))):
        raise UnsupportedOperatorError(f"'{value.name}' would be {expr.ty}, the model says {dtype} {shape}")
    context.bind(value, expr if isinstance(expr, relax.Var) else context.bb.emit(expr))


def has_subgraph(node: ir.Node) -> bool:
    """Whether an attribute holds a subgraph, which may read values of the outer graph."""
    return any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
               for attribute in node.attributes.values())


def input_types(context: LoweringContext, node: ir.Node) -> dict[str, onnx.TypeProto]:
    """The static types of the inputs, by name."""
    return {str(value.name): onnx.helper.make_tensor_type_proto(
                onnx.helper.np_dtype_to_tensor_dtype(value.dtype.numpy()), context.shape(value))
            for value in node.inputs if value is not None and value.dtype is not None}


def _input_data(context: LoweringContext, node: ir.Node) -> dict[str, onnx.TensorProto]:
    """The contents of the inputs that shape inference may read: small constants."""
    arrays = {str(value.name): context.array(value) for value in node.inputs if value is not None}
    return {name: onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()
            if array is not None and array.size <= EMBEDDED}


def are_float(context: LoweringContext, *values: ir.Value | None) -> bool:
    """Whether the values that are there are float32 and not empty, as kernels take them."""
    return all(context.dtype(value) == "float32" and 0 not in context.shape(value)
               for value in values if value is not None)


def takes(context: LoweringContext, kernel: type, *values: ir.Value | None) -> bool:
    """Whether the backend has a kernel, by the class of its parameters, and that can take these values."""
    return kernel in context.kernels and are_float(context, *values)


HALVES = ("float16",)


def widened(context: LoweringContext, value: ir.Value | None) -> relax.Expr:
    """The value in the type that it is summed in: halves in float32, which has room for their sums."""
    x = context.tensor(value)
    return context.bb.emit(relax.op.astype(x, "float32")) if context.dtype(value) in HALVES else x


def narrowed(expr: relax.Expr, dtype: str) -> relax.Expr:
    """A result in the element type that the model has for it."""
    return expr if str(expr.ty.dtype) == dtype else relax.op.astype(expr, dtype)


def operand(context: LoweringContext, value: ir.Value | None) -> Expr:
    """An input for `compute`: nested lists if known at compile time, else an expression; None if absent."""
    if value is None:
        return None
    array = context.array(value)
    return context.tensor(value) if array is None else array.tolist()


def compute(context: LoweringContext, name: str, shape: Sequence[int], element: Callable[..., Expr],
            *operands: Expr) -> relax.Expr:
    """A tensor computed element by element: `element(indices, *operands)`.

    An operand that is a Relax expression reaches `element` as a TE tensor, anything else as it is.
    """
    tensors = [operand for operand in operands if isinstance(operand, relax.Expr)]

    def build(*arguments: te.Tensor) -> te.Tensor:
        given = iter(arguments)
        values = [next(given) if isinstance(operand, relax.Expr) else operand for operand in operands]
        dims = [tirx.IntImm("int64", dim) for dim in shape]
        return te.compute(dims, lambda *indices: element(indices, *values), name=name)

    return context.bb.emit_te(build, *tensors, primfunc_name_hint=name)


def choose(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
    """`then` where the condition holds; decided now if it is a Python bool."""
    if isinstance(condition, bool):
        return then if condition else otherwise
    return tirx.if_then_else(condition, then, otherwise)


def clamp(value: Expr, low: Expr, high: Expr) -> Expr:
    """The value, raised to `low`, then cut off at `high`."""
    return choose(value < low, low, choose(value > high, high, value))


def item(value: Operand, dtype: str) -> Expr:
    """The only element of an operand, as an expression of an element type."""
    if isinstance(value, te.Tensor):
        value = value[tuple([0] * value.ndim)] if value.ndim else value()
    while isinstance(value, list):
        (value,) = value
    return tirx.const(value, dtype) if isinstance(value, bool | int | float) else value.astype(dtype)


def input_axes(context: LoweringContext, node: ir.Node, index: int = 1) -> list[int] | None:
    """The axes an operator is given as an attribute or an input; empty if absent, None if they arrive at run time."""
    if "axes" in node.attributes:
        return list(node.attributes.get_ints("axes") or ())
    value = optional(node, index)
    if value is None or context.shape(value) == (0,):
        return []
    array = context.array(value)
    return None if array is None else [int(axis) for axis in array.reshape(-1)]


def slice_at(context: LoweringContext, expr: relax.Expr, index: int, axis: int = 0) -> relax.Expr:
    """One slice of a tensor along an axis, which it loses."""
    taken = relax.op.take(expr, relax.const(index, "int64"), axis, mode="clip")  # the other modes print warnings
    return context.bb.emit(taken)


def pick_axis(context: LoweringContext, value: ir.Value | None, axes: Sequence[int], rank: int,
              along: Callable[[int], relax.Expr]) -> relax.Expr:
    """`along(axis)` for the only axis there is, or for the one of several that a value names at run time."""
    if not axes:
        raise UnsupportedOperatorError("no axis leads to the output's shape")
    result = along(axes[0])
    for axis in axes[1:]:
        named = relax.op.reshape(context.tensor(value), ())
        hits = [relax.op.equal(named, relax.const(name, context.dtype(value))) for name in (axis, axis - rank)]
        result = relax.op.where(relax.op.logical_or(*hits), along(axis), result)
    return result
