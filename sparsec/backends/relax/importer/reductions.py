"""Reductions, over axes that are known now or follow from the output's shape."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import Operator, compute, input_axes, narrowed, widened
from sparsec.errors import UnsupportedOperatorError
from sparsec.kernels.tensors import ReduceParams

op = relax.op
Axes = Sequence[int]
Reduce = Callable[[relax.Expr, Axes], relax.Expr]  # keeps the reduced axes with length 1


def _over(reduce: Callable[..., relax.Expr]) -> Reduce:
    """A reduction of Relax; over no axes it is the identity, which Relax takes for all axes."""
    return lambda x, axes: reduce(x, list(axes), keepdims=True) if axes else x


_sum = _over(op.sum)


def _extremum(reduce: Callable[..., relax.Expr]) -> Reduce:
    """Maximum or minimum; booleans by way of bytes."""
    def apply(x: relax.Expr, axes: Axes) -> relax.Expr:
        if _dtype(x) == "bool":
            return op.astype(_over(reduce)(op.astype(x, "uint8"), axes), "bool")
        return _over(reduce)(x, axes)

    return apply


def _mean(x: relax.Expr, axes: Axes) -> relax.Expr:
    count = math.prod(int(x.ty.shape[axis]) for axis in axes)
    return op.divide(_sum(x, axes), relax.const(count, _dtype(x)))


def _log_sum_exp(x: relax.Expr, axes: Axes) -> relax.Expr:
    """Relative to the maximum where that is finite, so that exp does not overflow."""
    top = _over(op.max)(x, axes)
    top = op.where(op.isfinite(top), top, op.zeros_like(top))
    return op.add(op.log(_sum(op.exp(op.subtract(x, top)), axes)), top)


def _in_floats(reduce: Reduce) -> Reduce:
    """A reduction whose result for integers is that of float64, rounded towards zero."""
    def apply(x: relax.Expr, axes: Axes) -> relax.Expr:
        dtype = _dtype(x)
        return reduce(x, axes) if dtype.startswith("float") else op.astype(
            reduce(op.astype(x, "float64"), axes), dtype)

    return apply


def _dtype(x: relax.Expr) -> str:
    return str(x.ty.dtype)


REDUCTIONS: dict[str, tuple[Reduce, float]] = {  # with the result over no elements at all
    "ReduceL1": (lambda x, axes: _sum(op.abs(x), axes), 0.0),
    "ReduceL2": (_in_floats(lambda x, axes: op.sqrt(_sum(op.multiply(x, x), axes))), 0.0),
    "ReduceLogSum": (_in_floats(lambda x, axes: op.log(_sum(x, axes))), -np.inf),
    "ReduceLogSumExp": (_in_floats(_log_sum_exp), -np.inf),
    "ReduceMax": (_extremum(op.max), -np.inf),
    "ReduceMean": (_mean, np.nan),
    "ReduceMin": (_extremum(op.min), np.inf),
    "ReduceProd": (_over(op.prod), 1.0),
    "ReduceSum": (_sum, 0.0),
    "ReduceSumSquare": (lambda x, axes: _sum(op.multiply(x, x), axes), 0.0),
}


def reduce(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Any Reduce operator; axes that arrive at run time are picked among those that the output's shape allows."""
    function, empty = REDUCTIONS[node.op_type]
    x, shape, dims = widened(context, node.inputs[0]), context.shape(node.outputs[0]), context.shape(node.inputs[0])
    axes = input_axes(context, node)
    candidates = _candidates(context, node) if axes is None else []
    if math.prod(dims) == 0 < math.prod(shape):
        dtype = context.dtype(node.inputs[0])
        return [relax.const(np.full(shape, _limit(empty, dtype)), dtype)]

    def apply(axes: Axes) -> relax.Expr:
        merged = _merge(dims, axes)
        kernels = ReduceParams in context.kernels and _dtype(x) == "float32" and 0 not in dims
        if node.op_type in KERNELS and merged is not None and axes and kernels:
            return _run(context, node, x, *merged)
        result = context.bb.normalize(op.reshape(context.bb.normalize(function(x, axes)), shape))
        return narrowed(result, context.dtype(node.outputs[0]))

    if axes is None:
        return [_pick(context, node.inputs[1], apply, candidates)]
    if not axes and not node.attributes.get_int("noop_with_empty_axes", 0):
        axes = list(range(len(dims)))
    return [apply([axis % len(dims) for axis in axes])]


def _merge(dims: Sequence[int], axes: Axes) -> tuple[int, int, int] | None:
    """The extents before, along and behind the reduced axes if those lie side by side, else None."""
    real = [axis for axis in axes if dims[axis] > 1]
    first, last = (min(real), max(real) + 1) if real else (0, 0)
    if any(dims[axis] > 1 and axis not in axes for axis in range(first, last)):
        return None
    return math.prod(dims[:first]), math.prod(dims[first:last]), math.prod(dims[last:])


def _run(context: LoweringContext, node: ir.Node, x: relax.Expr, outer: int, length: int, inner: int) -> relax.Expr:
    """The reduction of float32 by a hand-written kernel."""
    name, mean = KERNELS[node.op_type]
    params = ReduceParams(name, outer, length, inner, 1 / length if mean else 1.0)
    flat = context.bb.emit(op.reshape(x, (outer * length * inner,)))
    y = context.run(params, [flat], outer * inner)
    y = op.sqrt(y) if node.op_type == "ReduceL2" else op.log(y) if node.op_type == "ReduceLogSum" else y
    result = context.bb.normalize(op.reshape(y, context.shape(node.outputs[0])))
    return narrowed(result, context.dtype(node.outputs[0]))


def pool_all(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """GlobalAveragePool and GlobalMaxPool."""
    dims, x = context.shape(node.inputs[0]), widened(context, node.inputs[0])
    if ReduceParams not in context.kernels or _dtype(x) != "float32" or 0 in dims:
        return None
    return [_run(context, node, x, dims[0] * dims[1], math.prod(dims[2:]), 1)]


def _candidates(context: LoweringContext, node: ir.Node) -> list[Axes]:
    """The sets of axes, one at least, whose reduction gives the output's shape."""
    dims, shape = context.shape(node.inputs[0]), context.shape(node.outputs[0])
    if node.attributes.get_int("keepdims", 1):
        one: Axes = [axis for axis, (dim, reduced) in enumerate(zip(dims, shape, strict=False)) if dim != reduced]
        found = [one] if shape == tuple(1 if axis in one else dim for axis, dim in enumerate(dims)) else []
    else:
        count = len(dims) - len(shape)
        found = [axes for axes in itertools.combinations(range(len(dims)), count)
                 if tuple(dim for axis, dim in enumerate(dims) if axis not in axes) == shape]
    if not found:
        raise UnsupportedOperatorError("no axes lead to the output's shape")
    return found


def _pick(context: LoweringContext, axes: ir.Value | None, apply: Callable[[Axes], relax.Expr],
          candidates: list[Axes]) -> relax.Expr:
    """The reduction over whichever candidate the axes at run time are."""
    result = apply(candidates[0])
    rank = max(map(max, candidates)) + 1 if len(candidates) > 1 else 0
    for candidate in candidates[1:]:
        equal = compute(context, "same_axes", (), lambda _, given, these=candidate: tirx.all(*(
            tirx.any(*(tirx.any(given[k] == axis, given[k] == axis - rank) for axis in these))
            for k in range(len(these)))), context.tensor(axes))
        result = op.where(equal, apply(candidate), result)
    return result


def _limit(value: float, dtype: str) -> float | int | bool:
    """An infinity as the largest or smallest value that an element type has."""
    if dtype == "bool":
        return value > 0
    if np.isfinite(value) or not dtype.startswith(("int", "uint")):
        return value
    return int(np.iinfo(dtype).max if value > 0 else np.iinfo(dtype).min)


KERNELS = {  # the hand-written kernel, and whether it takes the mean
    "GlobalAveragePool": ("sum", True),
    "GlobalMaxPool": ("max", False),
    "ReduceL1": ("l1", False),
    "ReduceL2": ("sum_of_squares", False),
    "ReduceLogSum": ("sum", False),
    "ReduceMax": ("max", False),
    "ReduceMean": ("sum", True),
    "ReduceMin": ("min", False),
    "ReduceProd": ("prod", False),
    "ReduceSum": ("sum", False),
    "ReduceSumSquare": ("sum_of_squares", False),
}

OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(REDUCTIONS, reduce), "GlobalAveragePool": pool_all, "GlobalMaxPool": pool_all}
