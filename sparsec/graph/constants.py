"""The contents of constant values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer, or None for any other value."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number held by an initializer of one element, or None."""
    array = constant(value)
    return float(array.item()) if array is not None and array.size == 1 else None
