"""Operators on coordinates, boxes and small matrices."""

from __future__ import annotations

import functools
import itertools
import math
import operator

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.indexing import checked_indices
from sparsec.backends.relax.importer.node import Indices, Operand, Operator, compute, opset_of, takes
from sparsec.backends.relax.importer.products import add_bias, product
from sparsec.backends.relax.importer.windows import window_of
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.nodes import optional
from sparsec.kernels.emit.tir import Expr
from sparsec.kernels.tensors import BatchMatmul, SuppressionParams

op = relax.op
LARGEST_DETERMINANT = 4  # rows of a matrix whose determinant is written out


def affine_grid(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """AffineGrid: theta applied to the coordinates of the output's pixels, whose number is in its shape."""
    n, *sizes, rank = context.shape(node.outputs[0])
    corners = node.attributes.get_int("align_corners", 0)
    steps = [np.linspace(-1, 1, size) if corners else (2 * np.arange(size) + 1) / size - 1 for size in sizes]
    grid = np.stack([*reversed(np.meshgrid(*steps, indexing="ij")), np.ones(sizes)]).reshape(rank + 1, -1)
    theta = context.flat(node.inputs[0])
    points = product(context, theta, (n * rank, rank + 1), context.constant(grid.astype(np.float32).reshape(-1)),
                     grid.shape)
    return [op.permute_dims(context.bb.emit(op.reshape(points, (n, rank, *sizes))),
                            [0, *range(2, 2 + rank), 1])]


def determinant(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Det of small matrices, by Leibniz' formula."""
    size = context.shape(node.inputs[0])[-1]
    if size > LARGEST_DETERMINANT:
        raise UnsupportedOperatorError(f"the matrix has {size} rows, more than {LARGEST_DETERMINANT}")

    def element(i: Indices, x: Operand) -> Expr:
        terms = []
        for columns in itertools.permutations(range(size)):
            sign = np.linalg.det(np.eye(size)[list(columns)])
            entries = (x[(*i, row, column)] for row, column in enumerate(columns))
            terms.append(functools.reduce(operator.mul, entries) * tirx.const(round(sign), x.dtype))
        return functools.reduce(operator.add, terms)

    return [compute(context, "determinant", context.shape(node.outputs[0]), element, context.tensor(node.inputs[0]))]


def deform_conv(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """DeformConv of images: the weights times windows that are sampled between pixels."""
    x, w = (context.shape(value) for value in node.inputs[:2])
    if not takes(context, BatchMatmul, *node.inputs) or len(x) != 4:
        return None
    shape, window = context.shape(node.outputs[0]), window_of(context, node, w[2:])
    groups, offsets = (node.attributes.get_int(name, 1) or 1 for name in ("group", "offset_group"))
    mask = optional(node, 4)
    taps = math.prod(w[2:])

    def element(i: Indices, image: Expr, offset: Operand, mask: Operand) -> Expr:
        tap = i[1] // (x[1] // offsets) * taps + i[2] * w[3] + i[3]
        at = [o * s + k * d - b + offset[i[0], 2 * tap + axis, i[4], i[5]] for axis, (o, k, s, d, b) in enumerate(
            zip(i[4:], i[2:4], window.strides, window.dilations, window.before, strict=True))]
        value = _between(image, i[0], i[1], at, x[2:])
        return value if mask is None else value * mask[i[0], tap, i[4], i[5]]

    size = (*x[:2], *w[2:], *shape[2:])
    columns = compute(context, "deformed_windows", size, element, context.tensor(node.inputs[0]),
                      context.tensor(node.inputs[2]), None if mask is None else context.tensor(mask))
    columns = context.bb.emit(op.reshape(columns, (math.prod(size),)))
    y = product(context, context.flat(node.inputs[1]), (1, groups, w[0] // groups, math.prod(w[1:])), columns,
                (x[0], groups, math.prod(w[1:]), math.prod(shape[2:])))
    return [add_bias(context, op.reshape(y, shape), optional(node, 3))]


def _between(image: Operand, n: Expr, c: Expr, at: list[Expr], dims: tuple[int, ...]) -> Expr:
    """The image at a real position, bilinearly; zero outside."""
    low = [tirx.floor(position).astype("int64") for position in at]
    terms = []
    for corner in itertools.product((0, 1), repeat=len(at)):
        pixel = [base + step for base, step in zip(low, corner, strict=True)]
        weights = [1.0 - tirx.abs(position - p.astype("float32")) for position, p in zip(at, pixel, strict=True)]
        inside = tirx.all(*(c for p, dim in zip(pixel, dims, strict=True) for c in (p >= 0, p < dim)))
        weighted = functools.reduce(operator.mul, weights) * image[(n, c, *pixel)]
        terms.append(tirx.if_then_else(inside, weighted, tirx.const(0, "float32")))
    return functools.reduce(operator.add, terms)


def suppress(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """NonMaxSuppression; how many boxes are selected is in the output's shape."""
    (batches, boxes, _), classes = context.shape(node.inputs[0]), context.shape(node.inputs[1])[1]
    selected = context.shape(node.outputs[0])[0]
    params = SuppressionParams(batches, classes, boxes, selected,
                                           centred=bool(node.attributes.get_int("center_point_box", 0)))
    limits = [*node.inputs[2:], None, None, None][:3]
    defaults: tuple[np.ndarray, ...] = (np.zeros(1, np.int64), np.zeros(1, np.float32), np.full(1, -np.inf, np.float32))
    arguments = [context.flat(value) if value is not None else context.constant(default)
                 for value, default in zip(limits, defaults, strict=True)]
    inputs = [context.flat(node.inputs[0]), context.flat(node.inputs[1]), *arguments]
    return [context.run(params, inputs, selected * 3, dtype="int64")]


def roi_align(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """RoiAlign by averages; a box of a batch that is not there ends the inference with an error."""
    attributes, dtype = node.attributes, context.dtype(node.inputs[0])
    if attributes.get_string("mode", "avg") != "avg":
        raise UnsupportedOperatorError("only the mode 'avg' is implemented")
    half = attributes.get_string("coordinate_transformation_mode", "half_pixel" if opset_of(node) >= 16 else "")
    boxes, batch = context.tensor(node.inputs[1]), context.shape(node.inputs[0])[0]
    aligned = half == "half_pixel"
    indices = op.astype(checked_indices(context, node, node.inputs[2], (batch,)), dtype)
    scale = attributes.get_float("spatial_scale", 1.0) or 1.0
    corners = op.subtract(boxes, relax.const(0.5 / scale, dtype)) if aligned else boxes
    rows = op.concat([op.expand_dims(indices, 1), corners], 1)
    return [op.vision.roi_align(context.tensor(node.inputs[0]), rows, context.shape(node.outputs[0])[2:], scale,
                                attributes.get_int("sampling_ratio", 0), aligned, "NCHW", "avg")]


OPERATORS: dict[str, Operator] = {
    "AffineGrid": affine_grid,
    "DeformConv": deform_conv,
    "Det": determinant,
    "NonMaxSuppression": suppress,
    "RoiAlign": roi_align,
}
