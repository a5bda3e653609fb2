"""Streams of unsigned integers of any width, packed without gaps, the low bits first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.unsignedinteger[Any]]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Stream:
    """`count` symbols of `bits` bits each.

    Attributes:
        data: the bytes.
        count: symbols.
        bits: bits of a symbol, 0 to 64.
        coding: "packed", or "huffman" where `formats.huffman` made the bytes.

    """

    data: Bytes = field(repr=False)
    count: int
    bits: int
    coding: str = "packed"

    @property
    def nbytes(self) -> int:
        """Bytes of `data`, the last one filled up with zero bits."""
        return self.data.nbytes


def width(count: int) -> int:
    """Bits that tell `count` cases apart: ceil(log2 count)."""
    return max(0, count - 1).bit_length()


def symbol_dtype(bits: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds a symbol."""
    return np.dtype(next(kind for kind in ("u1", "<u2", "<u4", "<u8") if np.dtype(kind).itemsize * 8 >= bits))


def pack(symbols: NDArray[np.integer[Any]], bits: int) -> Stream:
    """Pack symbols, each less than 2**bits."""
    count = len(symbols)
    symbols = symbols.astype(symbol_dtype(bits), copy=False)
    if bits == 8 * symbols.itemsize:
        return Stream(np.ascontiguousarray(symbols).view(np.uint8), count, bits)
    eights = np.zeros((-(-count // 8), 8), symbols.dtype)
    eights.reshape(-1)[:count] = symbols
    packed = np.zeros((len(eights), bits), np.uint8)  # eight symbols are a whole number of bytes
    for column, byte, shift in _overlaps(bits):
        part = eights[:, column]
        packed[:, byte] |= (part << shift if shift >= 0 else part >> -shift).astype(np.uint8)
    return Stream(packed.reshape(-1)[: -(-count * bits // 8)], count, bits)


def unpack(stream: Stream) -> Symbols:
    """The symbols of a packed stream, in the smallest type that holds them."""
    dtype, bits = symbol_dtype(stream.bits), stream.bits
    if bits == 8 * dtype.itemsize:
        return np.frombuffer(stream.data, dtype, stream.count)
    packed = np.zeros((-(-stream.count // 8), bits), np.uint8)
    packed.reshape(-1)[: stream.nbytes] = stream.data
    eights = np.zeros((len(packed), 8), dtype)
    for column, byte, shift in _overlaps(bits):
        part = packed[:, byte].astype(dtype)
        eights[:, column] |= part >> shift if shift >= 0 else part << -shift
    mask = dtype.type((1 << bits) - 1)
    symbols: Symbols = eights.reshape(-1)[: stream.count] & mask
    return symbols


def differences(ends: Stream) -> NDArray[np.int64]:
    """The counts whose running sums a stream holds."""
    sums = unpack(ends).astype(np.int64)
    sums[1:] -= sums[:-1].copy()
    return sums


def _overlaps(bits: int) -> list[tuple[int, int, int]]:
    """Which of eight symbols reaches into which byte, and how far its lowest bit lies above the byte's."""
    return [(column, byte, column * bits - 8 * byte) for column in range(8) if bits
            for byte in range(column * bits // 8, (column * bits + bits - 1) // 8 + 1)]
