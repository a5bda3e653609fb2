"""Four-bit integers with a scale for every `BLOCK` columns of a row: w = scale * code, codes from -8 to 7.

The scale is the one of a few that leaves the least squared error of its block, as llama.cpp searches it for its Q4_0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sparsec.formats.bits import Stream, Symbols, pack, unpack
from sparsec.formats.codecs.base import Codec, not_finite

BLOCK = 32
LEAST, MOST = -8, 7
STEPS = (7.0, 7.5, 8.0, 8.6, 9.3)
"""What the largest magnitude of a block is divided by, in turn."""
MOST_SCALE = 60000.0
"""Scales are float16."""


@dataclass(frozen=True)
class Int4(Codec):
    """Symmetric integers of blocks; small values of a block become zero."""

    @property
    def name(self) -> str:
        """Its key in `CODECS`."""
        return "int4"

    @property
    def bits(self) -> int:
        """Bits that each code is stored in."""
        return 4

    def reject(self, weight: np.ndarray) -> str | None:
        """NaN and infinity are refused, as they have no code, and what float16 scales do not reach."""
        weight = np.asarray(weight).astype(np.float32)
        if np.abs(weight).max(initial=0) > MOST_SCALE:
            return not_finite(weight) or "its largest value is beyond what a float16 scale reaches"
        return not_finite(weight)

    def quantize(self, weight: np.ndarray) -> tuple[Symbols, dict[str, Stream]]:
        """The codes in two's complement, and the table "scales"."""
        weight = np.asarray(weight).astype(np.float32)
        codes, scales = blocks_of(weight)
        nibbles = codes.reshape(len(weight), codes.shape[1] * BLOCK)[:, :weight.shape[1]].view(np.uint8) & 15
        return np.ascontiguousarray(nibbles), {"scales": pack(scales.ravel().view(np.uint16), 16)}

    def restore(self, codes: Symbols, tables: Mapping[str, Stream]) -> np.ndarray:
        """Codes times their block's scale, float32 (rows, columns)."""
        rows, columns = codes.shape
        scales = unpack(tables["scales"]).astype(np.uint16).view(np.float16).astype(np.float32)
        scales = scales.reshape(rows, -(-columns // BLOCK))
        signed = (np.asarray(codes).astype(np.int16) + MOST + 1) % 16 + LEAST
        return signed.astype(np.float32) * scales.repeat(BLOCK, axis=1)[:, :columns]


def blocks_of(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The codes (rows, blocks, BLOCK) as int8 and the float16 scales (rows, blocks) of a weight, padded with zeros."""
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % BLOCK))).astype(np.float32, copy=False)
    blocks = padded.reshape(len(weight), padded.shape[1] // BLOCK, BLOCK)
    places = np.abs(blocks).argmax(axis=2)[..., np.newaxis]
    ends = -np.take_along_axis(blocks, places, axis=2)[..., 0]  # the largest magnitude has the code of -8
    best, scales = np.full(ends.shape, np.inf, np.float32), np.zeros(ends.shape, np.float16)
    for step in STEPS:
        scale = (ends / np.float32(step)).astype(np.float16)
        error = np.square(values_of(_codes(blocks, scale), scale) - blocks).sum(axis=2)
        scales = np.where(error < best, scale, scales)
        best = np.minimum(best, error)
    return _codes(blocks, scales), scales


def _codes(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The nearest codes for scales."""
    wide = scales.astype(np.float32)[..., np.newaxis]
    steps = np.divide(blocks, wide, out=np.zeros_like(blocks), where=wide != 0)
    return np.asarray(np.clip(np.rint(steps), LEAST, MOST), np.int8)


def values_of(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The values (rows, blocks, BLOCK) of codes."""
    return np.asarray(codes.astype(np.float32) * scales.astype(np.float32)[..., np.newaxis])
