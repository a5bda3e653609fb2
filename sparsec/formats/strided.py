"""Strided (Anwar et al. 2017): behind an offset, only every stride-th element may be non-zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsec.formats.bits import Symbols, pack, unpack, width
from sparsec.formats.storage import Format, Streams, flat_positions


@dataclass(frozen=True)
class Strided(Format):
    """Stream "header": offset and stride; the codes are all before the offset, and every stride-th from it on."""

    @property
    def name(self) -> str:
        """Its key in `FORMATS`, with the parameters behind it where it has any."""
        return "strided"

    def reject(self, weight: np.ndarray) -> str | None:
        """The stride must leave something out."""
        offset, stride = fit(weight)
        return "no stride leaves any element out" if _stored(weight.size, offset, stride) == weight.size > 0 else None

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """Offset and stride, and the codes."""
        offset, stride = fit(codes)
        flat = codes.ravel()
        header = pack(np.array([offset, stride]), width(codes.size + 1))
        return {"header": header}, np.concatenate([flat[:offset], flat[offset::stride]])

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        offset, stride = map(int, unpack(streams["header"]))
        flat = np.zeros(math.prod(shape), stored.dtype)
        flat[:offset] = stored[:offset]
        flat[offset :: max(1, stride)] = stored[offset:]
        return flat.reshape(shape)

    def entries(self, m: int, shape: tuple[int, int]) -> float:
        """All elements: random places have no stride."""
        return math.prod(shape) if m > 1 else m

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:
        """Bits: m k and two numbers up to n."""
        return m * k + 2 * width(math.prod(shape) + 1)


def fit(matrix: np.ndarray) -> tuple[int, int]:
    """The offset and stride that store the fewest elements."""
    n, places = matrix.size, flat_positions(matrix)
    if not len(places):
        return 0, max(1, n)
    # Behind each non-zero the stride can be the greatest common divisor of the distances that follow.
    strides = np.append(np.gcd.accumulate(np.diff(places)[::-1])[::-1], n)
    before = np.append(-1, places[:-1])
    offsets = places - strides * ((places - before - 1) // strides)
    best = int(np.argmin(_stored(n, offsets, strides)))
    return int(offsets[best]), int(strides[best])


def _stored(n: int, offset: np.ndarray | int, stride: np.ndarray | int) -> np.ndarray | int:
    return offset + -(-(n - offset) // stride)
