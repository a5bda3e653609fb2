"""N:M: at most N non-zeros in every M consecutive elements of a row (2:4 of NVIDIA's Ampere)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsec.errors import FormatError
from sparsec.formats.bits import Symbols, pack, unpack, width
from sparsec.formats.storage import Format, Streams


@dataclass(frozen=True)
class NM(Format):
    """Stream "places": the places in its group of N elements of every group; zeros complete groups of fewer."""

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise FormatError(f"nm {self.n}:{self.m}: N must be 1 to M")

    @property
    def name(self) -> str:
        """The name with N and M."""
        return f"nm {self.n}:{self.m}"

    def reject(self, weight: np.ndarray) -> str | None:
        """M must divide the columns, and no group may have more than N non-zeros."""
        if weight.shape[1] % self.m:
            return f"groups of {self.m} do not divide {weight.shape[1]} columns"
        fullest = int(group_counts(weight, self.m).max(initial=0))
        return f"a group has {fullest} non-zeros, more than {self.n}" if fullest > self.n else None

    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """The places and the codes of every group."""
        places, stored = split_groups(codes, self.n, self.m)
        return {"places": pack(places, width(self.m))}, stored

    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix (rows, columns) of codes."""
        return join_groups(unpack(streams["places"]), stored, shape, self.m)

    def entries(self, m: int, shape: tuple[int, int]) -> float:  # noqa: ARG002 - a fixed share
        """N of every M elements."""
        return math.prod(shape) * self.n / self.m

    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:  # noqa: ARG002 - places within groups
        """Bits: m (k + ceil(log2 M)), m counting N for every group."""
        return m * (k + width(self.m))


def group_counts(matrix: np.ndarray, size: int) -> np.ndarray:
    """Non-zeros of every group of `size` elements of a row; `size` divides the columns."""
    used = np.ascontiguousarray(matrix != 0)
    word = next((f"u{each}" for each in (8, 4, 2) if size % each == 0), "u1")  # of bytes that are 0 or 1
    words = np.bitwise_count(used.reshape(-1).view(word)).reshape(-1, size // np.dtype(word).itemsize)
    counts: np.ndarray = words[:, 0].astype(np.int64)
    for place in range(1, words.shape[1]):  # faster than a sum along a short axis
        counts += words[:, place]
    return counts


def columns(weight: np.ndarray) -> np.ndarray:
    """A weight (outputs, inputs, *kernel) as the matrix whose groups count: by place in the kernel, then by input.

    The kernels for N:M weights take M channels at one place of a convolution's kernel.
    """
    return np.moveaxis(weight, 1, -1).reshape(len(weight), -1)


def best_of_groups(scores: np.ndarray, n: int, m: int) -> np.ndarray:
    """Which N of every M consecutive elements of a row score highest, of equals the first; M divides the columns."""
    groups = scores.reshape(len(scores), -1, m)
    kept = np.zeros(groups.shape, bool)
    np.put_along_axis(kept, np.argsort(-groups, axis=2, kind="stable")[..., :n], True, 2)
    return kept.reshape(scores.shape)


def split_groups(codes: Symbols, keep: int, size: int) -> tuple[np.ndarray, Symbols]:
    """Places and codes of `keep` elements of every group: its non-zeros in order, then zeros at place 0."""
    groups = codes.reshape(-1, size)
    flat = np.flatnonzero(groups)
    group, place = np.divmod(flat, size)
    counts = group_counts(codes, size)
    rank = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.zeros((len(groups), keep), np.uint8 if size <= 256 else np.uint32)
    stored = np.zeros((len(groups), keep), codes.dtype)
    places[group, rank], stored[group, rank] = place, groups.reshape(-1)[flat]
    return places.ravel(), stored.ravel()


def join_groups(places: Symbols, stored: Symbols, shape: tuple[int, int], size: int) -> Symbols:
    """The matrix of `split_groups`; stored zeros are padding, whatever their place."""
    codes = np.zeros((math.prod(shape) // size, size), stored.dtype)
    real = np.flatnonzero(stored)
    keep = len(stored) // len(codes) if len(codes) else 1
    codes[real // max(1, keep), places[real]] = stored[real]
    return codes.reshape(shape)
