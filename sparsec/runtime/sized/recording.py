"""What is kept of a call while its steps are taken: values, where they lie, and what other calls repeat; see `flow`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.machine.memory import ALIGNMENT, aligned
from sparsec.runtime.sized.arena import Arena
from sparsec.runtime.sized.attention import FLOAT
from sparsec.runtime.sized.items import Item, Unplanned, copied
from sparsec.runtime.sized.kernels import Kernels
from sparsec.runtime.sized.rows import Splitter, Tensor
from sparsec.runtime.sized.windows import Geometry


@dataclass(frozen=True)
class Unread:
    """Windows that are read as rows, for as many of these at once as a function takes."""

    kernel: str
    x: np.ndarray
    found: Geometry


@dataclass(frozen=True)
class Value:
    """A value while it is known.

    Attributes:
        array: its contents.
        root: where the piece of memory begins that it lies in, None outside of the arena.
        late: every call makes it anew, elsewhere.
        windows: what it would be made from; `array` has no contents then.

    """

    array: Any
    root: int | None = None
    late: bool = False
    windows: Unread | None = None

    @property
    def fixed(self) -> bool:
        """Whether it is the same in all calls of these sizes."""
        return self.root is None and not self.late


class Recording:
    """A call; its results lie in an arena.

    Attributes:
        items: what other calls of the same sizes repeat.
        kept: what they hold addresses of.

    """

    def __init__(self, arena: Arena, kernels: Kernels, splitter: Splitter) -> None:
        self._arena, self._kernels, self._splitter = arena, kernels, splitter
        self.items: list[Item] = []
        self.kept: list[Any] = []
        self._values: dict[str | None, Value] = {}
        self._copies: dict[str | None, Value] = {}
        self._users: Counter[int] = Counter()
        self._words: list[int] = []
        self._operations = 0
        self._late: dict[str | None, Any] = {}

    def _piece(self, shape: tuple[int, ...], dtype: np.dtype[Any], more: int = 0) -> Value:
        """An array in the arena, with `more` bytes behind it that are its own."""
        nbytes = math.prod(shape) * dtype.itemsize
        root = self._arena.take(nbytes + more)
        array = self._arena.memory[root:root + nbytes].view(dtype).reshape(shape)
        return Value(array, root)

    def _enter(self, name: str | None, value: Value) -> None:
        if value.root is not None:
            self._users[value.root] += 1
        self._values[name] = value

    def _release(self, value: Value) -> None:
        if value.root is None:
            return
        self._users[value.root] -= 1
        if not self._users[value.root]:
            self._arena.give(value.root)

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
        if (before := self._copies.get(name)) is not None:
            self._release(before)
        if copy.root is not None:
            self._users[copy.root] += 1
        self._copies[name] = copy
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
