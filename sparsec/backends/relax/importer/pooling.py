"""MaxPool and AveragePool of one or two spatial axes, by the backend's kernel; MaxPool's indices."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import Indices, Operand, Operator, compute, takes
from sparsec.backends.relax.importer.windows import Window, window_of
from sparsec.kernels.emit.tir import Expr
from sparsec.kernels.tensors import PoolParams


def pool_(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """MaxPool and AveragePool."""
    x, kernel = context.shape(node.inputs[0]), node.attributes.get_ints("kernel_shape") or ()
    if not takes(context, PoolParams, node.inputs[0], node.outputs[0]) or len(x) > 4:
        return None
    window, shape = window_of(context, node, kernel), context.shape(node.outputs[0])
    average = node.op_type == "AveragePool"
    image, output = _pair(x[2:], 1), _pair(shape[2:], 1)
    params = PoolParams(x[0] * x[1], image, output, _pair(window.kernel, 1), _pair(window.strides, 1),
                        _pair(window.dilations, 1), _pair(window.before, 0), average)
    arguments = [context.flat(node.inputs[0])]
    if average:
        arguments += map(context.constant, _factors(node, params))
    y = context.run(params, arguments, math.prod(shape))
    if len(node.outputs) == 1 or not node.outputs[1].name:
        return [y]
    return [y, _indices(context, node, context.bb.emit(relax.op.reshape(y, shape)), window)]


def _pair(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    """Vertical and horizontal; a single axis is horizontal."""
    vertical, horizontal = (missing, *values)[-2:]
    return vertical, horizontal


def _factors(node: ir.Node, p: PoolParams) -> list[np.ndarray]:
    """One over the inputs that a window counts, for each output row and column."""
    pads = node.attributes.get_ints("pads", ()) or ()
    after = _pair(tuple(pads[len(pads) // 2:]), 0) if len(pads) else (0, 0)
    counted = node.attributes.get_int("count_include_pad", 0)
    factors = []
    for axis in (0, 1):
        starts = np.arange(p.output[axis]) * p.stride[axis] - p.before[axis]
        covered = starts[:, None] + np.arange(p.kernel[axis]) * p.dilation[axis]
        if node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET":
            end = p.image[axis] + after[axis]
        else:
            end = max(int(covered.max()) + 1, p.image[axis])
        low, high = (-p.before[axis], end) if counted else (0, p.image[axis])
        inside = ((covered >= low) & (covered < high)).sum(axis=1)
        factors.append((1 / np.maximum(inside, 1)).astype(np.float32))
    return factors


def _indices(context: LoweringContext, node: ir.Node, y: relax.Expr, window: Window) -> relax.Expr:
    """Where each maximum lies in X: its first position, counted over the whole tensor."""
    x, shape = context.shape(node.inputs[0]), context.shape(node.outputs[0])
    order = list(range(len(x) - 2))
    if node.attributes.get_int("storage_order", 0):
        order.reverse()
    taps = [te.reduce_axis((0, k), name=f"tap{axis}") for axis, k in enumerate(window.kernel)]
    behind = tirx.const(np.iinfo(np.int64).max, "int64")

    def element(i: Indices, image: Operand, largest: Operand) -> Expr:
        at = [i[2 + axis] * window.strides[axis] + tap * window.dilations[axis] - window.before[axis]
              for axis, tap in enumerate(taps)]
        inside = [c for position, dim in zip(at, x[2:], strict=True) for c in (position >= 0, position < dim)]
        index = (i[0] * x[1] + i[1]).astype("int64")
        for axis in order:
            index = index * x[2 + axis] + at[axis].astype("int64")
        found = tirx.if_then_else(tirx.all(*inside), image[(i[0], i[1], *at)] == largest[i], tirx.const(0, "bool"))
        return te.min(tirx.if_then_else(found, index, behind), axis=taps)

    return compute(context, "index_of_maximum", shape, element, context.tensor(node.inputs[0]), y)


OPERATORS: dict[str, Operator] = {"AveragePool": pool_, "MaxPool": pool_}
