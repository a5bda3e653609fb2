"""ONNX's operators that quantise, dequantise and multiply integers, by the operators on floats that define them.

Types of fewer than 8 bits and 8-bit floats lie as bytes (see `machine.memory.carrier`): a table of 256 numbers says
what each stands for, and thresholds between these say what a number becomes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.integers import Body
from sparsec.backends.relax.importer.node import Operator, compute
from sparsec.graph.nodes import optional
from sparsec.kernels.tensors import CodesParams, FlatRangeParams
from sparsec.machine.memory import element_type

BYTES = np.arange(256, dtype=np.uint8)
WIDE = {"int8", "uint8", "int16", "uint16", "int32"}
"""Codes that programs hold as they are."""
op = relax.op


def dequantize(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """DequantizeLinear: (codes - zero point) * scale, by tensor, axis or block."""
    if (result := _converted(context, node)) is not None:
        return [result]
    body = Body(context, node)
    x, scale, zero = (*node.inputs, None)[:3]
    values = _numbers(context, body, x)
    if zero is not None:
        values = body.put("Sub", values, _broadcast(context, body, node, _numbers(context, body, zero)))
    return [context.tensor(body.put("Mul", values, _broadcast(context, body, node, _floats(body, scale))))]


def quantize(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """QuantizeLinear: rounded half to even, by tensor, axis or block; saturated, but for floats that may overflow."""
    if (result := _converted(context, node)) is not None:
        return [result]
    body = Body(context, node)
    x, scale, zero = (*node.inputs, None)[:3]
    dtype = context.dtype(node.outputs[0])
    units = body.put("Div", _floats(body, x), _broadcast(context, body, node, _floats(body, scale)))
    if dtype.startswith("float"):
        return [_to_byte(context, node, units, element_type(dtype))]
    units = body.put("Round", units)
    if zero is not None:
        units = body.put("Add", units, _broadcast(context, body, node, _numbers(context, body, zero)))
    bits = 16 if dtype.endswith("16") else int(dtype.removeprefix("u").removeprefix("int"))
    low, high = (0, (1 << bits) - 1) if dtype.startswith("u") else (-(1 << bits - 1), (1 << bits - 1) - 1)
    codes = body.put("Clip", units, body.constant(low), body.constant(high))
    if dtype in WIDE:
        return [context.tensor(body.cast(codes, dtype))]
    lowest = op.bitwise_and(op.astype(context.tensor(body.cast(codes, "int32")), "int32"),
                            relax.const((1 << bits) - 1, "int32"))
    return [op.astype(context.bb.emit(lowest), "uint8")]


def _converted(context: LoweringContext, node: ir.Node) -> relax.Expr | None:
    """The result of a kernel for bytes of one scale, where the backend has one and it is needed at run time."""
    x, scale, zero = (*node.inputs, None)[:3]
    back, shape = node.op_type == "DequantizeLinear", context.shape(node.outputs[0])
    kinds = [context.dtype(value) for value in (x, node.outputs[0])]
    codes, numbers = kinds if back else reversed(kinds)
    single = all(value is None or math.prod(context.shape(value)) == 1 for value in (scale, zero))
    fine = single and codes in ("uint8", "int8") and numbers == context.dtype(scale) == "float32" and 0 not in shape
    if CodesParams not in context.kernels or not fine or context.array(x) is not None:
        return None
    arguments = [context.flat(scale), _offset(context, zero), context.flat(x)]
    y = context.run(CodesParams(math.prod(shape), codes, back), arguments, math.prod(shape),
                    dtype=context.dtype(node.outputs[0]))
    return context.bb.normalize(op.reshape(y, shape))


def _offset(context: LoweringContext, zero: ir.Value | None) -> relax.Expr:
    """A zero point as float32 (1,)."""
    known = np.zeros(1) if zero is None else context.array(zero)
    if known is not None or zero is None:
        return context.constant(np.asarray(known, np.float32).reshape(1))
    return context.bb.emit(op.astype(context.flat(zero), "float32"))


def _floats(body: Body, value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value if value.dtype == ir.DataType.FLOAT else body.cast(value, "float32")


def _numbers(context: LoweringContext, body: Body, codes: ir.Value | None) -> ir.Value:
    """Codes as float32."""
    assert codes is not None
    dtype, array = context.dtype(codes), context.array(codes)
    if array is not None:
        return body.constant(array.astype(np.float32))
    if dtype in WIDE:
        return body.cast(codes, "float32")
    raw = ir.Value(name=f"{codes.name}/bytes", type=ir.TensorType(ir.DataType.UINT8), shape=codes.shape)
    context.bind(raw, context.tensor(codes))
    table = body.constant(BYTES.view(element_type(dtype)).astype(np.float32))
    return body.put("Gather", table, body.cast(raw, "int32"))


def _broadcast(context: LoweringContext, body: Body, node: ir.Node, value: ir.Value) -> ir.Value:
    """Scales or zero points in a shape that broadcasts to the tensor."""
    shape, of = context.shape(node.inputs[0]), context.shape(value)
    if int(np.prod(of)) == 1:
        return body.put("Reshape", value, body.constant([1] * len(shape), "int64"))
    axis = int(node.attributes.get_int("axis", 1)) % len(shape)
    block = node.attributes.get_int("block_size", 0)
    if block:
        return body.put("Gather", value, body.constant(np.arange(shape[axis]) // block, "int64"), axis=axis)
    along = [-1 if index == axis else 1 for index in range(len(shape))]
    return body.put("Reshape", value, body.constant(along, "int64"))


def _to_byte(context: LoweringContext, node: ir.Node, units: ir.Value, dtype: np.dtype[Any]) -> relax.Expr:
    """The byte of the float of few bits that is nearest: how many thresholds a number reaches tells which."""
    numbers = BYTES.view(dtype).astype(np.float32)
    codes = BYTES[np.isfinite(numbers)]
    order = np.lexsort((codes, numbers[codes]))
    codes, values = codes[order], numbers[codes][order]
    first = np.append(True, np.diff(values) > 0)  # of -0 and 0 the first, which is 0
    codes, values = codes[first], values[first]
    middles = ((values[:-1].astype(np.float64) + values[1:]) / 2).astype(np.float32)
    odd = codes[1:] % 2 == 1
    thresholds = np.where(odd, np.nextafter(middles, np.float32(np.inf)), middles)
    overflow = BYTES[np.isnan(numbers)][:1] if np.isnan(numbers).any() else codes[-1:]
    count, last = te.reduce_axis((0, len(thresholds)), name="threshold"), values[-1]
    x = context.tensor(units)
    index = compute(context, "reached", context.shape(units), lambda i, x, at: te.sum(
        tirx.Select(x[i] >= at[count], tirx.const(1, "int32"), tirx.const(0, "int32")), axis=count), x,
        relax.const(thresholds))
    nearest = context.bb.emit(op.take(relax.const(codes), context.bb.emit(index), mode="clip"))
    lost = op.isnan(x)
    if not node.attributes.get_int("saturate", 1):
        lost = op.logical_or(lost, op.greater(op.abs(x), relax.const(float(last), "float32")))
    return op.where(lost, relax.const(overflow.reshape(())), nearest)


def dynamic(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """DynamicQuantizeLinear: uint8 codes of a range that holds 0, with its scale and zero point."""
    size = math.prod(context.shape(node.inputs[0]))
    if FlatRangeParams in context.kernels and size:
        found = context.run(FlatRangeParams(size), [context.flat(node.inputs[0])], 1, 1)
        factor, offset = (context.bb.emit(found[index]) for index in range(2))
        codes = context.run(CodesParams(size), [factor, offset, context.flat(node.inputs[0])], size, dtype="uint8")
        shapes = (context.shape(node.inputs[0]), (), ())
        return [context.bb.normalize(op.reshape(each, shape)) for each, shape in zip(
            (codes, factor, context.bb.emit(op.astype(offset, "uint8"))), shapes, strict=True)]
    body = Body(context, node)
    x, zero = node.inputs[0], body.constant(0.0)
    least = body.put("Min", body.put("ReduceMin", x, keepdims=0), zero)
    most = body.put("Max", body.put("ReduceMax", x, keepdims=0), zero)
    scale = body.put("Div", body.put("Sub", most, least), body.constant(255.0))
    safe = body.put("Where", body.put("Equal", scale, zero), body.constant(1.0), scale)
    unbounded = body.put("Div", body.put("Sub", zero, least), safe)
    middle = body.put("Round", body.put("Clip", unbounded, zero, body.constant(255.0)))
    codes = body.put("Add", body.put("Round", body.put("Div", x, safe)), middle)
    outputs = body.cast(body.put("Clip", codes, zero, body.constant(255.0)), "uint8"), scale, body.cast(middle, "uint8")
    return [context.tensor(value) for value in outputs]


def matmul(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """MatMulInteger: exact in float64."""
    body = Body(context, node)
    a, b = (_centred(context, body, node, index, along) for index, along in ((0, (-1, 1)), (1, (-1,))))
    return [context.tensor(body.cast(body.put("MatMul", a, b), "int32"))]


def conv(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """ConvInteger: exact in float64."""
    body = Body(context, node)
    rank = len(context.shape(node.inputs[0]))
    x, w = (_centred(context, body, node, index, (-1, *[1] * (rank - 1))) for index in (0, 1))
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return [context.tensor(body.cast(body.put("Conv", x, w, **attributes), "int32"))]


def _centred(context: LoweringContext, body: Body, node: ir.Node, index: int, along: tuple[int, ...]) -> ir.Value:
    """An operand less its zero points, in float64; several of these have the shape `along`."""
    codes, zero = node.inputs[index], optional(node, index + 2)
    assert codes is not None
    values = body.cast(codes, "float64")
    if zero is None:
        return values
    numbers, of = body.cast(zero, "float64"), context.shape(zero)
    if int(np.prod(of)) == 1 or len(of) == 1:
        shape = [1] if int(np.prod(of)) == 1 else list(along)
        numbers = body.put("Reshape", numbers, body.constant(shape, "int64"))
    return body.put("Sub", values, numbers)


OPERATORS: dict[str, Operator] = {
    "ConvInteger": conv, "DequantizeLinear": dequantize, "DynamicQuantizeLinear": dynamic, "MatMulInteger": matmul,
    "QuantizeLinear": quantize,
}
