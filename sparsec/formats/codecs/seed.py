"""Random weights as the seed that drew them: what was frozen takes 32 bits in all (Wimmer et al. 2023, eq. 21).

A weight that is the sign that the seed draws (`formats.draws`) times the magnitude of its row has code 0, so that
formats for sparse weights store what was trained and nothing else. The others are the bits of their float32, a zero
those of -0.0. A weight that no seed has drawn is stored as f32 stores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sparsec.formats.bits import Stream, Symbols, pack, unpack
from sparsec.formats.codecs.base import Codec
from sparsec.formats.codecs.floats import Float
from sparsec.formats.draws import seed_of, signs

ZERO = np.uint32(0x80000000)


@dataclass(frozen=True)
class Seed(Codec):
    """Signs that a seed draws, times a magnitude a row, or one for all rows; the tables "seed" and "magnitudes"."""

    @property
    def name(self) -> str:
        """Its key in `CODECS`."""
        return "seed"

    @property
    def bits(self) -> int:
        """Bits of a weight that is not as it was drawn."""
        return 32

    @property
    def lossless(self) -> bool:
        """Always."""
        return True

    def reject(self, weight: np.ndarray) -> str | None:
        """What f32 refuses."""
        return Float("f32").reject(weight)

    def quantize(self, weight: np.ndarray) -> tuple[Symbols, dict[str, Stream]]:
        """The codes, and the tables; without a seed the tables are empty."""
        single = np.ascontiguousarray(weight, np.float32)
        bits = single.view(np.uint32)
        plain = np.where(single == 0, np.uint32(0), bits)
        magnitudes = np.array([_usual(row) for row in np.abs(single)], np.float32).reshape(-1, 1)
        frozen = (np.abs(single) == magnitudes) & (magnitudes > 0)
        seed = seed_of((single > 0).ravel(), frozen.ravel())
        if seed is None:
            return plain, {"seed": pack(np.zeros(0, np.uint32), 32), "magnitudes": pack(np.zeros(0, np.uint32), 32)}
        drawn = magnitudes * signs(seed, single.shape)
        stored = magnitudes[:1] if (magnitudes == magnitudes[0]).all() else magnitudes
        codes = np.where(single == drawn, np.uint32(0), np.where(single == 0, ZERO, bits))
        return codes, {"seed": pack(np.array([seed], np.uint32), 32),
                       "magnitudes": pack(stored.ravel().view(np.uint32), 32)}

    def restore(self, codes: Symbols, tables: Mapping[str, Stream]) -> np.ndarray:
        """The float32 matrix (rows, columns) of codes."""
        held = np.ascontiguousarray(codes, np.uint32)
        values = np.where(held == ZERO, np.uint32(0), held).view(np.float32)
        seed = unpack(tables["seed"])
        if not len(seed):
            return values
        magnitudes = unpack(tables["magnitudes"]).view(np.float32).reshape(-1, 1)
        return np.where(held == 0, magnitudes * signs(int(seed[0]), held.shape), values)


def _usual(magnitudes: np.ndarray) -> float:
    """The magnitude that most of a row's weights have; 0 where no two are equal."""
    found, counts = np.unique(magnitudes[magnitudes > 0], return_counts=True)
    return float(found[counts.argmax()]) if len(found) and counts.max() > 1 else 0.0
