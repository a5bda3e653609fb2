"""Eight-bit integers with one scale for every row: w = scale * code, |error| <= scale / 2, scale = max |w| / 127."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sparsec.formats.bits import Stream, Symbols, pack, unpack
from sparsec.formats.codecs.base import Codec, not_finite


@dataclass(frozen=True)
class Int8(Codec):
    """Symmetric integers; small values of a row become zero."""

    @property
    def name(self) -> str:
        """Its key in `CODECS`."""
        return "int8"

    @property
    def bits(self) -> int:
        """Bits that each code is stored in."""
        return 8

    def reject(self, weight: np.ndarray) -> str | None:
        """NaN and infinity are refused: they have no code."""
        return not_finite(np.asarray(weight).astype(np.float32))

    def quantize(self, weight: np.ndarray) -> tuple[Symbols, dict[str, Stream]]:
        """The codes as bytes in two's complement, and the table "scales"."""
        weight = np.asarray(weight).astype(np.float32)
        scales = np.abs(weight).max(axis=1, initial=0) / np.float32(127)
        divisor = np.where(scales > 0, scales, 1)[:, None]
        codes = np.clip(np.rint(weight / divisor), -127, 127).astype(np.int8)
        return codes.view(np.uint8), {"scales": pack(scales.view(np.uint32), 32)}

    def restore(self, codes: Symbols, tables: Mapping[str, Stream]) -> np.ndarray:
        """Codes as int8 times their row's scale, float32 (rows, columns)."""
        scales = unpack(tables["scales"]).view(np.float32)
        return np.ascontiguousarray(codes).view(np.int8).astype(np.float32) * scales[:, None]
