"""The step that takes a recurrence through all its steps, see `compiler.sized.recurrent`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sparsec.machine.memory import aligned
from sparsec.runtime.sized.kernels import Kernels

FLOAT = 4  # bytes
Operation = tuple[int, int, list[int]]
"""A block's address, how often it runs, and its bases."""


class Recurrent:
    """A step; one call at a time.

    Args:
        kernels: of the runner.
        number: of the recurrence.
        hidden: elements of a state.

    """

    def __init__(self, kernels: Kernels, number: int, hidden: int) -> None:
        self._kernels, self._number, self._hidden = kernels, number, hidden

    def run(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """The states, the last state and the last cell."""
        x, h, c, lengths = (None if each is None else np.ascontiguousarray(each) for each in inputs)
        assert x is not None
        steps, batch, _ = x.shape
        h, c = (np.zeros((batch, self._hidden), np.float32) if each is None else each for each in (h, c))
        y = np.empty((steps + 2, batch, self._hidden), np.float32)
        if steps and batch:
            lengths = np.zeros(batch, np.int32) if lengths is None else lengths
            kept, operations = self.operations((x, h, c, lengths, y))
            found = list(operations)
            words = [word for block, repeat, bases in found for word in (block, repeat, *bases)]
            self._kernels.program([len(found), *words])()
            del kept
        else:
            y[steps:] = h, c
        return [y[:steps], y[steps], y[steps + 1]]

    def operations(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, Iterator[Operation]]:
        """What a program does, for inputs and result in memory, and the sizes, which it reads."""
        sizes = aligned((2,), np.dtype(np.int64))
        sizes[:] = arrays[0].shape[:2]
        return sizes, self._parts(sizes, arrays)

    def _parts(self, sizes: np.ndarray, arrays: Sequence[np.ndarray]) -> Iterator[Operation]:
        """The largest numbers of members that there are kernels for, one after the other."""
        widths = [each.itemsize * (each.shape[-1] if each.ndim > 1 else 1) for each in arrays]
        first, batch = 0, int(sizes[1])
        for count in self._kernels.members:
            while batch - first >= count:
                block = self._kernels.recurrence(self._number, count, self._hidden)
                addresses = [each.ctypes.data + first * width for each, width in zip(arrays, widths, strict=True)]
                yield block.address, 1, [sizes.ctypes.data, *addresses]
                first += count
