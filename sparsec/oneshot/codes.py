"""Weights that a file holds as integers: what they stand for, and the nearest codes of what they become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

INTEGERS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


@dataclass(frozen=True)
class Codes:
    """Codes q stand for (q - zero) scale; both broadcast to the weight as it is stored, `zero` in the codes' type."""

    scale: np.ndarray
    zero: np.ndarray

    def values(self, codes: np.ndarray) -> np.ndarray:
        """What codes stand for, in float32."""
        return np.asarray((codes.astype(np.float32) - self.zero.astype(np.float32)) * self.scale)

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """The codes of values; those of 0 are the zero point."""
        limits = np.iinfo(self.zero.dtype)
        codes = np.rint(values / self.scale) + self.zero.astype(np.float32)
        return np.asarray(codes.clip(limits.min, limits.max), self.zero.dtype)


def codes_of(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> Codes | str:
    """What a DequantizeLinear of a constant says of its codes; otherwise why they are left as they are."""
    code, scale, *zero = (tensors.get(name) for name in node.input if name)
    if code is None or scale is None or None in zero or code.data_type not in INTEGERS:
        return "its weight is quantised with computed scales, or in other codes than int8 and uint8"
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if attributes.get("block_size"):
        return "its weight is quantised in blocks"
    steps = numpy_helper.to_array(scale).astype(np.float32)
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        return "its weight is quantised with scales that are not positive"
    held = numpy_helper.to_array(code).dtype
    zeros = numpy_helper.to_array(zero[0]) if zero and zero[0] is not None else np.zeros(steps.shape, held)
    if steps.ndim == 1 and len(code.dims) > 1:
        axis = attributes.get("axis", 1) % len(code.dims)
        shape = [-1 if place == axis else 1 for place in range(len(code.dims))]
        steps, zeros = steps.reshape(shape), zeros.reshape(shape)
    return Codes(steps, zeros.astype(held))
