"""ONNX's operators from numbers to codes of 8 to 32 bits and back, on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsec.graph.sized import LEVELS, SIZED_DOMAIN
from sparsec.runtime.sized.elementwise import Attributes, Operator

LARGEST = 255
"""The largest code of dynamic quantisation."""


def _along(array: np.ndarray, x: np.ndarray, attributes: Attributes) -> np.ndarray:
    """Scales or zero points by the elements of an axis, as they broadcast to a tensor."""
    if array.size == 1:
        return array.reshape(())
    axis = attributes.get("axis", 1) % x.ndim
    return array.reshape([-1 if each == axis else 1 for each in range(x.ndim)])


def _codes(x: np.ndarray, scale: Any, zero: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Rounded half to even, and saturated."""
    info, units = np.iinfo(dtype), x / scale
    np.rint(units, out=units)
    units += zero
    np.clip(units, info.min, info.max, out=units)
    return np.asarray(units.astype(dtype))


def _quantize(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    x, scale, zero = (*inputs, None)[:3]
    zero = np.zeros((), np.uint8) if zero is None else zero
    return (_codes(x, _along(scale, x, attributes), _along(zero, x, attributes), zero.dtype),)


def _dequantize(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    codes, scale, zero = (*inputs, None)[:3]
    found = codes.astype(scale.dtype)
    if zero is not None and zero.any():
        found -= _along(zero, codes, attributes)
    found *= _along(scale, codes, attributes)
    return (found,)


def _levels(inputs: Sequence[Any], _: Attributes) -> Sequence[np.ndarray]:
    (x,) = inputs
    low, high = (np.float32(min(0, x.min(initial=0))), np.float32(max(0, x.max(initial=0))))
    scale = (high - low) / np.float32(LARGEST)
    scale = np.float32(1) if scale == 0 else scale
    zero = np.clip(np.rint(-low / scale), 0, LARGEST).astype(np.uint8)
    return np.asarray(scale), np.asarray(zero)


def _dynamic(inputs: Sequence[Any], attributes: Attributes) -> Sequence[np.ndarray]:
    scale, zero = _levels(inputs, attributes)
    return _codes(inputs[0], scale, zero, zero.dtype), scale, zero


OPERATORS: dict[str, Operator] = {
    "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize, "DynamicQuantizeLinear": _dynamic,
    f"{SIZED_DOMAIN}::{LEVELS}": _levels,
}
"""By ONNX's name; of integers of 8 to 32 bits, without blocks."""
