"""Activations of 8 bits: what a code stands for, and how a float becomes one.

Those of "uint8" and "int8" stand for scale * (code - zero point) and are rounded as QuantizeLinear rounds, to nearest
even and saturated. Those of "e4m3" stand for scale * code, of 4 bits of exponent and 3 of mantissa (OCP's FP8), and
saturate at 448.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import ptx
from sparsec.kernels.emit.tir import Buffer, Expr

E4M3 = "e4m3"
E4M3_LARGEST = 448.0
STORED = {E4M3: "uint8"}
"""The element type of buffers of numbers that TIR computes nothing with."""


@dataclass(frozen=True)
class Codes:
    """What the codes of a tensor stand for.

    Attributes:
        dtype: "uint8", "int8" or "e4m3".
        scale: of the whole tensor, positive.
        zero_point: the code of zero; 0 for e4m3.

    """

    dtype: str
    scale: float
    zero_point: int = 0

    @property
    def stored(self) -> str:
        """The element type of a buffer of codes."""
        return STORED.get(self.dtype, self.dtype)

    @property
    def numbers(self) -> np.ndarray:
        """Scale and zero point, as kernels take them, so that those of one shape share their code."""
        return np.array([self.scale, self.zero_point], np.float32)


def of_range(least: float, largest: float, dtype: str, *, padded: bool = False) -> Codes:
    """The codes of a tensor whose numbers lie between two of its samples, zero among them.

    Args:
        least: at most 0.
        largest: at least 0.
        dtype: "int8", which allows uint8, or "e4m3".
        padded: zeros are put around the tensor, whose code has to be 0.

    """
    if dtype == E4M3:
        return Codes(E4M3, _positive(max(largest, -least) / E4M3_LARGEST))
    if least >= 0:
        return Codes("uint8", _positive(largest / 255))
    if padded:
        return Codes("int8", _positive(max(largest, -least) / 127))
    scale = _positive((largest - least) / 255)
    return Codes("uint8", scale, int(np.clip(np.rint(-least / scale), 0, 255)))


def _positive(scale: float) -> float:
    """A scale as float32 holds it, 1 for a tensor of zeros."""
    rounded = float(np.float32(scale))
    return rounded if rounded > 0 else 1.0


def encode(values: np.ndarray, codes: Codes) -> np.ndarray:
    """The codes of float32 values, as kernels make them; e4m3 as its bytes."""
    units = values.astype(np.float32) / np.float32(codes.scale)
    if codes.dtype == E4M3:
        narrow = np.clip(units, -E4M3_LARGEST, E4M3_LARGEST).astype(ml_dtypes.float8_e4m3fn)
        return np.asarray(narrow.view(np.uint8))
    info = np.iinfo(codes.dtype)
    return np.asarray(np.clip(np.rint(units) + np.float32(codes.zero_point), info.min, info.max), codes.dtype)


def decode(stored: np.ndarray, codes: Codes) -> np.ndarray:
    """The codes less their zero point, as float32, in units of the scale."""
    if codes.dtype == E4M3:
        return np.asarray(stored.view(ml_dtypes.float8_e4m3fn), np.float32)
    return np.asarray(stored.astype(np.float32) - np.float32(codes.zero_point))


def encoded(value: Expr, dtype: str, codes: Buffer) -> Expr:
    """The code of a float as a number of the type that is stored; `codes` holds `Codes.numbers`."""
    units = value / codes[0]
    if dtype == E4M3:
        pair = ptx.registers(1, "uint16")
        ptx.emit("cvt.rn.satfinite.e4m3x2.f32", pair[0], T.float32(0), units)
        return T.Cast("uint8", pair[0])
    info = np.iinfo(dtype)
    moved = T.nearbyint(units) + codes[1]
    inside = T.min(T.max(moved, T.float32(float(info.min))), T.float32(float(info.max)))
    return T.Cast(dtype, T.Cast("int32", inside))
