"""Quantised constants and tensors as ONNX writes them: codes in front of a DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import constant
from sparsec.graph.nodes import optional

MOVES = ("Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze", "Expand",
         "Gather", "DepthToSpace", "SpaceToDepth", "Split", "Tile")
"""What moves elements of the first input, codes as well as what they stand for, and reads nothing else of it."""


@dataclass(frozen=True)
class Codes:
    """A constant tensor of codes.

    Attributes:
        codes: as stored.
        scale, zero_point: arrays that broadcast to the codes.
        axis: along which they differ, -1 where there is one of each, None where there are some for blocks.

    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None

    def values(self) -> np.ndarray:
        """The float32 tensor that the codes stand for."""
        centred = self.codes.astype(np.float32) - self.zero_point.astype(np.float32)
        return np.asarray(centred * self.scale.astype(np.float32), np.float32)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """The codes of float32 values of the same shape, rounded to the nearest."""
        info = np.iinfo(self.codes.dtype)
        steps = np.divide(values, self.scale, out=np.zeros(np.shape(values)), where=self.scale != 0)
        codes = np.rint(steps) + self.zero_point
        return np.asarray(np.clip(codes, info.min, info.max), self.codes.dtype)


def dequantized(value: ir.Value | None) -> Codes | None:
    """The constant codes that a value is dequantised from, or None."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.domain:
        return None
    codes, scale = constant(node.inputs[0]), constant(node.inputs[1])
    given = optional(node, 2)
    zero = constant(given)
    if codes is None or scale is None or (zero is None and given is not None):
        return None
    zero = np.zeros(scale.shape, np.int32) if zero is None else zero
    return _aligned(codes, scale, zero, node)


def _aligned(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, node: ir.Node) -> Codes:
    block = int(node.attributes.get_int("block_size", 0))
    axis = int(node.attributes.get_int("axis", 1))
    if block:
        axis %= codes.ndim
        wide = [np.repeat(array, block, axis).take(range(codes.shape[axis]), axis) for array in (scale, zero)]
        return Codes(codes, wide[0], wide[1], None)
    if scale.size == 1:
        return Codes(codes, scale.reshape(()), zero.reshape(()), -1)
    axis %= codes.ndim
    shape = [-1 if each == axis else 1 for each in range(codes.ndim)]
    return Codes(codes, scale.reshape(shape), zero.reshape(shape), axis)


@dataclass(frozen=True)
class Quantized:
    """A computed tensor of codes: its scale, zero point and element type ("uint8" or "int8")."""

    codes: ir.Value
    scale: float
    zero_point: int
    dtype: str

    @property
    def parameters(self) -> tuple[float, int, str]:
        """What two tensors have in common whose codes mean the same."""
        return self.scale, self.zero_point, self.dtype


def quantization(node: ir.Node | None, op_type: str) -> tuple[float, int, str] | None:
    """The one scale, zero point and type of 8-bit codes that a DequantizeLinear or QuantizeLinear has as constants."""
    if node is None or node.op_type != op_type or node.domain:
        return None
    scale = constant(node.inputs[1])
    given = optional(node, 2)
    zero = constant(given)
    if scale is None or scale.size != 1 or scale.dtype != np.float32 or (zero is None and given is not None):
        return None
    of = node.inputs[0] if op_type == "DequantizeLinear" else node.outputs[0]
    dtype = None if of is None or of.dtype is None else of.dtype.numpy().name
    if zero is not None and zero.dtype.name != dtype:
        return None
    number = float(scale.reshape(()))
    if dtype not in ("uint8", "int8") or not np.isfinite(number) or number <= 0:
        return None
    return number, 0 if zero is None else int(zero.reshape(())), dtype


def dequantization(value: ir.Value | None) -> Quantized | None:
    """What a value is dequantised from, where that is 8-bit codes with one scale; constants included."""
    node = None if value is None else value.producer()
    found = quantization(node, "DequantizeLinear")
    if found is None or node is None or node.inputs[0] is None:
        return None
    return Quantized(node.inputs[0], *found)
