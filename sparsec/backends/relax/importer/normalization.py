"""Softmax and the normalisations, by hand-written kernels."""

from __future__ import annotations

import math

import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import Operator, are_float, opset_of, run_kernel
from sparsec.kernels.cpu.tensors import normalize, softmax
from sparsec.kernels.cpu.tensors.normalize import NormalizeParams
from sparsec.kernels.cpu.tensors.softmax import SoftmaxParams


def softmax_(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """Softmax and LogSoftmax; before opset 13 all axes from the given one on count as one."""
    if not are_float(context, *node.inputs):
        return None
    dims = context.shape(node.inputs[0])
    newer = opset_of(node) >= 13
    axis = node.attributes.get_int("axis", -1 if newer else 1) or 0
    axis += len(dims) if axis < 0 else 0
    behind = axis + 1 if newer else len(dims)
    params = SoftmaxParams(math.prod(dims[:axis]), math.prod(dims[axis:behind]), math.prod(dims[behind:]),
                           log=node.op_type == "LogSoftmax")
    return [run_kernel(context, softmax.build, params, node.inputs, math.prod(dims))]


def layer_norm(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """LayerNormalization without its statistics as outputs, and RMSNormalization."""
    dims, axis = context.shape(node.inputs[0]), node.attributes.get_int("axis", -1) or 0
    length = math.prod(dims[axis % len(dims):])
    parameters = node.inputs[1:]
    same = all(value is not None and math.prod(context.shape(value)) == length for value in parameters)
    centred = node.op_type == "LayerNormalization"
    if (not are_float(context, *node.inputs) or len([v for v in node.outputs if v.name]) > 1 or not same
            or len(parameters) != 1 + centred or node.attributes.get_int("stash_type", 1) != 1):
        return None
    params = NormalizeParams(math.prod(dims) // length, length, _epsilon(node), centred=centred)
    return [run_kernel(context, normalize.build, params, node.inputs, math.prod(dims))]


def instance_norm(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """InstanceNormalization: a row is a channel of an image."""
    if not are_float(context, *node.inputs):
        return None
    dims = context.shape(node.inputs[0])
    length = math.prod(dims[2:])
    params = NormalizeParams(dims[0] * dims[1], length, _epsilon(node), channels=dims[1], run=length)
    return [run_kernel(context, normalize.build, params, node.inputs, math.prod(dims))]


def group_norm(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """GroupNormalization: a row is a group of channels; before opset 21 it is groups that have a scale."""
    dims, groups = context.shape(node.inputs[0]), node.attributes.get_int("num_groups") or 1
    if not are_float(context, *node.inputs) or opset_of(node) < 21 or node.attributes.get_int("stash_type", 1) != 1:
        return None
    params = NormalizeParams(dims[0] * groups, math.prod(dims[1:]) // groups, _epsilon(node), channels=dims[1],
                             run=math.prod(dims[2:]))
    return [run_kernel(context, normalize.build, params, node.inputs, math.prod(dims))]


def _epsilon(node: ir.Node) -> float:
    return node.attributes.get_float("epsilon", 1e-5) or 0.0


OPERATORS: dict[str, Operator] = {
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LogSoftmax": softmax_,
    "RMSNormalization": layer_norm,
    "Softmax": softmax_,
}
