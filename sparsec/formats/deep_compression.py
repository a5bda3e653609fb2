"""The files of Deep Compression (Han et al., ICLR 2016), as the authors published SqueezeNet.

Little-endian: one uint32 count of entries a layer; then, per layer, a codebook of 256 float32, the biases as float32,
an 8-bit code an entry, and a 4-bit zero run an entry, two to a byte, low half first. Entries are those of
`formats.eie` with one PE and the weight as one column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.errors import FormatError
from sparsec.formats import eie

CODEBOOK = 256


@dataclass(frozen=True)
class Layer:
    """One layer of a file.

    Attributes:
        codebook: (256,) float32 shared values; the first is zero.
        bias: (outputs,) float32.
        codes: uint8 index of every weight, of the weight's shape (outputs, …).

    """

    codebook: NDArray[np.float32]
    bias: NDArray[np.float32]
    codes: eie.Codes

    @property
    def weight(self) -> NDArray[np.float32]:
        """The weight (outputs, …) as float32, zeros included."""
        return self.codebook[self.codes]


def decode(data: bytes, shapes: Sequence[tuple[int, ...]]) -> list[Layer]:
    """The layers of a file, given the shapes of their weights, which the file does not hold.

    Raises:
        FormatError: the file's length or an entry does not fit the shapes.

    """
    if len(data) < 4 * len(shapes):
        raise FormatError(f"deep compression: {len(data)} bytes are too few for {len(shapes)} layers")
    counts = np.frombuffer(data, "<u4", len(shapes)).astype(np.int64)
    sizes = np.array([(4 * CODEBOOK, 4 * shape[0], count, -(-count // 2))
                      for count, shape in zip(counts, shapes, strict=True)])
    expected = 4 * len(shapes) + int(sizes.sum())
    if len(data) != expected:
        raise FormatError(f"deep compression: {len(data)} bytes where the entry counts ask for {expected}: "
                          "the file is damaged or of another network")
    ends = 4 * len(shapes) + np.cumsum(sizes).reshape(-1, 4)
    layers = []
    for shape, (start, *cuts, end) in zip(shapes, np.column_stack((ends[:, 0] - sizes[:, 0], ends)), strict=True):
        codebook, bias, codes, halves = np.split(np.frombuffer(data[start:end], np.uint8), np.array(cuts) - start)
        runs = np.column_stack((halves & 15, halves >> 4)).ravel()[: len(codes)]
        pointers = np.array([[0, len(codes)]])
        stored = eie.InterleavedColumns((math.prod(shape), 1), 4, codes, runs, pointers)
        layers.append(Layer(codebook.view("<f4"), bias.view("<f4"), eie.decode(stored).reshape(shape)))
    return layers


def encode(layers: Sequence[Layer]) -> bytes:
    """The file of these layers; the inverse of `decode`, byte for byte."""
    counts: list[int] = []
    parts: list[NDArray[Any]] = []
    for layer in layers:
        stored = eie.encode(layer.codes.reshape(-1, 1))
        halves = np.append(stored.runs, np.zeros(len(stored.runs) % 2, np.uint8)).reshape(-1, 2)
        counts.append(len(stored.codes))
        parts += [layer.codebook.astype("<f4"), layer.bias.astype("<f4")]
        parts += [stored.codes, halves[:, 0] | halves[:, 1] << 4]
    return b"".join(part.tobytes() for part in (np.array(counts, "<u4"), *parts))
