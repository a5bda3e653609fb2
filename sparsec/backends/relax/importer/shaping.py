"""Operators that only rename, repeat or select elements: the static output shape says most of what they do.

Where shapes, axes, starts or repeats arrive at run time, the output shape that the model declares stands for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

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
    takes,
)
from sparsec.errors import UnsupportedOperatorError
from sparsec.kernels.emit.tir import Expr
from sparsec.kernels.tensors import InterleaveParams, TransposeParams


def view(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the same order."""
    x = node.inputs[0]
    return [relax.op.reshape(context.tensor(x), context.shape(node.outputs[0]))]


WOVEN = (2, 4, 8)
"""Extents of an axis that vectors are woven along, where it comes to lie behind the last."""


def transpose_(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Transpose: as a view, as a batch of matrices or woven in registers, or element by element."""
    dims = context.shape(node.inputs[0])
    axes = list(node.attributes.get_ints("perm", ()) or range(len(dims))[::-1])
    extents, order = _merge(dims, axes)
    if order == sorted(order):
        return [context.flat(node.inputs[0])]
    woven = order[-2] == len(order) - 1 and extents[-1] in WOVEN and extents[-2] >= context.isa.lanes
    if woven and takes(context, InterleaveParams, node.inputs[0]):
        params = InterleaveParams(tuple(extents), tuple(order))
        return [context.run(params, [context.flat(node.inputs[0])], math.prod(dims))]
    matrices = order[:-2] == list(range(len(order) - 2)) and min(extents[-2:]) >= context.isa.lanes
    if not matrices or not takes(context, TransposeParams, node.inputs[0]):
        return [relax.op.permute_dims(context.tensor(node.inputs[0]), axes)]
    squares = TransposeParams(math.prod(extents[:-2]), extents[-1], extents[-2])
    return [context.run(squares, [context.flat(node.inputs[0])], math.prod(dims))]


def _merge(dims: Sequence[int], axes: Sequence[int]) -> tuple[list[int], list[int]]:
    """A permutation with neighbours that stay together as one axis: the output's extents, and each one's rank in X."""
    real = [axis for axis in axes if dims[axis] > 1]
    ranks = {axis: rank for rank, axis in enumerate(sorted(real))}
    groups: list[list[int]] = []
    for axis in real:
        if groups and ranks[groups[-1][-1]] + 1 == ranks[axis]:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    first = sorted(group[0] for group in groups)
    return [math.prod(dims[axis] for axis in group) for group in groups], [first.index(group[0]) for group in groups]


JOINED = 16
"""Parts that are joined at a time: every element is looked for among them, one after the other."""


def concat(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Concat of what is not empty."""
    parts = [context.tensor(value) for value in node.inputs if 0 not in context.shape(value)]
    axis = node.attributes.get_int("axis", 1)
    while len(parts) > 1:
        groups = [parts[first:first + JOINED] for first in range(0, len(parts), JOINED)]
        parts = [relax.op.concat(group, axis=axis) if len(group) > 1 else group[0] for group in groups]
    return parts


def expand(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Expand: numpy broadcasting."""
    return [relax.op.broadcast_to(context.tensor(node.inputs[0]), context.shape(node.outputs[0]))]


def constant_of_shape(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """ConstantOfShape, for a shape that arrives at run time."""
    value = node.attributes.get_tensor("value", ir.tensor(np.zeros(1, "float32")))
    fill = relax.const(value.numpy().reshape(()), value.dtype.numpy().name)
    return [relax.op.full(context.shape(node.outputs[0]), fill)]


def tile(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Tile: every axis repeats as often as the output is longer than the input.

    The repetitions are axes of their own: an index modulo a power of two is miscompiled by LLVM 22's vectoriser.
    """
    dims, shape = context.shape(node.inputs[0]), context.shape(node.outputs[0])
    split = [extent for dim, size in zip(dims, shape, strict=True) for extent in (size // dim, dim)]
    tiled = compute(context, "tile", split, lambda i, x: x[tuple(i[1::2])], context.tensor(node.inputs[0]))
    return [relax.op.reshape(tiled, shape)]


def range_(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Range: start + i * delta."""
    start, _, delta = (operand(context, value) for value in node.inputs)
    dtype = context.dtype(node.outputs[0])

    def element(i: Indices, start: Expr, delta: Expr) -> Expr:
        first, step = (item(v, dtype) for v in (start, delta))
        return first + i[0].astype(dtype) * step

    return [compute(context, "range", context.shape(node.outputs[0]), element, start, delta)]


def slice_(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Slice: numpy's start:end:step along the given axes; the ends are in the output shape."""
    x, shape = node.inputs[0], context.shape(node.inputs[0])
    if opset_of(node) < 10:
        starts, axes, steps = node.attributes.get_ints("starts"), node.attributes.get_ints("axes", None), None
    else:
        starts, _, axes, steps = (operand(context, value) for value in (*node.inputs[1:], None, None)[:4])
    count = context.shape(node.inputs[1])[0] if opset_of(node) >= 10 else len(starts)
    known = not any(isinstance(given, relax.Expr) for given in (starts, axes, steps))  # else they may name anything

    def element(i: Indices, x: Operand, starts: Operand, axes: Operand, steps: Operand) -> Expr:
        index = list(i)
        for axis, dim in enumerate(shape):
            for k in range(count):
                named = k if axes is None else axes[k]
                step = 1 if steps is None else steps[k]
                start = clamp(choose(starts[k] < 0, starts[k] + dim, starts[k]), 0, choose(step < 0, dim - 1, dim))
                index[axis] = choose(either(named == axis, named == axis - len(shape)), start + i[axis] * step,
                                     index[axis])
        return x[tuple(index if known else (clamp(i, 0, dim - 1) for i, dim in zip(index, shape, strict=True)))]

    return [compute(context, "slice", context.shape(node.outputs[0]), element, context.tensor(x), starts, axes, steps)]


def either(a: Expr, b: Expr) -> Expr:
    """Whether either condition holds; decided now if both are Python bools."""
    return a or b if isinstance(a, bool) and isinstance(b, bool) else tirx.any(a, b)


def split(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Split: consecutive pieces along an axis, as long as the outputs."""
    axis, first = node.attributes.get_int("axis", 0) % len(context.shape(node.inputs[0])), 0
    pieces = []
    for value in node.outputs:
        shape = context.shape(value)
        pieces.append(None if 0 in shape else compute(
            context, "split", shape, lambda i, x, first=first: x[(*i[:axis], i[axis] + first, *i[axis + 1:])],
            context.tensor(node.inputs[0])))
        first += shape[axis]
    if first != context.shape(node.inputs[0])[axis]:
        raise UnsupportedOperatorError(f"the pieces have {first} elements along axis {axis} together, not the input's")
    return pieces


OPERATORS: dict[str, Operator] = {
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "Expand": expand,
    "Flatten": view,
    "Range": range_,
    "Reshape": view,
    "Slice": slice_,
    "Split": split,
    "Squeeze": view,
    "Tile": tile,
    "Transpose": transpose_,
    "Unsqueeze": view,
}
