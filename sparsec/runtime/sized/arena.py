"""Memory of a size, in which pieces are taken and given back: of the free places the first that is large enough."""

from __future__ import annotations

import mmap

import numpy as np

from sparsec.machine.memory import ALIGNMENT, aligned


class Full(Exception):  # noqa: N818 - its owner takes a larger one
    """There is no room for so many bytes."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(nbytes)
        self.nbytes = nbytes


def addresses(nbytes: int) -> np.ndarray:
    """What stands for memory elsewhere, so that numpy tells what another shape or order of it is; it takes none."""
    return np.frombuffer(mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ), np.uint8)


class Arena:
    """One block of memory.

    Args:
        nbytes: its size.
        memory: the block, if there is one.

    Attributes:
        memory: all of it.

    """

    def __init__(self, nbytes: int, memory: np.ndarray | None = None) -> None:
        self.memory = aligned((nbytes,), np.dtype(np.uint8)) if memory is None else memory
        self._free = [(0, nbytes)]
        self._taken: dict[int, int] = {}

    def take(self, nbytes: int) -> int:
        """Where a piece of so many bytes begins, aligned.

        Raises:
            Full: there is no room.

        """
        size = max(ALIGNMENT, nbytes + -nbytes % ALIGNMENT)
        for index, (start, end) in enumerate(self._free):
            if end - start >= size:
                self._free[index:index + 1] = [(start + size, end)] if end - start > size else []
                self._taken[start] = start + size
                return start
        raise Full(size)

    def give(self, start: int) -> None:
        """Give a piece back."""
        self._free.append((start, self._taken.pop(start)))
        merged: list[tuple[int, int]] = []
        for low, high in sorted(self._free):
            if merged and merged[-1][1] == low:
                merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        self._free = merged

    def room_behind(self, start: int) -> int:
        """Bytes of a piece."""
        return self._taken[start] - start

    def clear(self) -> None:
        """Give everything back."""
        self._free, self._taken = [(0, self.memory.nbytes)], {}
