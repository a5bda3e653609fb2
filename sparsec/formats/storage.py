"""What all storage formats share: a weight becomes codes, and a format stores where they are and what they are.

A codec turns a weight into a matrix of codes, where zero is code 0 (but see `codecs.base`); a format stores such a
matrix as streams: its positions, and the codes as the stream "values". Weights of more than two dimensions are matrices
of one row per output. -0.0 counts as zero; NaN and infinity are values like any other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from sparsec.errors import FormatError
from sparsec.formats.bits import Stream, Symbols, pack, unpack
from sparsec.formats.codecs import CODECS, Codec
from sparsec.formats.huffman import expand

Streams = dict[str, Stream]


@dataclass(frozen=True)
class Encoded:
    """A stored weight.

    Attributes:
        format: how positions are stored.
        codec: how values are stored.
        shape: the weight's shape.
        streams: the format's positions, "values", and the codec's tables.

    """

    format: Format
    codec: Codec
    shape: tuple[int, ...]
    streams: Streams

    @property
    def nbytes(self) -> int:
        """Bytes of all streams, each rounded up to whole ones."""
        return sum(stream.nbytes for stream in self.streams.values())


class Format(ABC):
    """A way to store a weight; the subclasses are frozen dataclasses of its parameters."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name with the parameters, such as "bcsr 4x1"."""

    def reject(self, weight: np.ndarray) -> str | None:  # noqa: ARG002 - most formats take any weight
        """Why the format cannot store a weight, or None."""
        return None

    @abstractmethod
    def split(self, codes: Symbols) -> tuple[Streams, Symbols]:
        """The position streams of a matrix of codes, and the codes stored, padding included, in order."""

    @abstractmethod
    def join(self, streams: Streams, stored: Symbols, shape: tuple[int, int]) -> Symbols:
        """The matrix of codes; the inverse of `split`."""

    @abstractmethod
    def entries(self, m: int, shape: tuple[int, int]) -> float:
        """How many codes are expected to be stored for m non-zeros at random places."""

    @abstractmethod
    def analytic_bits(self, m: float, shape: tuple[int, int], k: int) -> float:
        """Bits of m stored codes of k bits with their positions (Hoefler et al. 2021, 2.2 and 7.1)."""

    def encode(self, weight: np.ndarray, codec: Codec = CODECS["f32"]) -> Encoded:
        """Store a weight of any shape and float type.

        Raises:
            FormatError: the format or the codec rejects it.

        """
        matrix = as_matrix(weight)
        for each, reason in ((self.name, self.reject(matrix)), (codec.name, codec.reject(matrix))):
            if reason is not None:
                raise FormatError(f"{each}: {reason}")
        return self.store(*codec.quantize(matrix), codec, np.shape(weight))

    def store(self, codes: Symbols, tables: Streams, codec: Codec, shape: tuple[int, ...]) -> Encoded:
        """Store a matrix of codes, which the format takes, of a weight of this shape, with the codec's tables."""
        streams, stored = self.split(codes)
        streams["values"] = pack(stored, codec.bits)
        return Encoded(self, codec, shape, streams | tables)

    def decode(self, encoded: Encoded) -> np.ndarray:
        """The weight as float32, exact for a lossless codec."""
        streams = {name: expand(stream) for name, stream in encoded.streams.items()}
        codes = self.join(streams, unpack(streams["values"]), matrix_shape(encoded.shape))
        return encoded.codec.restore(codes, streams).reshape(encoded.shape)

    def nbytes(self, encoded: Encoded) -> int:
        """Bytes that an encoded weight takes, by this format's own count."""
        return encoded.nbytes


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a weight: one row per output."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))


def as_matrix(weight: np.ndarray) -> np.ndarray:
    """The weight (outputs, …) as a matrix (outputs, inner); a vector is one row."""
    return np.reshape(weight, matrix_shape(np.shape(weight)))


def flat_positions(codes: Symbols) -> np.ndarray:
    """Where the non-zeros lie in row order, ascending."""
    return np.flatnonzero(codes)


def scatter(places: np.ndarray, stored: Symbols, shape: tuple[int, int]) -> Symbols:
    """A matrix of zeros with the stored codes at their places in row order."""
    codes = np.zeros(shape, stored.dtype)
    codes.reshape(-1)[places] = stored
    return codes
