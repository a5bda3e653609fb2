"""The arithmetic that the operators on quantised tensors share, and their attributes.

A quantised tensor holds codes of uint8 or int8: it stands for scale * (code - zero point), with one scale and one zero
point for the whole tensor. Sums of codes are exact integers; what happens in float32 rounds after every operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.defs import OpSchema
from onnx.helper import make_attribute

CODES = ("uint8", "int8")
"""The element types of quantised activations."""
RESULTS = (*CODES, "float32")
"""What the operators on quantised tensors may compute: codes, or the numbers that these stand for."""
_ONNX = {"uint8": onnx.TensorProto.UINT8, "int8": onnx.TensorProto.INT8, "float32": onnx.TensorProto.FLOAT}


def scale_of(letter: str, of: str) -> list[OpSchema.Attribute]:
    """The attributes for scale and zero point of a tensor; 1 and 0 where they are not given."""
    return [OpSchema.Attribute(f"{letter}_scale", make_attribute(f"{letter}_scale", 1.0), f"Scale of {of}."),
            OpSchema.Attribute(f"{letter}_zero_point", make_attribute(f"{letter}_zero_point", 0),
                               f"Zero point of {of}.")]


RESULT = [
    OpSchema.Attribute("y_type", make_attribute("y_type", "uint8"), f"Element type of Y: {', '.join(RESULTS)}."),
    *scale_of("y", "Y, where that is quantised"),
    OpSchema.Attribute("low", make_attribute("low", -128), "The smallest code of Y; the activation's bound."),
    OpSchema.Attribute("high", make_attribute("high", 255), "The largest code of Y."),
]
"""The attributes that say what Y is. Relu and Clip are bounds: rounding is monotone, so clamping codes is exact."""


def limits(y_type: str, low: int, high: int) -> tuple[int, int]:
    """The bounds of codes within those of their type."""
    info = np.iinfo(y_type)
    return max(low, int(info.min)), min(high, int(info.max))


def quantize(values: np.ndarray, zero_point: int, y_type: str, low: int = -128, high: int = 255) -> np.ndarray:
    """Codes of float32 values that are in units of their scale: round half to even, add the zero point, saturate."""
    low, high = limits(y_type, low, high)
    codes = np.rint(values.astype(np.float32)) + np.float32(zero_point)
    return np.clip(np.nan_to_num(codes, nan=zero_point), low, high).astype(y_type)


def centred(codes: np.ndarray, zero_point: int) -> np.ndarray:
    """Codes less their zero point, as float64, whose products and sums are exact."""
    return codes.astype(np.float64) - zero_point


def units(scale: Any, of: Any) -> np.ndarray:
    """One scale in units of another, in float32."""
    return np.asarray(np.float32(scale) / np.float32(of))


def declared_type(_inputs: Sequence[int], attributes: Mapping[str, Any]) -> int:
    """The element type that the attribute `y_type` names."""
    name = attributes.get("y_type", "uint8")
    if name not in _ONNX:
        raise ValueError(f"y_type is '{name}', not one of {', '.join(RESULTS)}")
    return _ONNX[name]
