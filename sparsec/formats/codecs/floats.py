"""Floating-point codecs: f32 (lossless), f16 and bf16; a code is the number's bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from sparsec.formats.bits import Stream, Symbols
from sparsec.formats.codecs.base import Codec

DTYPES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Float(Codec):
    """Values rounded to a floating-point type, a key of `DTYPES`."""

    kind: str

    @property
    def name(self) -> str:
        """Its key in `CODECS`, the floating-point type."""
        return self.kind

    @property
    def bits(self) -> int:
        """Bits of a number of the type."""
        return int(8 * DTYPES[self.kind].itemsize)

    @property
    def lossless(self) -> bool:
        """Whether it is float32."""
        return self.kind == "f32"

    def reject(self, weight: np.ndarray) -> str | None:
        """Finite values beyond the type's range are refused, not made infinite."""
        if self.lossless and np.asarray(weight).dtype == np.float32:
            return None
        overflow = np.isfinite(weight) & ~np.isfinite(self._rounded(weight).astype(np.float32))
        return f"{weight[overflow].ravel()[0]:g} is beyond the type's range" if overflow.any() else None

    def quantize(self, weight: np.ndarray) -> tuple[Symbols, dict[str, Stream]]:
        """The bits of the rounded values; both zeros are code 0."""
        rounded = self._rounded(weight)
        codes = np.ascontiguousarray(rounded).view(f"u{rounded.itemsize}")
        negative = codes == codes.dtype.type(1 << (8 * rounded.itemsize - 1))
        return np.where(negative, codes.dtype.type(0), codes) if negative.any() else codes, {}

    def restore(self, codes: Symbols, tables: Mapping[str, Stream]) -> np.ndarray:  # noqa: ARG002 - it has none
        """The codes' bits as numbers of the type, widened to float32 (rows, columns)."""
        values: np.ndarray = np.ascontiguousarray(codes).view(DTYPES[self.kind])
        return values.astype(np.float32, copy=False)

    def _rounded(self, weight: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.asarray(weight, np.float32).astype(DTYPES[self.kind], copy=False))
