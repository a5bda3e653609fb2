"""Operators that select, order or place elements by their values or positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import (
    Indices,
    Operand,
    Operator,
    choose,
    clamp,
    compute,
    item,
    operand,
    opset_of,
    pick_axis,
)
from sparsec.kernels.emit.extremum import is_nan
from sparsec.kernels.emit.tir import Expr
from sparsec.kernels.tensors import SelectParams, SortParams

op = relax.op


def top_k(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """TopK; k is in the output's shape."""
    dims, shape = context.shape(node.inputs[0]), context.shape(node.outputs[0])
    axis = node.attributes.get_int("axis", -1) % len(dims)
    last = [i for i in range(len(dims)) if i != axis] + [axis]
    x, dtype = context.tensor(node.inputs[0]), context.dtype(node.inputs[0])
    rows = op.permute_dims(x, last) if axis != len(dims) - 1 else x
    params = SortParams(math.prod(dims) // dims[axis], dims[axis], shape[axis],
                        descending=bool(node.attributes.get_int("largest", 1)), dtype=dtype)
    flat = context.bb.emit(op.reshape(context.bb.emit(rows), (math.prod(dims),)))
    positions = context.run(params, [flat], params.rows * params.taken, dtype="int64")
    positions = context.bb.emit(op.reshape(positions, tuple(shape[i] for i in last)))
    if axis != len(dims) - 1:
        positions = context.bb.emit(op.permute_dims(positions, [last.index(i) for i in range(len(dims))]))
    return [op.gather_elements(x, positions, axis), positions]


def arg_extremum(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """ArgMax and ArgMin: the first, or the last, position of the extremum, or of a NaN where there is one."""
    dims = context.shape(node.inputs[0])
    axis = (node.attributes.get_int("axis", 0) or 0) % len(dims)
    last = bool(node.attributes.get_int("select_last_index", 0))
    positions = _positions_of_extremum(context, node, axis, smallest=node.op_type == "ArgMin", last=last)
    return [op.reshape(positions, context.shape(node.outputs[0]))]


def _positions_of_extremum(context: LoweringContext, node: ir.Node, axis: int, *, smallest: bool = False,
                           last: bool = False) -> relax.Expr:
    """Positions along an axis, which they keep with length 1."""
    x, dims = context.tensor(node.inputs[0]), context.shape(node.inputs[0])
    extreme = context.bb.emit((op.min if smallest else op.max)(x, axis, keepdims=True))
    along = te.reduce_axis((0, dims[axis]), name="along")
    beyond = tirx.const(-1 if last else dims[axis], "int64")

    def element(i: Indices, x: Operand, extreme: Operand) -> Expr:
        value = x[(*i[:axis], along.var, *i[axis + 1:])]
        found = value == extreme[i]
        if "float" in context.dtype(node.inputs[0]):
            found = tirx.any(found, is_nan(value))
        return (te.max if last else te.min)(tirx.Select(found, along.var.astype("int64"), beyond), axis=along)

    shape = (*dims[:axis], 1, *dims[axis + 1:])
    return compute(context, "position_of_extremum", shape, element, x, extreme)


def hardmax(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Hardmax: 1 at the first position of the maximum; before opset 13 all axes from the given one on count as one."""
    dims, dtype, newer = context.shape(node.inputs[0]), context.dtype(node.inputs[0]), opset_of(node) >= 13
    axis = node.attributes.get_int("axis", -1 if newer else 1) or 0
    axis += len(dims) if axis < 0 else 0
    outer, length = math.prod(dims[:axis]), math.prod(dims[axis:] if not newer else dims[axis:axis + 1])
    shape = (outer, length, math.prod(dims) // max(outer * length, 1))
    kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    flat = ir.Value(name="flattened", shape=ir.Shape(shape), type=kind)
    context.bind(flat, context.bb.emit(op.reshape(context.tensor(node.inputs[0]), shape)))
    positions = _positions_of_extremum(context, ir.node("Hardmax", [flat]), 1)
    one, zero = tirx.const(1, dtype), tirx.const(0, dtype)
    hot = compute(context, "hardmax", shape, lambda i, p: tirx.Select(
        p[i[0], 0, i[2]] == i[1].astype("int64"), one, zero), positions)
    return [op.reshape(hot, dims)]


def reverse_sequence(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """ReverseSequence: the first elements of every sequence, as many as its length says, in reverse."""
    time, batch = node.attributes.get_int("time_axis", 0), node.attributes.get_int("batch_axis", 1)

    def element(i: Indices, x: Operand, lengths: Operand) -> Expr:
        length = lengths[i[batch]]
        index = list(i)
        index[time] = clamp(choose(i[time] < length, length - 1 - i[time], i[time]), 0, x.shape[time] - 1)
        return x[tuple(index)]

    x, lengths = (context.tensor(value) for value in node.inputs)
    return [compute(context, "reverse_sequence", context.shape(node.outputs[0]), element, x, lengths)]


def trilu(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Trilu: the triangle above (or below) the k-th diagonal."""
    k = operand(context, node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else 0
    upper = node.attributes.get_int("upper", 1)

    def element(i: Indices, x: Operand, k: Expr) -> Expr:
        diagonal = i[-2] + item(k, "int64")
        return tirx.if_then_else(i[-1] >= diagonal if upper else i[-1] <= diagonal, x[i], tirx.const(0, x.dtype))

    return [compute(context, "trilu", context.shape(node.outputs[0]), element, context.tensor(node.inputs[0]), k)]


def one_hot(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """OneHot; the depth is in the output's shape. Negative indices count from the end, others beyond it are off."""
    shape, dtype = context.shape(node.outputs[0]), context.dtype(node.outputs[0])
    axis = node.attributes.get_int("axis", -1) % len(shape)

    def element(i: Indices, indices: Operand, values: Operand) -> Expr:
        index = indices[(*i[:axis], *i[axis + 1:])].astype("int64")
        hit = tirx.any(index == i[axis], index + shape[axis] == i[axis])
        off, on = (item(values[k], dtype) for k in (0, 1))
        return tirx.if_then_else(hit, on, off)

    return [compute(context, "one_hot", shape, element, context.tensor(node.inputs[0]),
                    operand(context, node.inputs[2]))]


def eye_like(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """EyeLike: ones on the k-th diagonal, whatever the input holds."""
    rows, columns = context.shape(node.outputs[0])
    eye = np.eye(rows, columns, node.attributes.get_int("k", 0) or 0)
    return [relax.const(eye, context.dtype(node.outputs[0]))]


def _positions(context: LoweringContext, mask: relax.Expr, length: int, count: int) -> relax.Expr:
    """Where the first `count` true elements of a flat mask of `length` elements lie."""
    return context.run(SelectParams(length, count), [op.astype(mask, "uint8")], count, dtype="int64")


def compress(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Compress: the slices whose condition holds; how many there are is in the output's shape."""
    x, shape = context.tensor(node.inputs[0]), context.shape(node.outputs[0])
    length = context.shape(node.inputs[1])[0]
    if "axis" not in node.attributes:
        flat = op.reshape(x, (math.prod(context.shape(node.inputs[0])),))
        return [op.take(flat, _positions(context, context.flat(node.inputs[1]), length, shape[0]), axis=0, mode="clip")]
    axis = node.attributes.get_int("axis", 0) % len(shape)
    return [op.take(x, _positions(context, context.flat(node.inputs[1]), length, shape[axis]), axis=axis, mode="clip")]


def non_zero(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """NonZero: a row of coordinates for each axis; how many elements there are is in the output's shape."""
    dims, count = context.shape(node.inputs[0]), context.shape(node.outputs[0])[1]
    x, dtype = context.flat(node.inputs[0]), context.dtype(node.inputs[0])
    mask = x if dtype == "bool" else op.not_equal(x, relax.const(0, dtype))
    positions = _positions(context, mask, math.prod(dims), count)
    return [compute(context, "coordinates", (len(dims), count), lambda i, flat: _coordinate(flat[i[1]], i[0], dims),
                    positions)]


def _coordinate(position: Expr, axis: Expr, dims: tuple[int, ...]) -> Expr:
    """One coordinate of a flat position, by an axis that varies."""
    result: Any = tirx.const(0, "int64")
    for known in range(len(dims)):
        step = math.prod(dims[known + 1:])
        coordinate = tirx.floormod(tirx.floordiv(position, step), dims[known])
        result = tirx.if_then_else(axis == known, coordinate, result)
    return result


def cumulate(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """CumSum and CumProd along an axis that may arrive at run time."""
    dims, dtype = context.shape(node.inputs[0]), context.dtype(node.inputs[0])
    exclusive, reverse = (node.attributes.get_int(name, 0) for name in ("exclusive", "reverse"))
    known = context.array(node.inputs[1])
    axes = range(len(dims)) if known is None else [int(known.reshape(())) % len(dims)]
    scan = op.cumsum if node.op_type == "CumSum" else op.cumprod

    def along(axis: int) -> relax.Expr:
        x = context.tensor(node.inputs[0])
        x = context.bb.emit(op.flip(x, axis) if reverse else x)
        y = context.bb.emit(scan(x, axis, exclusive=bool(exclusive)))
        return op.flip(y, axis) if reverse else y

    result = pick_axis(context, node.inputs[1], axes, len(dims), along)
    return [op.astype(result, dtype) if str(context.bb.normalize(result).ty.dtype) != dtype else result]


def tensor_scatter(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """TensorScatter: a cache with some positions of an axis overwritten, from an index for each batch on."""
    dims, circular = context.shape(node.inputs[0]), node.attributes.get_string("mode", "linear") == "circular"
    axis = node.attributes.get_int("axis", -2) % len(dims)
    count = context.shape(node.inputs[1])[axis]
    first = context.tensor(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None

    def element(i: Indices, cache: Operand, update: Operand, first: Operand) -> Expr:
        offset = i[axis] - (first[i[0]] if first is not None else 0)
        offset = tirx.floormod(offset, dims[axis]) if circular else offset
        inside = tirx.all(offset >= 0, offset < count)
        return tirx.if_then_else(inside, update[(*i[:axis], offset, *i[axis + 1:])], cache[i])

    return [compute(context, "tensor_scatter", dims, element, context.tensor(node.inputs[0]),
                    context.tensor(node.inputs[1]), first)]


def center_crop_pad(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """CenterCropPad: the middle of the input, or zeros around it; the sizes are in the output's shape."""
    dims, shape = context.shape(node.inputs[0]), context.shape(node.outputs[0])
    first = [(d - s) // 2 if d > s else -((s - d) // 2) for d, s in zip(dims, shape, strict=True)]

    def element(i: Indices, x: Operand) -> Expr:
        at = [index + start for index, start in zip(i, first, strict=True)]
        inside = [c for position, dim in zip(at, dims, strict=True) for c in (position >= 0, position < dim)]
        return tirx.if_then_else(tirx.all(*inside), x[tuple(at)], tirx.const(0, x.dtype))

    return [compute(context, "center_crop_pad", shape, element, context.tensor(node.inputs[0]))]


def column_to_image(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Col2Im: columns of blocks added up where they overlap; the blocks' extents may arrive at run time."""
    shape, dims = context.shape(node.outputs[0]), context.shape(node.inputs[0])
    rank = len(shape) - 2
    ones = (1,) * rank
    strides, dilations = (node.attributes.get_ints(name, ()) or ones for name in ("strides", "dilations"))
    pads = node.attributes.get_ints("pads", ()) or (0,) * 2 * rank
    tap = te.reduce_axis((0, dims[1] // shape[1]), name="tap")

    def element(i: Indices, columns: Operand, block: Operand) -> Expr:
        column, step, rest, valid = 0, 1, tap.var, []
        for axis in reversed(range(rank)):
            extent = choose(block[axis] < 1, 1, block[axis])
            span = dilations[axis] * (extent - 1) + 1
            count = (shape[2 + axis] + pads[axis] + pads[rank + axis] - span) // strides[axis] + 1
            distance = i[2 + axis] + pads[axis] - rest % extent * dilations[axis]
            position = distance // strides[axis]
            valid += [distance % strides[axis] == 0, position >= 0, position < count]
            column, step, rest = column + position * step, step * count, rest // extent
        valid += [column >= 0, column < dims[2]]
        row = i[1] * (dims[1] // shape[1]) + tap.var
        inside = tirx.if_then_else(tirx.all(*valid), columns[(i[0], row, column)], tirx.const(0, columns.dtype))
        return te.sum(inside, axis=[tap])

    return [compute(context, "column_to_image", shape, element, context.tensor(node.inputs[0]),
                    operand(context, node.inputs[2]))]


OPERATORS: dict[str, Operator] = {
    "ArgMax": arg_extremum,
    "ArgMin": arg_extremum,
    "CenterCropPad": center_crop_pad,
    "Col2Im": column_to_image,
    "Compress": compress,
    "CumProd": cumulate,
    "CumSum": cumulate,
    "EyeLike": eye_like,
    "Hardmax": hardmax,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "TensorScatter": tensor_scatter,
    "TopK": top_k,
    "Trilu": trilu,
}
