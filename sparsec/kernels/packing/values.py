"""How the kernels for few rows store values."""

from __future__ import annotations

import numpy as np

from sparsec.errors import FormatError

CODECS = {"f32": "float32", "f16": "float16"}
"""The codecs and their types."""


def encode(values: np.ndarray, codec: str) -> np.ndarray:
    """Values as a codec stores them.

    Raises:
        FormatError: the codec cannot hold a value.

    """
    if codec == "f32":
        return values.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.isinf(half[np.isfinite(values)]).any():
        raise FormatError(f"f16: {np.abs(values).max():g} is beyond float16's range; store f32 values")
    return half
