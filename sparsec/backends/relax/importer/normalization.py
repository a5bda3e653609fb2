"""Softmax and the normalisations, by the backend's kernels."""

from __future__ import annotations

import math

import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import HALVES, Operator, narrowed, opset_of, widened
from sparsec.kernels.tensors import NormalizeParams, SoftmaxParams

op = relax.op


def softmax_(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """Softmax and LogSoftmax; before opset 13 all axes from the given one on count as one."""
    if not _takes(context, SoftmaxParams, node):
        return None
    dims = context.shape(node.inputs[0])
    newer = opset_of(node) >= 13
    axis = node.attributes.get_int("axis", -1 if newer else 1) or 0
    axis += len(dims) if axis < 0 else 0
    behind = axis + 1 if newer else len(dims)
    params = SoftmaxParams(math.prod(dims[:axis]), math.prod(dims[axis:behind]), math.prod(dims[behind:]),
                           log=node.op_type == "LogSoftmax")
    return _run(context, node, params)


def layer_norm(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """LayerNormalization without its statistics as outputs, and RMSNormalization."""
    dims, axis = context.shape(node.inputs[0]), node.attributes.get_int("axis", -1) or 0
    length = math.prod(dims[axis % len(dims):])
    parameters = node.inputs[1:]
    same = all(value is not None and math.prod(context.shape(value)) == length for value in parameters)
    centred = node.op_type == "LayerNormalization"
    if (not _takes(context, NormalizeParams, node) or len([v for v in node.outputs if v.name]) > 1 or not same
            or len(parameters) != 1 + centred or node.attributes.get_int("stash_type", 1) != 1):
        return None
    params = NormalizeParams(math.prod(dims) // length, length, _epsilon(node), centred=centred)
    return _run(context, node, params)


def instance_norm(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """InstanceNormalization: a row is a channel of an image."""
    if not _takes(context, NormalizeParams, node):
        return None
    dims = context.shape(node.inputs[0])
    length = math.prod(dims[2:])
    params = NormalizeParams(dims[0] * dims[1], length, _epsilon(node), channels=dims[1], run=length)
    return _run(context, node, params)


def group_norm(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """GroupNormalization: a row is a group of channels; before opset 21 it is groups that have a scale."""
    dims, groups = context.shape(node.inputs[0]), node.attributes.get_int("num_groups") or 1
    if not _takes(context, NormalizeParams, node) or node.attributes.get_int("stash_type", 1) != 1:
        return None
    older, length = opset_of(node) < 21, math.prod(dims[1:]) // groups
    params = NormalizeParams(dims[0] * groups, length, _epsilon(node), channels=groups if older else dims[1],
                             run=length if older else math.prod(dims[2:]))
    return _run(context, node, params)


def batch_norm(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """BatchNormalization by running statistics, or in training mode by those of the batch, in two passes."""
    dims, dtype = context.shape(node.inputs[0]), context.dtype(node.inputs[0])
    x, scale, bias, mean, variance = (widened(context, value) for value in node.inputs)
    wide = str(x.ty.dtype)
    wide_parameters = [op.astype(each, wide) if str(each.ty.dtype) != wide else each
                       for each in (scale, bias, mean, variance)]
    per_channel = (1, -1, *[1] * (len(dims) - 2))
    scale, bias, *running = (context.bb.emit(op.reshape(each, per_channel)) for each in wide_parameters)
    mean, variance = running
    updated, centred = [], op.subtract(x, mean)
    if node.attributes.get_int("training_mode", 0):
        momentum = node.attributes.get_float("momentum", 0.9) or 0.0
        mean, centred, variance = _statistics(context, x, [0, *range(2, len(dims))])
        kept, taken = relax.const(momentum, wide), relax.const(1 - momentum, wide)
        updated = [op.add(op.multiply(old, kept), op.multiply(new, taken))
                   for old, new in zip(running, (mean, variance), strict=True)]
    deviation = op.sqrt(op.add(variance, relax.const(_epsilon(node), wide)))
    factor = context.bb.emit(op.divide(scale, deviation))
    results = [op.add(op.multiply(centred, factor), bias),
               *(op.reshape(each, (dims[1],)) for each in updated)]
    types = [dtype, *(context.dtype(value) for value in node.inputs[3:5])]
    return [narrowed(context.bb.normalize(each), kind) for each, kind in zip(results, types, strict=False)]


def _statistics(context: LoweringContext, x: relax.Expr, axes: list[int]) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Mean, x - mean and variance over axes, which stay with length 1.

    Sums are rounded: what is left over of the mean of x - mean is subtracted, too.
    """
    rough = context.bb.emit(op.mean(x, axes, keepdims=True))
    near = context.bb.emit(op.subtract(x, rough))
    rest = context.bb.emit(op.mean(near, axes, keepdims=True))
    centred = context.bb.emit(op.subtract(near, rest))
    variance = context.bb.emit(op.mean(op.multiply(centred, centred), axes, keepdims=True))
    return context.bb.emit(op.add(rough, rest)), centred, variance


def mean_variance(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """MeanVarianceNormalization, whose deviation has 1e-9 added."""
    x = widened(context, node.inputs[0])
    axes = [axis % len(context.shape(node.inputs[0])) for axis in node.attributes.get_ints("axes", (0, 2, 3)) or ()]
    _, centred, variance = _statistics(context, x, axes)
    deviation = op.add(op.sqrt(variance), relax.const(1e-9, str(x.ty.dtype)))
    result = context.bb.normalize(op.divide(centred, deviation))
    return [narrowed(result, context.dtype(node.inputs[0]))]


def _takes(context: LoweringContext, kernel: type, node: ir.Node) -> bool:
    """Whether the backend has a kernel that can take the inputs, halves by way of float32."""
    return kernel in context.kernels and all(
        context.dtype(value) in ("float32", *HALVES) and 0 not in context.shape(value)
        for value in node.inputs if value is not None)


def _run(context: LoweringContext, node: ir.Node, params: NormalizeParams | SoftmaxParams) -> list[relax.Expr]:
    """The output of a kernel of float32."""
    dims = context.shape(node.inputs[0])
    inputs = [context.bb.emit(op.reshape(widened(context, value), (math.prod(context.shape(value)),)))
              if context.dtype(value) in HALVES else context.flat(value) for value in node.inputs]
    y = context.run(params, inputs, math.prod(dims))
    return [narrowed(y, context.dtype(node.outputs[0]))]


def _epsilon(node: ir.Node) -> float:
    return node.attributes.get_float("epsilon", 1e-5) or 0.0


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": batch_norm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LogSoftmax": softmax_,
    "MeanVarianceNormalization": mean_variance,
    "RMSNormalization": layer_norm,
    "Softmax": softmax_,
}
