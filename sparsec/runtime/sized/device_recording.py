"""What is kept of a call on a device while its steps are taken: values there and here, and the work; see `device`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.kernels.divided_keys import MOST
from sparsec.machine.memory import ALIGNMENT, Again, Lane, Launch, Transfer, element_type
from sparsec.runtime.sized.arena import Arena
from sparsec.runtime.sized.device_kernels import Plan
from sparsec.runtime.sized.held import Held, Value
from sparsec.runtime.sized.items import Item, Unplanned
from sparsec.runtime.sized.rows import Tensor

RANK = 5
"""Dimensions of what a kernel copies at most, as `kernels.cuda.sized_copy` has them."""
FLOAT, HALF_BYTES = np.dtype(np.float32), 2


class PinnedFull(Exception):  # noqa: N818 - its owner takes more
    """The pinned memory must have so many bytes."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(nbytes)
        self.nbytes = nbytes


@dataclass(frozen=True)
class Brought:
    """A value of the device in pinned memory, and its type in the model."""

    pinned: np.ndarray
    dtype: np.dtype[Any]

    def array(self) -> np.ndarray:
        """It in memory of its own."""
        return self.pinned.astype(self.dtype)


class DeviceRecording(Held):
    """A call; the arena stands for the device's memory. Copies are those on the device of values of the processor.

    Args:
        plan: of the steps.
        lane: what kernels run on.
        arena: stands for the block.
        block: the device's memory.
        pinned: the processor's that the device reads.

    Attributes:
        items: what other calls of the same sizes repeat.
        last: the recorded work behind these, if there is some.
        behind: what comes behind that.
        left: by name the copies of outputs that are on the device then, for calls that want them.

    """

    def __init__(self, plan: Plan, lane: Lane, arena: Arena, block: Any, pinned: np.ndarray) -> None:
        super().__init__(arena)
        self._plan, self._halves, self._kernels = plan, plan.halves, plan.kernels
        self._lane, self._block, self._pinned = lane, block, pinned
        self._begin, self._pinned_end = arena.memory.ctypes.data, 0
        self.items: list[Item] = []
        self.last: Again | None = None
        self.behind: list[Item] = []
        self.left: dict[str | None, Transfer] = {}
        self._brought: dict[str | None, Brought] = {}
        self._told: set[str | None] = set()  # what was brought and entered among the values
        self._work: list[Launch | Transfer] = []
        self._late: dict[str | None, Any] = {}

    # Values on the device

    def _there(self, name: str, more: int = 0) -> Value:
        """A value on the device, with `more` bytes behind it if it comes from the processor."""
        value = self._copies.get(name, self._values[name])
        return value if value.root is not None else self._sent(name, more)

    def _sent(self, name: str, more: int, dtype: np.dtype[Any] | None = None) -> Value:
        """A value of the processor, or one that has been brought there, which every call sends."""
        value = self._values[name]
        array = np.asarray(value.array)
        pinned = self._pinned_array(array.shape, array.dtype if dtype is None else dtype)
        self._do(_sending(array if value.fixed else None, name, pinned))
        piece = self._piece(array.shape, pinned.dtype, more)
        if pinned.nbytes:
            self._work.append(Transfer(pinned, self._tensor(piece.array), back=False))
        self._keep(name, piece)
        return piece

    def _source(self, name: str, tensor: Tensor, rows: int, more: int) -> Value:
        """An input of a stage: rows one behind the other, with room for rows that nobody wants.

        Raises:
            ValueError: it has another number of rows.

        """
        value = self._there(name, more)
        array = value.array
        if array.size != math.prod(tensor.of_rows(rows)):
            raise ValueError(f"'{name}' of shape {array.shape} has not the {rows} rows that are computed with it")
        if array.dtype == tensor.dtype and array.flags.c_contiguous and value.root is not None:
            offset = self._offset(array)
            room = self._arena.room_behind(value.root) - (offset - value.root)
            if not offset % ALIGNMENT and room >= array.nbytes + more:
                return value
        return self._kept_copy(name, value, tensor.dtype, more)

    def _bring(self, name: str) -> None:
        """Copy a value of the device to pinned memory when the work so far is done."""
        if name in self._brought:
            return
        copy, contiguous = self._copy_back(name)
        if copy.array.nbytes:
            self._work.append(copy)
        if contiguous is not self._values[name]:
            self._forget(contiguous)

    def _leave(self, name: str) -> None:
        """Copy an output to pinned memory when all work is done, in calls that want it."""
        if name not in self._brought:
            copy, _ = self._copy_back(name)
            if copy.array.nbytes:
                self.left[name] = copy

    def _copy_back(self, name: str) -> tuple[Transfer, Value]:
        """The copy of a value to pinned memory, and what on the device is copied."""
        value = self._values[name]
        contiguous = value if value.array.flags.c_contiguous else self._contiguous(value)
        pinned = self._pinned_array(value.array.shape, value.array.dtype)
        self._brought[name] = Brought(pinned, self._declared(name))
        return Transfer(pinned, self._tensor(contiguous.array), back=True), contiguous

    def _declared(self, name: str) -> np.dtype[Any]:
        """The type of a value in the model: floats that the device stores in half precision are float32 there."""
        half = self._halves.get(name)
        return plain(self._values[name].array.dtype) if half is None else element_type(half)

    def _contiguous(self, value: Value, dtype: np.dtype[Any] | None = None, more: int = 0) -> Value:
        """A copy in C order."""
        array = value.array
        copy = self._piece(array.shape, array.dtype if dtype is None else dtype, more)
        self._copied(array, copy.array)
        return copy

    def _copied(self, array: np.ndarray, copy: np.ndarray) -> None:
        """Copy an array to another, which may be of the other type of floats."""
        if array.dtype == copy.dtype:
            bits = np.dtype(f"uint{8 * array.itemsize}")
            self._copying(f"copy_{bits.name}", array.view(bits), copy.view(bits))
        else:
            self._copying(f"copy_{array.dtype.name}_{copy.dtype.name}", array, copy)

    def _copying(self, name: str, array: np.ndarray, copy: np.ndarray) -> None:
        """The kernel that copies an array, perhaps once for each of its parts."""
        if not array.size:
            return
        axes = [axis for axis, size in enumerate(array.shape) if size > 1]
        sizes = _merged([(array.shape[axis], array.strides[axis] // array.itemsize,
                          copy.strides[axis] // copy.itemsize) for axis in axes])
        if len(sizes) > RANK:
            for part, to in zip(array, copy, strict=True):
                self._copying(name, part, to)
            return
        sizes = [(1, 0, 0)] * (RANK - len(sizes)) + sizes
        self._between(name, [array, copy], [numbers[what] for what in range(3) for numbers in sizes])

    def _kept_copy(self, name: str, value: Value, dtype: np.dtype[Any], more: int = 0) -> Value:
        """A copy of a value that stands for it from now on; what no kernel converts, the processor does."""
        if value.array.dtype == dtype or {value.array.dtype, dtype} == {FLOAT, element_type(self._kernels.half)}:
            copy = self._contiguous(value, dtype, more)
            self._keep(name, copy)
            return copy
        if self._values[name].root is not None:
            self._bring(name)
            self._tell(name)
        return self._sent(name, more, dtype)

    def _tell(self, name: str) -> None:
        """Enter what was brought among the values, once."""
        if name not in self._told:
            self._flush()
            self._told.add(name)
            self._do(_telling(name, self._brought[name]))

    # Memory

    def _piece(self, shape: tuple[int, ...], dtype: np.dtype[Any], more: int = 0) -> Value:
        """An array of the device, with `more` bytes behind it that are its own."""
        if math.prod(shape) > MOST:
            raise ValueError(f"an array of shape {shape} has more elements than kernels number")
        return super()._piece(shape, dtype, more)

    def _pinned_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        begin = self._pinned_end
        end = begin + math.prod(shape) * dtype.itemsize
        if end > self._pinned.nbytes:
            raise PinnedFull(end)
        self._pinned_end = end + -end % ALIGNMENT
        return self._pinned[begin:end].view(dtype).reshape(shape)

    def _forget(self, copy: Value) -> None:
        """Give back the memory of a copy that has no name; work that has it goes before what gets it next."""
        assert copy.root is not None
        self._arena.give(copy.root)

    def _offset(self, array: np.ndarray) -> int:
        """Bytes from where the block begins."""
        return int(array.ctypes.data) - self._begin

    def _tensor(self, array: np.ndarray) -> Any:
        """What lies between the first and the last element of an array, as a flat tensor."""
        if (reach := span(array)) > MOST:
            raise ValueError(f"an array of shape {array.shape} lies among more elements than kernels number")
        return self._lane.view(self._block, self._offset(array), (reach,), array.dtype.name)

    # Work

    def _between(self, name: str, arrays: Sequence[np.ndarray], numbers: Sequence[int]) -> None:
        """A kernel of run-time sizes."""
        self._launch(name, [self._tensor(array) for array in arrays], numbers)

    def _launch(self, name: str, tensors: Sequence[Any], numbers: Sequence[int]) -> None:
        """The same, of tensors of the device."""
        self._work.append(Launch(self._kernels.between(name), [*tensors, *(int(number) for number in numbers)]))

    def _do(self, item: Item) -> None:
        """An item that runs now, too."""
        item(self._late)
        self.items.append(item)

    def _flush(self) -> None:
        """Run the work so far, which is an item."""
        if self._work:
            again = self._lane.record(self._work)
            self.items.append(lambda _values: again())
            self._work = []

    def _end(self) -> None:
        """Run the work that is left."""
        if self._work:
            self.last = self._lane.record(self._work)


def span(array: np.ndarray) -> int:
    """Elements from the first to the last one of an array."""
    reach = sum((size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True))
    return int(1 + reach // array.itemsize)


def _sending(source: np.ndarray | None, name: str, pinned: np.ndarray) -> Item:
    """Copies an array, or the value of a name, to pinned memory."""
    def send(values: dict[str | None, Any]) -> None:
        found = values[name] if source is None else source
        if np.shape(found) != pinned.shape:
            raise Unplanned
        pinned[...] = found

    return send


def _telling(name: str, brought: Brought) -> Item:
    """Enters what was brought among the values."""
    def tell(values: dict[str | None, Any]) -> None:
        values[name] = brought.array()

    return tell


def plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that numpy computes in."""
    return FLOAT if dtype.itemsize == HALF_BYTES and dtype.kind not in "iu" else dtype


def _merged(dims: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Dimensions (size, stride, stride in the copy), of which neighbours that lie behind each other are one."""
    merged: list[tuple[int, int, int]] = []
    for size, source, to in dims:
        if merged and merged[-1][1:] == (size * source, size * to):
            merged[-1] = (merged[-1][0] * size, source, to)
        else:
            merged.append((size, source, to))
    return merged
