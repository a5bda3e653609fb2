"""What is kept of a call while its steps are taken: values, where they lie, and what other calls repeat; see `flow`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsec.machine.memory import ALIGNMENT, aligned
from sparsec.runtime.sized.arena import Arena
from sparsec.runtime.sized.attention import FLOAT
from sparsec.runtime.sized.held import Held, Value
from sparsec.runtime.sized.items import Item, Unplanned, copied
from sparsec.runtime.sized.kernels import Kernels
from sparsec.runtime.sized.rows import Splitter, Tensor


class Recording(Held):
    """A call; its results lie in an arena.

    Attributes:
        items: what other calls of the same sizes repeat.
        kept: what they hold addresses of.

    """

    def __init__(self, arena: Arena, kernels: Kernels, splitter: Splitter) -> None:
        super().__init__(arena)
        self._kernels, self._splitter = kernels, splitter
        self.items: list[Item] = []
        self.kept: list[Any] = []
        self._words: list[int] = []
        self._operations = 0
        self._late: dict[str | None, Any] = {}

    def _source(self, name: str, tensor: Tensor, rows: int, padded: int) -> Value:
        """An input of a stage, whose rows lie one behind the other, with room for rows that nobody wants."""
        value = self._copies.get(name, self._values[name])
        array, width = value.array, tensor.dtype.itemsize * math.prod(tensor.shape)
        if array.dtype != tensor.dtype or array.size * array.itemsize != rows * width:
            raise Unplanned
        if value.root is not None and array.flags.c_contiguous and not array.ctypes.data % ALIGNMENT:
            offset = array.ctypes.data - self._arena.memory.ctypes.data - value.root
            if offset + padded * width <= self._arena.room_behind(value.root):
                return value
        return self._copied(name, (padded - rows) * width)

    def _copied(self, name: str, more: int = 0) -> Value:
        """A value where kernels can read it, with zeros behind it."""
        value = self._values[name]
        array = np.asarray(value.array)
        if value.fixed:
            own = aligned((array.nbytes + more,), np.dtype(np.uint8))
            copy = Value(own[:array.nbytes].view(array.dtype).reshape(array.shape))
            copy.array[...] = array
            self.kept.append(own)
            return copy
        copy = self._piece(array.shape, array.dtype, more)
        assert copy.root is not None
        end = copy.root + array.nbytes
        self._do(copied(None if value.late else array, name, copy.array, self._arena.memory[end:end + more]))
        self._keep(name, copy)
        return copy

    def _floats(self, name: str) -> np.ndarray:
        """A value as the kernels between stages read it: features are neighbours, and it stays where it is."""
        value = self._copies.get(name, self._values[name])
        array = value.array
        if array.dtype != np.float32:
            raise Unplanned
        near = array.strides[-1:] == (FLOAT,) or array.shape[-1:] == (1,)
        if value.late or not near or min(array.strides, default=0) < 0 or (value.fixed and not array.flags.writeable):
            array = self._copied(name).array
        elif value.fixed:
            self.kept.append(array)
        return np.asarray(array)

    def _zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Zeros that the items may hold the address of."""
        self.kept.append(np.zeros(shape, dtype))
        return np.asarray(self.kept[-1])

    def _contiguous(self, name: str) -> np.ndarray:
        """A value whose elements lie one behind the other, and stay where they are."""
        value = self._copies.get(name, self._values[name])
        if value.late or value.fixed or not value.array.flags.c_contiguous:
            return np.asarray(self._copied(name).array)
        return np.asarray(value.array)

    def _numbers(self, numbers: Sequence[int]) -> np.ndarray:
        """Integers that the items may hold the address of."""
        told = aligned((len(numbers),), np.dtype(np.int64))
        told[:] = numbers
        self.kept.append(told)
        return told

    def _operation(self, block: int, repeat: int, bases: Sequence[int]) -> None:
        self._words += [block, repeat, *bases]
        self._operations += 1

    def _flush(self) -> None:
        """Run the operations so far, which are an item."""
        if not self._operations:
            return
        program = self._kernels.program([self._operations, *self._words])
        self._words, self._operations = [], 0
        self._do(lambda _values: program())

    def _do(self, item: Item) -> None:
        """An item that runs now, too, behind the operations so far."""
        self._flush()
        item(self._late)
        self.items.append(item)
