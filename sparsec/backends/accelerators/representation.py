"""How operands are stored: schemes with exact sizes, each encoding fibres, the rows of a matrix of integers.

An encoder gives the words of a memory with their widths; a decoder gives the entries that hardware would walk over,
padding included. `Scheme.count` and `Scheme.bits` say the same of a mask without encoding it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Words:
    """The words of one memory, all of the same width in bits, not negative."""

    values: NDArray[np.int64]
    width: int


@dataclass(frozen=True)
class Stored:
    """Encoded fibres.

    Attributes:
        shape: fibres and their length.
        value_bits: bits of a value, two's complement.
        memories: words by memory.

    """

    shape: tuple[int, int]
    value_bits: int
    memories: Mapping[str, Words]

    @property
    def bits(self) -> int:
        """Size of all memories."""
        return sum(words.values.size * words.width for words in self.memories.values())

    def signed(self, memory: str) -> NDArray[np.int64]:
        """The values of a memory of values."""
        values = self.memories[memory].values
        return values - ((values >> (self.value_bits - 1)) << self.value_bits)


@dataclass(frozen=True)
class Entries:
    """Decoded fibres: of fibre i the entries from starts[i] to starts[i + 1], each a position in it and a value."""

    positions: NDArray[np.int64]
    values: NDArray[np.int64]
    starts: NDArray[np.int64]

    def fibre(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions and values of one fibre, in order."""
        part = slice(self.starts[index], self.starts[index + 1])
        return self.positions[part], self.values[part]

    def dense(self, shape: tuple[int, int]) -> NDArray[np.int64]:
        """The fibres with their zeros."""
        full = np.zeros(shape, np.int64)
        full[np.repeat(np.arange(shape[0]), np.diff(self.starts)), self.positions] = self.values
        return full


class Scheme(ABC):
    """A way to store fibres.

    Attributes:
        family: the survey's name of it (Hoefler et al. 2021, table 1).

    """

    family: ClassVar[str]

    @abstractmethod
    def encode(self, fibres: NDArray[np.int32], value_bits: int) -> Stored:
        """Store (fibres, length) integers of `value_bits` bits."""

    @abstractmethod
    def decode(self, stored: Stored) -> Entries:
        """The entries."""

    @abstractmethod
    def count(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(fibres,) how many entries each has, given where its (fibres, length) values are not zero."""

    @abstractmethod
    def bits(self, mask: NDArray[np.bool_], value_bits: int) -> int:
        """The size of what `encode` gives."""


def fill(values: NDArray[Number], *spare: int) -> NDArray[Number]:
    """Values with so many zeros more at the end of each of the first axes: `np.pad` takes long for small ones."""
    if not any(spare):
        return values
    full = np.zeros([size + more for size, more in itertools.zip_longest(values.shape, spare, fillvalue=0)],
                    values.dtype)
    full[tuple(map(slice, values.shape))] = values
    return full


def _unsigned(values: NDArray[np.int32], bits: int) -> NDArray[np.int64]:
    return values.astype(np.int64) & ((1 << bits) - 1)


def count_rows(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(rows,) the set places of each."""
    counts: NDArray[np.int64] = mask.sum(axis=1, dtype=np.int64)
    return counts


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(counts)))


@dataclass(frozen=True)
class Dense(Scheme):
    """Every value, zeros too."""

    family: ClassVar[str] = "-"

    def encode(self, fibres: NDArray[np.int32], value_bits: int) -> Stored:
        """All values."""
        return Stored((fibres.shape[0], fibres.shape[1]), value_bits,
                      {"values": Words(_unsigned(fibres, value_bits).ravel(), value_bits)})

    def decode(self, stored: Stored) -> Entries:
        """All values."""
        fibres, length = stored.shape
        return Entries(np.tile(np.arange(length), fibres), stored.signed("values"), np.arange(fibres + 1) * length)

    def count(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """All values."""
        return np.full(len(mask), mask.shape[1], np.int64)

    def bits(self, mask: NDArray[np.bool_], value_bits: int) -> int:
        """All values."""
        return mask.size * value_bits


@dataclass(frozen=True)
class RunLength(Scheme):
    """Compressed columns: an entry is a value and the zeros before it; a longer run takes padding entries of value 0.

    Attributes:
        run_bits: bits of the number of zeros.
        count_bits: bits of the number of a fibre's entries; 0 where it is known otherwise.

    """

    run_bits: int = 4
    count_bits: int = 0
    family: ClassVar[str] = "CSC"

    def encode(self, fibres: NDArray[np.int32], value_bits: int) -> Stored:
        """Values, the zeros before each, and the entries of a fibre."""
        row, column, gap = _gaps(fibres != 0)
        padding = gap >> self.run_bits
        last = np.cumsum(padding + 1) - 1  # the entry that holds the value
        runs = np.full(int((padding + 1).sum()), (1 << self.run_bits) - 1, np.int64)
        runs[last] = gap & ((1 << self.run_bits) - 1)
        values = np.zeros(len(runs), np.int64)
        values[last] = _unsigned(fibres[row, column], value_bits)
        counts = np.bincount(row, weights=padding + 1, minlength=len(fibres)).astype(np.int64)
        memories = {"values": Words(values, value_bits), "runs": Words(runs, self.run_bits),
                    "counts": Words(counts, self.count_bits)}
        return Stored((fibres.shape[0], fibres.shape[1]), value_bits, memories)

    def decode(self, stored: Stored) -> Entries:
        """Padding entries too."""
        starts = _starts(stored.memories["counts"].values)
        ends = np.cumsum(stored.memories["runs"].values + 1)
        before = np.concatenate(([0], ends))[starts[:-1]]
        return Entries(ends - 1 - np.repeat(before, np.diff(starts)), stored.signed("values"), starts)

    def count(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Non-zeros and padding."""
        row, _, gap = _gaps(mask)
        return np.bincount(row, weights=(gap >> self.run_bits) + 1, minlength=len(mask)).astype(np.int64)

    def bits(self, mask: NDArray[np.bool_], value_bits: int) -> int:
        """Entries and their numbers."""
        return int(self.count(mask).sum()) * (value_bits + self.run_bits) + len(mask) * self.count_bits


def _gaps(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]:
    """Of every non-zero its row, its column and the zeros between it and the one before."""
    row, column = np.nonzero(mask)
    first = np.ones(len(row), np.bool_)
    first[1:] = row[1:] != row[:-1]
    before = np.where(first, -1, np.concatenate(([-1], column[:-1])) if len(column) else column)
    return row, column, column - before - 1


@dataclass(frozen=True)
class Bitmap(Scheme):
    """One bit a value, and the values that are not zero.

    Attributes:
        chunk: values that one pointer, `pointer_bits` wide, leads to; 0 where there are no pointers.
        pointer_bits: its width.

    """

    chunk: int = 0
    pointer_bits: int = 0
    family: ClassVar[str] = "BM"

    def encode(self, fibres: NDArray[np.int32], value_bits: int) -> Stored:
        """Bits, the values that they announce, and pointers to chunks of those."""
        mask = fibres != 0
        pointers = np.zeros(self._pointers(mask), np.int64)
        if self.chunk:
            chunk = max(1, min(self.chunk, fibres.shape[1]))
            padded = fill(mask, 0, -fibres.shape[1] % chunk)
            pointers[...] = _starts(padded.reshape(-1, chunk).sum(axis=1))[:-1]
        return Stored((fibres.shape[0], fibres.shape[1]), value_bits, {
            "bitmap": Words(mask.ravel().astype(np.int64), 1), "pointers": Words(pointers, self.pointer_bits),
            "values": Words(_unsigned(fibres[mask], value_bits), value_bits)})

    def decode(self, stored: Stored) -> Entries:
        """The non-zeros."""
        mask = stored.memories["bitmap"].values.reshape(stored.shape) != 0
        return Entries(np.nonzero(mask)[1], stored.signed("values"), _starts(mask.sum(axis=1)))

    def count(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Non-zeros."""
        return count_rows(mask)

    def bits(self, mask: NDArray[np.bool_], value_bits: int) -> int:
        """Bits, values and pointers."""
        return int(mask.size + np.count_nonzero(mask) * value_bits + self._pointers(mask) * self.pointer_bits)

    def _pointers(self, mask: NDArray[np.bool_]) -> int:
        return len(mask) * -(-mask.shape[1] // self.chunk) if self.chunk else 0


@dataclass(frozen=True)
class Offsets(Scheme):
    """Coordinates: bricks of `brick` values that keep their room, the non-zeros first, each with its offset.

    Attributes:
        brick: values of a brick.

    """

    brick: int = 16
    family: ClassVar[str] = "COO*"

    def encode(self, fibres: NDArray[np.int32], value_bits: int) -> Stored:
        """Whole bricks of values and offsets."""
        bricks = _bricks(fibres, self.brick)
        order = np.argsort(bricks == 0, axis=1, kind="stable")
        values = np.take_along_axis(bricks, order, axis=1)
        offsets = np.where(values != 0, order, 0)  # a zero with offset 0 ends a brick
        return Stored((fibres.shape[0], fibres.shape[1]), value_bits, {
            "values": Words(_unsigned(values, value_bits).ravel(), value_bits),
            "offsets": Words(offsets.astype(np.int64).ravel(), max(1, (self.brick - 1).bit_length()))})

    def decode(self, stored: Stored) -> Entries:
        """The non-zeros."""
        values, offsets = stored.signed("values"), stored.memories["offsets"].values
        per_fibre = -(-stored.shape[1] // self.brick) * self.brick
        position = np.arange(values.size) % per_fibre // self.brick * self.brick + offsets
        kept = values != 0
        return Entries(position[kept], values[kept],
                       _starts(kept.reshape(stored.shape[0], -1).sum(axis=1)))

    def count(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Non-zeros."""
        return count_rows(mask)

    def bits(self, mask: NDArray[np.bool_], value_bits: int) -> int:
        """Slots, full or not."""
        slots = len(mask) * -(-mask.shape[1] // self.brick) * self.brick
        return int(slots * (value_bits + max(1, (self.brick - 1).bit_length())))


def _bricks(fibres: NDArray[np.int32], brick: int) -> NDArray[np.int32]:
    """(bricks, brick) the fibres in pieces, the last of each filled with zeros."""
    return fill(fibres, 0, -fibres.shape[1] % brick).reshape(-1, brick)


@dataclass(frozen=True)
class BlockIndex(Scheme):
    """Coordinates of blocks: whole blocks of `block` values where any is not zero, and each one's place in its fibre.

    Attributes:
        block: values of a block, next to each other.

    """

    block: int = 16
    family: ClassVar[str] = "COO"

    def encode(self, fibres: NDArray[np.int32], value_bits: int) -> Stored:
        """Values of blocks, their places, and how many blocks each fibre has."""
        blocks = _bricks(fibres, self.block).reshape(len(fibres), -1, self.block)
        kept = np.count_nonzero(blocks, axis=2) > 0
        return Stored((fibres.shape[0], fibres.shape[1]), value_bits, {
            "values": Words(_unsigned(blocks[kept], value_bits).ravel(), value_bits),
            "places": Words(np.nonzero(kept)[1].astype(np.int64), self._place_bits(kept.shape[1])),
            "counts": Words(count_rows(kept), kept.shape[1].bit_length())})

    def decode(self, stored: Stored) -> Entries:
        """All values of the blocks, as far as the fibre goes."""
        counts, places = stored.memories["counts"].values, stored.memories["places"].values
        fibre = np.repeat(np.repeat(np.arange(len(counts)), counts), self.block)
        position = (places[:, None] * self.block + np.arange(self.block)).ravel()
        within = position < stored.shape[1]
        return Entries(position[within], stored.signed("values")[within],
                       _starts(np.bincount(fibre[within], minlength=len(counts))))

    def count(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Values of blocks."""
        kept = self._kept(mask)
        sizes = np.minimum(self.block, mask.shape[1] - np.arange(kept.shape[1]) * self.block)
        return np.asarray(kept @ sizes, np.int64)

    def bits(self, mask: NDArray[np.bool_], value_bits: int) -> int:
        """Blocks, places and counts."""
        kept = self._kept(mask)
        return self.size(int(np.count_nonzero(kept)), (kept.shape[0], kept.shape[1]), value_bits)

    def size(self, kept: int, shape: tuple[int, int], value_bits: int) -> int:
        """The bits of so many kept blocks of (fibres, blocks)."""
        return kept * (self.block * value_bits + self._place_bits(shape[1])) + shape[0] * shape[1].bit_length()

    def _kept(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        padded = fill(mask, 0, -mask.shape[1] % self.block)
        kept: NDArray[np.bool_] = np.count_nonzero(padded.reshape(len(mask), -1, self.block), axis=2) > 0
        return kept

    def _place_bits(self, blocks: int) -> int:
        return max(1, (blocks - 1).bit_length())
