"""Facts about tensors, held as arrays that broadcast to the tensor.

A fact has the tensor's rank; along an axis it has the tensor's length, or length 1 where it is the same for all indices
(and where the dimension is symbolic). So the facts about the channels of an image are arrays of shape (1, C, 1, 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.graph.large import nonzeros

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Dims = tuple[int | None, ...]  # None: symbolic


@dataclass(frozen=True)
class Known:
    """Which elements of a tensor are the same for every input of the model, and their values.

    `mask` and `value` are facts of the tensor; `value` is 0 where `mask` is False.
    """

    mask: Mask
    value: Array

    @cached_property
    def zero(self) -> Mask:
        """Elements that are 0 for every input."""
        return ~self.nonzero

    @cached_property
    def nonzero(self) -> Mask:
        """Elements that some input makes different from 0, as far as is known."""
        return np.asarray(self.value != 0) if self.constant else ~self.mask | (self.value != 0)

    @cached_property
    def constant(self) -> bool:
        """No element depends on the input."""
        return bool(self.mask.all())

    def has_nonzero(self, axis: int) -> Mask:
        """By what is left of a matrix without an axis, -1 or -2, whether any element along that is not zero."""
        return np.asarray(self.nonzero.any(axis=axis))

    def transposed(self) -> Known:
        """The facts of the transposed matrix."""
        return Known(self.mask.T, self.value.T)


class LargeConstant(Known):
    """What is known of a constant of a large model: everything, read when it is asked for and not kept."""

    tensor: ir.TensorProtocol
    turned: bool

    def __init__(self, tensor: ir.TensorProtocol, *, turned: bool = False) -> None:
        for name, held in (("mask", np.ones((1,) * len(tensor.shape), bool)), ("tensor", tensor), ("turned", turned)):
            object.__setattr__(self, name, held)  # facts are frozen

    @property
    def value(self) -> Array:
        """The constant."""
        array = self.tensor.numpy()
        return array.T if self.turned else array

    @property
    def zero(self) -> Mask:  # it is as large as the constant: not to be kept
        """Elements that are 0."""
        return np.asarray(self.value == 0)

    @property
    def nonzero(self) -> Mask:
        """Elements that are not."""
        return np.asarray(self.value != 0)

    def has_nonzero(self, axis: int) -> Mask:
        """As of other constants; the constant is read for this once."""
        if len(self.tensor.shape) != 2:
            return super().has_nonzero(axis)
        found = nonzeros(self.tensor)
        return found.rows if (axis == -1) is not self.turned else found.columns

    def transposed(self) -> Known:
        """The facts of the transposed matrix."""
        return LargeConstant(self.tensor, turned=not self.turned)


def constant(data: Array) -> Known:
    """Every element is the same for every input."""
    return Known(np.ones((1,) * data.ndim, bool), data)


def unknown(value: ir.Value) -> Known:
    """Every element may depend on the input."""
    rank = len(value.shape) if value.shape is not None else 0
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    return Known(np.zeros((1,) * rank, bool), np.zeros((1,) * rank, dtype))


def where_known(mask: Mask, value: Array) -> Known:
    """`value` where `mask` holds, both made as small as they broadcast."""
    return Known(compact(mask), compact(np.where(mask, value, np.zeros((), value.dtype))))


def dims(value: ir.Value) -> Dims:
    """The value's dimensions; its rank must be known."""
    assert value.shape is not None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def some(mask: Mask, axes: Iterable[int], *, keepdims: bool = False) -> Mask:
    """Whether any element along the axes is in the mask."""
    return np.asarray(mask.any(axis=tuple(axes), keepdims=keepdims))


def every(mask: Mask, axes: Iterable[int], *, keepdims: bool = False) -> Mask:
    """Whether all elements along the axes are in the mask."""
    return np.asarray(mask.all(axis=tuple(axes), keepdims=keepdims))


def compact(fact: Array) -> Array:
    """The fact with length 1 along every axis on which it does not vary."""
    for axis, length in enumerate(fact.shape):
        if length > 1:
            first = fact.take([0], axis)
            if (fact == first).all():
                fact = first
    return fact


def spread(fact: Array, axes: Iterable[int], shape: Dims) -> Array:
    """The fact at the tensor's full length along `axes` (symbolic ones stay 1)."""
    full = list(fact.shape)
    for axis in axes:
        full[axis] = shape[axis] if shape[axis] is not None else fact.shape[axis]
    return np.broadcast_to(fact, full)


def gathered(fact: Mask, shape: Dims) -> Mask:
    """The fact about an operand of the given shape, from one about the result of broadcasting it: any element of it."""
    extra = fact.ndim - len(shape)
    if extra:
        fact = some(fact, range(extra))
    single = [axis for axis, dim in enumerate(shape) if dim == 1 and fact.shape[axis] > 1]
    return some(fact, single, keepdims=True) if single else fact


def aligned(fact: Array, rank: int) -> Array:
    """The fact with leading axes of length 1 up to `rank`, as broadcasting adds them."""
    return fact.reshape((1,) * (rank - fact.ndim) + fact.shape)
