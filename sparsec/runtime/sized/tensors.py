"""ONNX's operators that move, choose, reduce and multiply, on numpy arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparsec.errors import InputError
from sparsec.runtime.sized.elementwise import Attributes, Operator

_ENDLESS = 2 ** 31 - 1  # ends of slices from which on exporters mean the end of the axis


def _axes(given: Any) -> tuple[int, ...]:
    return tuple(np.asarray(given).reshape(-1).tolist())


def _shape(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    shape = inputs[0].shape
    return (np.array(shape[attributes.get("start", 0):attributes.get("end", len(shape))], np.int64),)


def _reshape(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, target = inputs
    dims = [x.shape[axis] if size == 0 and not attributes.get("allowzero", 0) else int(size)
            for axis, size in enumerate(target.tolist())]
    if -1 in dims and not x.size:  # numpy cannot tell what is left
        rest = math.prod(size for size in dims if size != -1)
        dims[dims.index(-1)] = 0 if not rest else x.size // rest
    return (x.reshape(dims),)


def _squeeze(inputs: Sequence[Any], _: Attributes) -> Sequence[np.ndarray]:
    return (inputs[0].squeeze(None if len(inputs) < 2 or inputs[1] is None else _axes(inputs[1])),)


def _unsqueeze(inputs: Sequence[Any], _: Attributes) -> Sequence[np.ndarray]:
    x, axes = inputs[0], _axes(inputs[1])
    rank, rest = x.ndim + len(axes), iter(x.shape)
    new = {axis % rank for axis in axes}
    return (x.reshape([1 if axis in new else next(rest) for axis in range(rank)]),)


def _transpose(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    return (inputs[0].transpose(attributes.get("perm")),)


def _concat(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    return (np.concatenate(inputs, attributes["axis"]),)


def _expand(inputs: Sequence[Any], _: Attributes) -> Sequence[np.ndarray]:
    x, shape = inputs[0], inputs[1].tolist()
    rank = max(x.ndim, len(shape))
    own, asked = (*[1] * (rank - x.ndim), *x.shape), (*[1] * (rank - len(shape)), *shape)
    return (np.broadcast_to(x, [size if other == 1 else other for size, other in zip(own, asked, strict=True)]),)


def _slice(inputs: Sequence[Any], _: Attributes) -> Sequence[np.ndarray]:
    x, starts, ends, axes, steps = (*inputs, None, None)[:5]
    parts = [slice(None)] * x.ndim
    for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = index if axes is None else int(axes[index])
        step = 1 if steps is None else int(steps[index])
        past_front = step < 0 and end < -x.shape[axis]
        parts[axis] = slice(start, None if past_front or abs(end) >= _ENDLESS else end, step)
    return (x[tuple(parts)],)


def inside(indices: np.ndarray, size: int) -> np.ndarray:
    """Indices that count from the front; an InputError where one lies outside."""
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise InputError(f"an index lies outside of the {size} elements that the model looks up; the indices are from "
                         f"{indices.min()} to {indices.max()}")
    return np.where(indices < 0, indices + size, indices)


def _gather(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, indices = inputs
    axis = attributes.get("axis", 0) % x.ndim
    if not np.ndim(indices):  # without a copy
        return (x[(*[slice(None)] * axis, int(inside(indices, x.shape[axis])))],)
    try:
        return (x.take(indices, axis),)
    except IndexError:  # tells less than an InputError
        return (x.take(inside(indices, x.shape[axis]), axis),)


def beside(x: np.ndarray, shape: Sequence[int], axis: int) -> np.ndarray:
    """What indices of a shape choose from along an axis: the front of the others; an InputError where they are more."""
    along = axis % x.ndim
    kept = [own if place == along else size for place, (size, own) in enumerate(zip(shape, x.shape, strict=True))]
    if any(size > own for size, own in zip(kept, x.shape, strict=True)):
        raise InputError(f"indices of shape {tuple(shape)} are more than the elements of shape {x.shape} that they "
                         f"choose along axis {along}")
    return x[tuple(map(slice, kept))]


def _gather_elements(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, indices = inputs
    axis = attributes.get("axis", 0)
    chosen = inside(indices, x.shape[axis])
    return (np.take_along_axis(beside(x, indices.shape, axis), chosen, axis),)


def _gather_nd(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, indices = inputs
    lead = attributes.get("batch_dims", 0)
    batch = np.ix_(*map(np.arange, x.shape[:lead])) if lead else ()
    batch = tuple(each.reshape(*each.shape, *[1] * (indices.ndim - 1 - lead)) for each in batch)
    parts = [inside(indices[..., i], x.shape[lead + i]) for i in range(indices.shape[-1])]
    return (x[(*batch, *parts)],)


def _range(inputs: Sequence[Any], _: Attributes) -> Sequence[np.ndarray]:
    start, end, step = (each.item() for each in inputs)
    count = max(0, math.ceil((end - start) / step))
    return ((start + np.arange(count) * step).astype(inputs[0].dtype),)


def _filled(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    value = attributes.get("value", np.zeros(1, np.float32))
    return (np.full(inputs[0].tolist(), value.item(), value.dtype),)


def _split(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, axis = inputs[0], attributes.get("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = inputs[1].tolist()
    else:
        count = attributes["num_outputs"]
        part = -(-x.shape[axis] // count)
        sizes = [min(part, max(0, x.shape[axis] - index * part)) for index in range(count)]
    before, ends = (slice(None),) * (axis % x.ndim), list(itertools.accumulate(sizes))
    return [x[(*before, slice(end - size, end))] for size, end in zip(sizes, ends, strict=True)]


def _tile(inputs: Sequence[Any], _: Attributes) -> Sequence[np.ndarray]:
    return (np.tile(inputs[0], tuple(inputs[1].tolist())),)


def _trilu(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    diagonal = int(inputs[1].item()) if len(inputs) > 1 and inputs[1] is not None else 0
    return ((np.triu if attributes.get("upper", 1) else np.tril)(inputs[0], diagonal),)


def _cumsum(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, axis = inputs[0], int(inputs[1].item())
    x = np.flip(x, axis) if attributes.get("reverse", 0) else x
    total = np.cumsum(x, axis, dtype=x.dtype)
    total = total - x if attributes.get("exclusive", 0) else total
    return (np.flip(total, axis) if attributes.get("reverse", 0) else total,)


def _matmul(inputs: Sequence[Any], _: Attributes) -> Sequence[np.ndarray]:
    return (np.matmul(*inputs),)


def _gemm(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    a, b, c = (*inputs, None)[:3]
    a, b = a.T if attributes.get("transA", 0) else a, b.T if attributes.get("transB", 0) else b
    product = np.asarray(attributes.get("alpha", 1.0) * (a @ b)).astype(a.dtype, copy=False)
    return (product if c is None else (product + attributes.get("beta", 1.0) * c).astype(a.dtype, copy=False),)


def _reduced(function: Callable[..., Any]) -> Operator:
    def run(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
        x, axes = inputs[0], _axes(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else ()
        every = () if attributes.get("noop_with_empty_axes", 0) else None
        found = function(x, axis=axes or every, keepdims=bool(attributes.get("keepdims", 1)))
        return (np.asarray(found).astype(x.dtype, copy=False),)

    return run


def _sum_of(change: Callable[..., Any], finish: Callable[..., Any] = np.asarray) -> Callable[..., Any]:
    """What follows from the sum of changed elements; integers are changed in 64 bits."""
    return lambda x, **options: finish(np.sum(change(x.astype(np.int64) if x.dtype.kind in "iu" else x), **options))


def _log_sum_exp(x: np.ndarray, *, axis: tuple[int, ...] | None, keepdims: bool) -> Any:
    """The logarithm of the sum of exponentials, which do not overflow."""
    x = x.astype(np.float64) if x.dtype.kind in "iu" else x
    most = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    most = np.where(np.isfinite(most), most, 0).astype(x.dtype)
    found = np.log(np.sum(np.exp(x - most), axis=axis, keepdims=True)) + most
    return found if keepdims else np.squeeze(found, tuple(range(x.ndim)) if axis is None else axis)


def _extreme(function: Callable[..., Any], sign: int) -> Callable[..., Any]:
    """The maximum or minimum; of no elements what every number is above or below."""
    def run(x: np.ndarray, **options: Any) -> Any:
        if x.size:
            return function(x, **options)
        info = np.iinfo(x.dtype) if x.dtype.kind in "iu" else None
        worst = sign < 0 if x.dtype == bool else -sign * np.inf if info is None else info.min if sign > 0 else info.max
        return function(x, initial=worst, **options)

    return run


def _arg(function: Any) -> Operator:
    def run(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
        x, axis = inputs[0], attributes.get("axis", 0)
        if attributes.get("select_last_index", 0):
            found = x.shape[axis] - 1 - function(np.flip(x, axis), axis)
        else:
            found = function(x, axis)
        return (np.expand_dims(found, axis) if attributes.get("keepdims", 1) else np.asarray(found),)

    return run


def _layer_norm(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, scale, bias = (*inputs, None)[:3]
    axes = tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + x.dtype.type(
        attributes.get("epsilon", 1e-5)))
    y = centred / deviation * scale
    return (y if bias is None else y + bias,)


def _rms_norm(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, scale = inputs
    axes = tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))
    square = np.square(x).mean(axis=axes, keepdims=True) + x.dtype.type(attributes.get("epsilon", 1e-5))
    return (x / np.sqrt(square) * scale,)


OPERATORS: dict[str, Operator] = {
    "Shape": _shape, "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose,
    "Concat": _concat, "Expand": _expand, "Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements,
    "GatherND": _gather_nd, "Range": _range, "ConstantOfShape": _filled, "Split": _split, "Tile": _tile,
    "Trilu": _trilu, "CumSum": _cumsum, "MatMul": _matmul, "Gemm": _gemm, "ArgMax": _arg(np.argmax),
    "ArgMin": _arg(np.argmin), "LayerNormalization": _layer_norm, "RMSNormalization": _rms_norm,
    **{f"Reduce{name}": _reduced(function) for name, function in dict[str, Callable[..., Any]]({
        "L1": _sum_of(np.abs), "L2": _sum_of(np.square, np.sqrt), "LogSum": _sum_of(np.asarray, np.log),
        "LogSumExp": _log_sum_exp, "Max": _extreme(np.max, 1), "Mean": np.mean, "Min": _extreme(np.min, -1),
        "Prod": np.prod, "Sum": np.sum, "SumSquare": _sum_of(np.square)}).items()},
}
"""By ONNX's name; LayerNormalization has its first output only."""
