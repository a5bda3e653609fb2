"""Operators that find elements by their values, and that put elements where indices say, on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsec.runtime.sized.elementwise import Attributes, Operator

REDUCTIONS: dict[str, np.ufunc] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
"""What ONNX's reductions do with two numbers."""


def put(data: np.ndarray, places: tuple[Any, ...], updates: np.ndarray, reduction: str | None) -> np.ndarray:
    """The data with updates at places; of those that meet, the last or what the reduction makes of all."""
    result = data.copy()
    if reduction in REDUCTIONS:  # numpy takes one index of single elements many times faster than places of slices
        flat = np.arange(result.size).reshape(result.shape)[places]
        REDUCTIONS[reduction].at(result.reshape(-1), flat.reshape(-1), np.broadcast_to(updates, flat.shape).reshape(-1))
    else:
        result[places] = updates
    return result


def scatter_elements(data: np.ndarray, indices: np.ndarray, updates: np.ndarray, axis: int, reduction: str | None,
                     ) -> np.ndarray:
    """Elements put where the indices say along an axis, and where they lie themselves along the others."""
    axis %= data.ndim
    others = [each for each in range(data.ndim) if each != axis]
    if indices.size and not any(indices.strides[each] for each in others):  # expanded: whole slices are put
        first = indices[tuple(slice(None) if each == axis else 0 for each in range(data.ndim))]
        places = tuple(first if each == axis else slice(indices.shape[each]) for each in range(data.ndim))
        return put(data, places, updates, reduction)
    grid: list[Any] = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    grid[axis] = indices
    return put(data, tuple(grid), updates, reduction)


def scatter_nd(data: np.ndarray, indices: np.ndarray, updates: np.ndarray, reduction: str | None) -> np.ndarray:
    """Slices put at positions in the first dimensions."""
    return put(data, tuple(np.moveaxis(indices, -1, 0)), updates, reduction)


def _scatter_elements(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    data, indices, updates = inputs
    return (scatter_elements(data, indices, updates, attributes.get("axis", 0), attributes.get("reduction")),)


def _scatter_nd(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    data, indices, updates = inputs
    return (scatter_nd(data, indices, updates, attributes.get("reduction")),)


def _non_zero(inputs: Sequence[Any], _: Attributes) -> Sequence[np.ndarray]:
    return (np.array(np.nonzero(np.atleast_1d(inputs[0])), np.int64),)


def _compress(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, condition = inputs
    return (np.compress(condition, x, attributes.get("axis")),)


OPERATORS: dict[str, Operator] = {
    "Compress": _compress, "NonZero": _non_zero, "ScatterElements": _scatter_elements, "ScatterND": _scatter_nd,
}
"""By ONNX's name."""
