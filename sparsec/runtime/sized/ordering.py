"""Operators that put elements in order, on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsec.runtime.sized.elementwise import Attributes, Operator


def _top(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    """The first of equal elements comes first; NaN is larger than all."""
    x, count, axis = inputs[0], int(np.ravel(inputs[1])[0]), attributes.get("axis", -1)
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(f"of {x.shape[axis]} elements {count} are taken")
    if attributes.get("largest", 1):
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    places = order.take(np.arange(count), axis)
    return np.take_along_axis(x, places, axis), places.astype(np.int64, copy=False)


OPERATORS: dict[str, Operator] = {"TopK": _top}
"""By ONNX's name."""
