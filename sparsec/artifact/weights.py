"""What `weights.bin` holds: buffers one behind the other, wherever these are: in memory, in temporary files, or mapped.

Nothing is joined before it is written, so that a model may have more weights than the machine has memory.
"""

from __future__ import annotations

import bisect
import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparsec.machine.memory import ALIGNMENT

CHUNK = 1 << 22
"""Bytes that are hashed and written at once."""


@dataclass(frozen=True, eq=False)
class Weights:
    """The bytes of all weights.

    Attributes:
        nbytes: how many there are.
        pieces: by their offset, in order, buffers of single bytes; what lies between them is zero.

    """

    nbytes: int
    pieces: tuple[tuple[int, memoryview], ...]

    @classmethod
    def of(cls, data: bytes | memoryview) -> Weights:
        """Those that lie in one buffer."""
        return cls(len(data), ((0, memoryview(data)),))

    def __len__(self) -> int:
        return self.nbytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weights) and len(self) == len(other) and self.sha256() == other.sha256()

    def __hash__(self) -> int:
        return hash(self.sha256())

    def part(self, offset: int, nbytes: int) -> memoryview:
        """Some of the bytes: where they are, if they lie in one piece."""
        index = bisect.bisect_right(self.pieces, offset, key=lambda piece: piece[0]) - 1
        if index >= 0:
            first, piece = self.pieces[index]
            if offset + nbytes <= first + len(piece):
                return piece[offset - first:offset - first + nbytes]
        return memoryview(b"".join(self._chunks(offset, offset + nbytes)))

    def chunks(self) -> Iterator[memoryview]:
        """All bytes, a few at a time."""
        return self._chunks(0, self.nbytes)

    def _chunks(self, begin: int, end: int) -> Iterator[memoryview]:
        at = begin
        for first, piece in (*self.pieces, (self.nbytes, memoryview(b""))):
            if gap := min(first, end) - at:
                yield from _split(memoryview(bytes(max(0, gap))))
            at = max(at, min(first, end))
            stop = min(end, first + len(piece))
            if stop > at:
                yield from _split(piece[at - first:stop - first])
                _give_back(piece)
                at = stop

    def sha256(self) -> str:
        """The hash of all bytes, in hexadecimal."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


def _split(data: memoryview) -> Iterator[memoryview]:
    """A buffer in parts of `CHUNK` bytes."""
    return (data[start:start + CHUNK] for start in range(0, len(data), CHUNK))


def _give_back(piece: memoryview) -> None:
    """Let the pages of a mapped piece go, which come again when they are read; so writing many takes no memory."""
    owner: object = piece
    while isinstance(owner, memoryview | np.ndarray):
        owner = owner.obj if isinstance(owner, memoryview) else owner.base
    if isinstance(owner, mmap.mmap):
        first, start = (np.frombuffer(each, np.uint8).ctypes.data for each in (piece, owner))
        begin = -(-(first - start) // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (first - start + len(piece)) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            owner.madvise(mmap.MADV_DONTNEED, begin, end - begin)


class Layout:
    """Arrays that become weights, each at a multiple of `ALIGNMENT`."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, memoryview]] = []
        self._end = 0

    def append(self, array: np.ndarray | memoryview) -> int:
        """Place an array's bytes behind the others; its offset."""
        data = array if isinstance(array, memoryview) else np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        offset = self._end + -self._end % ALIGNMENT
        self._end = offset + len(data)
        if len(data):
            self._pieces.append((offset, data))
        return offset

    def weights(self) -> Weights:
        """Everything that was placed."""
        return Weights(self._end, tuple(self._pieces))
