"""What a value codec does: weights to codes of a fixed number of bits and back.

Zero is code 0, but for "seed", whose code 0 is what a seed has drawn: formats store the codes that are not 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from sparsec.formats.bits import Stream, Symbols


class Codec(ABC):
    """A way to store values; the subclasses are frozen dataclasses of its parameters."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name with the parameters, such as "codebook4"."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits that each code is stored in."""

    @property
    def lossless(self) -> bool:
        """Whether every float32 comes back as it was (but -0.0 as 0.0)."""
        return False

    @abstractmethod
    def reject(self, weight: np.ndarray) -> str | None:
        """Why the codec cannot store a weight, or None."""

    @abstractmethod
    def quantize(self, weight: np.ndarray) -> tuple[Symbols, dict[str, Stream]]:
        """The codes of a matrix, and the tables that `restore` needs."""

    @abstractmethod
    def restore(self, codes: Symbols, tables: Mapping[str, Stream]) -> np.ndarray:
        """The float32 matrix of codes."""


def not_finite(weight: np.ndarray) -> str | None:
    """The reason of codecs that have no code for NaN or infinity."""
    return None if np.isfinite(weight).all() else "NaN or infinite values have no code; store them with f32"
