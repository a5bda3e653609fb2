"""Operators that read or write elements by index.

An index outside the tensor ends the inference with an error; where no kernel can raise one, the nearest index inside
stands for it.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import Operator
from sparsec.errors import UnsupportedOperatorError
from sparsec.kernels.tensors import IndexParams

op = relax.op

REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "min": "min", "max": "max"}
"""ONNX's names of what a scatter does with the old element, and TVM's."""


def checked_indices(context: LoweringContext, node: ir.Node, value: ir.Value | None,
                    extents: tuple[int, ...]) -> relax.Expr:
    """An input's indices, one for each of the axes in turn, counted from the beginning of the axes.

    Raises:
        UnsupportedOperatorError: they are constant and one lies outside its axis.

    """
    shape, known = context.shape(value), context.array(value)
    params = IndexParams(math.prod(shape) // len(extents), extents, context.dtype(value),
                               f"node '{node.name}'")
    if known is None and IndexParams not in context.kernels:
        return _clamped(context, value, extents)
    if known is None:
        positions = context.run(params, [context.flat(value)], math.prod(shape), dtype="int64")
        return context.bb.emit(op.reshape(positions, shape))
    try:
        return context.constant(params.counted(known.reshape(-1, len(extents))).reshape(shape))
    except IndexError as error:
        raise UnsupportedOperatorError(str(error)) from error


def _clamped(context: LoweringContext, value: ir.Value | None, extents: tuple[int, ...]) -> relax.Expr:
    """Indices, none of them outside its axis."""
    ends = relax.const(np.array(extents if len(extents) > 1 else extents[0]), "int64")
    indices = op.astype(context.tensor(value), "int64")
    zero, one = relax.const(0, "int64"), relax.const(1, "int64")
    counted = op.where(op.less(indices, zero), op.add(indices, ends), indices)
    return context.bb.emit(op.minimum(op.maximum(counted, zero), op.subtract(ends, one)))


def _along_axis(context: LoweringContext, node: ir.Node) -> tuple[relax.Expr, relax.Expr, int]:
    """The tensor, the indices and the axis that they count along."""
    dims = context.shape(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % len(dims)
    return context.tensor(node.inputs[0]), checked_indices(context, node, node.inputs[1], (dims[axis],)), axis


def gather(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Gather: slices along an axis."""
    x, indices, axis = _along_axis(context, node)
    return [op.take(x, indices, axis, mode="clip")]  # the other modes warn of indices that cannot occur here


def gather_elements(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """GatherElements: one element for every index."""
    return [op.gather_elements(*_along_axis(context, node))]


def gather_nd(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """GatherND: slices addressed by rows of indices, below the dimensions that both inputs share."""
    batch_dims = node.attributes.get_int("batch_dims", 0)
    return [op.gather_nd(context.tensor(node.inputs[0]), _rows(context, node, batch_dims), batch_dims)]


def _rows(context: LoweringContext, node: ir.Node, first: int = 0) -> relax.Expr:
    """Rows of indices into the axes from `first` on."""
    width = context.shape(node.inputs[1])[-1]
    return checked_indices(context, node, node.inputs[1], context.shape(node.inputs[0])[first:first + width])


def scatter_elements(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Scatter and ScatterElements: a tensor with one element changed for every index."""
    x, indices, axis = _along_axis(context, node)
    return [op.scatter_elements(x, indices, context.tensor(node.inputs[2]), axis=axis, reduction=_reduction(node))]


def scatter_nd(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """ScatterND: a tensor with slices changed that rows of indices address."""
    return [op.scatter_nd(context.tensor(node.inputs[0]), _rows(context, node), context.tensor(node.inputs[2]),
                          _reduction(node))]


def max_unpool(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """MaxUnpool: every value at its flat position in the unpooled image, zeros elsewhere and in what is larger."""
    shape, dtype = context.shape(node.outputs[0]), context.dtype(node.outputs[0])
    dims, image = context.shape(node.inputs[0]), shape
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        rank, attributes = len(dims) - 2, node.attributes
        strides, pads = attributes.get_ints("strides", (1,) * rank), attributes.get_ints("pads", (0, 0) * rank)
        image = (*dims[:2], *((dim - 1) * stride - first - last + size for dim, stride, first, last, size in zip(
            dims[2:], strides, pads[:rank], pads[rank:], attributes.get_ints("kernel_shape"), strict=True)))
    size = math.prod(image)
    zeros = op.full((size,), relax.const(0, dtype))
    positions = op.reshape(checked_indices(context, node, node.inputs[1], (size,)), (-1,))
    unpooled = op.reshape(op.scatter_elements(zeros, positions, context.flat(node.inputs[0])), image)
    behind = [each for whole, part in zip(shape, image, strict=True) for each in (0, whole - part)]
    return [op.nn.pad(unpooled, behind) if any(behind) else unpooled]


def _reduction(node: ir.Node) -> str:
    return REDUCTIONS[node.attributes.get_string("reduction", "none") or "none"]


OPERATORS: dict[str, Operator] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "MaxUnpool": max_unpool,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
