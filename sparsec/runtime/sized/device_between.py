"""What a device has kernels for between stages of rows, beside attention, and which branches a call takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparsec.graph.sized import IM2COL, IM2COL_CODES, LEVELS, LEVELS_LENGTH, LEVELS_PARTS, SIZED_DOMAIN
from sparsec.kernels.divided_keys import MOST
from sparsec.machine.memory import Transfer, element_type
from sparsec.runtime.sized.device_attention import INDEX, Attending
from sparsec.runtime.sized.device_recording import FLOAT, span
from sparsec.runtime.sized.held import Value
from sparsec.runtime.sized.items import Item, Unplanned
from sparsec.runtime.sized.windows import WEIGHTED, Geometry, geometry, kernel_of

CODES = np.dtype(np.uint8)
PART = 4096
"""Numbers whose ends a thread block finds, unless there are more than `LEVELS_PARTS` of these."""


class Between(Attending):
    """A recording that calls these.

    Attributes:
        natively: by operator the method that takes its steps.
        kept: memory of the device that work reads, beside the block.
        stands: where constants lie that the device has, too: from which address how many bytes, and its memory.

    """

    natively: ClassVar[dict[str, str]] = {
        f"{SIZED_DOMAIN}::{LEVELS}": "_levels", "recurrence": "_recurrence", "windows": "_windows"}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.kept: list[Any] = []
        self.stands: list[tuple[int, int, Any]] = []
        self._settled: dict[bytes, Any] = {}
        self._chosen: dict[str, bool] = {}

    # Branches

    def _is_taken(self, when: Sequence[tuple[str, bool]]) -> bool:
        """Whether a step is one of the branches that are chosen; an If in another has no condition."""
        return all(name in self._values and self._holds(name) is chosen for name, chosen in when)

    def _holds(self, name: str) -> bool:
        """Whether a condition holds; where it does not in another call, that is recorded anew."""
        if name not in self._chosen:
            self._chosen[name] = holds = bool(np.all(self._here(name)))
            if not self._values[name].fixed:
                self._do(_same(name, holds, lambda array: bool(np.all(array))))
        return self._chosen[name]

    def _here(self, name: str) -> Any:
        """What a value is in this call, on the processor."""
        value = self._values[name]
        if value.root is not None:
            self._bring(name)
            self._tell(name)
        return value.array if value.fixed else self._late[name]

    # Kernels

    def _levels(self, step: Mapping[str, Any]) -> None:
        """Scale and zero point of all numbers of a value."""
        (name,) = step["inputs"]
        count = np.size(self._values[name].array)
        if not count:
            found = [Value(np.ones((), FLOAT)), Value(np.zeros((), CODES))]
        else:
            array, found = self._near(name), [self._piece((), dtype) for dtype in (FLOAT, CODES)]
            parts = min(LEVELS_PARTS, -(-count // PART))
            partial = self._piece((parts * LEVELS_LENGTH,), FLOAT)
            self._between(f"levels_{array.dtype.name}", [array, partial.array, *(each.array for each in found)],
                          [count, parts])
            self._forget(partial)
        for output, value in zip(step["outputs"], found):  # noqa: B905 - one may be absent
            self._enter(output, value)

    def _recurrence(self, step: Mapping[str, Any]) -> None:
        """All steps of every member of a batch."""
        name, *others = step["inputs"]
        steps, batch, _ = np.shape(self._values[name].array)
        shape = steps + 2, batch, step["hidden"]
        if not batch:
            whole = Value(np.zeros(shape, FLOAT))
        else:
            whole, x = self._piece(shape, FLOAT), self._near(name, FLOAT)
            given = [x if each is None else self._near(each, FLOAT) for each in others[:2]]
            given.append(self._nothing(INDEX) if others[2] is None else self._near(others[2], INDEX))
            constants = [self._lane.view(tensor, 0, (size,), FLOAT.name)
                         for tensor, size in self._kernels.recurrences[step["number"]]]
            self._launch(f"recurrence{step['number']}", [*constants, *map(self._tensor, (x, *given, whole.array))],
                         [steps, batch, *(each is not None for each in others)])
        for output, array in zip(step["outputs"], (  # noqa: B905 - the last may be absent
                whole.array[:steps], whole.array[steps], whole.array[steps + 1])):
            if output:
                self._enter(output, Value(array, whole.root))

    def _windows(self, step: Mapping[str, Any]) -> None:
        """What windows of images hold."""
        name, *more = step["inputs"]
        kind, codes = step["kind"], step["kind"] == IM2COL_CODES
        image = self._values[name].array
        found = geometry(kind, step["attributes"], [image, *map(self._steady, more)])
        dtype = image.dtype if codes else element_type(self._kernels.half)
        (output,) = step["outputs"]
        if not math.prod(found.shape):
            self._enter(output, Value(np.zeros(found.shape, dtype if codes else FLOAT)))
            return
        x, rows = self._near(name, dtype), math.prod(found.shape[:-1])
        padded = sum(self._plan.splitter.parts(rows)) - rows
        out = self._piece(found.shape, dtype, padded * found.shape[-1] * dtype.itemsize)
        arrays = [each.view(CODES) if codes else each for each in (x, out.array)]
        if kind in WEIGHTED:
            extra = [self._weight(more[0])]
        else:
            extra = [self._settle(found.extra.view(CODES) if codes else found.extra)] if kind in EXTRA else []
        self._launch(kernel_of(step), [self._settle(found.tables.astype(INDEX)), self._tensor(arrays[0]), *extra,
                                       self._tensor(arrays[1])], _numbers(kind, found))
        self._enter(output, out)

    def _joined(self, step: Mapping[str, Any]) -> bool:
        """Put values side by side by copies, if the device has some of them and copies all; whether it does."""
        values = [self._values.get(name) for name in step["inputs"]]
        if step["op"] != "Concat" or not any(value is not None and value.root is not None for value in values):
            return False
        arrays = [np.asarray(value.array) for value in values if value is not None]
        types, half = {array.dtype for array in arrays}, element_type(self._kernels.half)
        if len(types) > 1 and not types <= {FLOAT, half}:
            return False
        axis = step["attributes"].get("axis", 0) % arrays[0].ndim
        shape = list(arrays[0].shape)
        if len({(*array.shape[:axis], *array.shape[axis + 1:]) for array in arrays}) > 1:
            raise ValueError(f"what becomes '{step['outputs'][0]}' has the shapes "
                             f"{', '.join(str(array.shape) for array in arrays)}, which differ beside axis {axis}")
        shape[axis] = sum(array.shape[axis] for array in arrays)
        if not math.prod(shape):
            return False
        whole, first = self._piece(tuple(shape), FLOAT if len(types) > 1 else arrays[0].dtype), 0
        for name, array in zip(step["inputs"], arrays, strict=True):
            end = first + array.shape[axis]
            if array.size:
                source = self._standing(name, array.dtype) if self._is_constant(name) else self._there(name).array
                self._copied(source, whole.array[(slice(None),) * axis + (slice(first, end),)])
            first = end
        self._enter(step["outputs"][0], whole)
        return True

    # What kernels read

    def _near(self, name: str, dtype: np.dtype[Any] | None = None) -> np.ndarray:
        """A value of an element type, or floats, whose elements lie one behind the other."""
        floats = FLOAT, element_type(self._kernels.half)
        if self._is_constant(name):
            array = np.asarray(self._values[name].array)
            return self._standing(name, dtype or (array.dtype if array.dtype in floats else FLOAT))
        value = self._there(name)
        wanted = dtype if dtype is not None else value.array.dtype if value.array.dtype in floats else FLOAT
        if value.array.dtype != wanted or not value.array.flags.c_contiguous:
            value = self._kept_copy(name, value, wanted)
        return np.asarray(value.array)

    def _is_constant(self, name: str) -> bool:
        """Whether a value is the same in all calls of a program."""
        return name in self._plan.constants and self._values[name].fixed

    def _standing(self, name: str, dtype: np.dtype[Any]) -> np.ndarray:
        """A constant in C order, of an element type: kernels that are told of this array read what was sent once."""
        held, key = self._kernels.standing, (name, dtype.name)
        with self._kernels.once:
            if key not in held:
                held[key] = np.asarray(self._values[name].array, dtype, order="C")
        array: np.ndarray = held[key]
        if array.nbytes:
            memory, _ = self._resident(name, array.view(CODES) if array.dtype == bool else array)
            self.stands.append((array.ctypes.data, array.nbytes, memory))
        return array

    def _tensor(self, array: np.ndarray) -> Any:
        """As elsewhere, or of a constant that stands on the device."""
        at = int(array.ctypes.data)
        for begin, nbytes, memory in self.stands:
            if begin <= at < begin + nbytes:
                return self._lane.view(memory, at - begin, (span(array),), array.dtype.name)
        return super()._tensor(array)

    def _resident(self, name: str, array: np.ndarray) -> tuple[Any, Any]:
        """The memory and tensor of a constant, in an element type, which all calls read where it was sent once."""
        key, found = (name, array.dtype.name), self._kernels.resident
        with self._kernels.once:
            if key not in found:
                memory = self._lane.allocate(array.nbytes)
                tensor = self._lane.view(memory, 0, (array.size,), array.dtype.name)
                self._lane.do([Transfer(np.ascontiguousarray(array), tensor, back=False)])
                found[key] = memory, tensor
        self.kept.append(found[key][0])
        return found[key]

    def _nothing(self, dtype: np.dtype[Any]) -> np.ndarray:
        """What stands for an array that nobody reads."""
        value = self._piece((1,), dtype)
        self._forget(value)
        return np.asarray(value.array)

    def _steady(self, name: str | None) -> Any:
        """A value that decides sizes, or is constant; where it is another in another call, that is recorded anew."""
        if name is None:
            return None
        array = self._here(name)
        if not self._values[name].fixed:
            self._do(_same(name, np.array(array).tolist(), lambda found: np.asarray(found).tolist()))
        return array

    def _weight(self, name: str) -> Any:
        """A constant of the device, flat."""
        tensor, size = self._kernels.weights[name]
        return self._lane.view(tensor, 0, (size,), FLOAT.name)

    def _settle(self, array: np.ndarray) -> Any:
        """A small array that follows from sizes, which is sent once."""
        key = array.dtype.name.encode() + array.tobytes()
        if key not in self._settled:
            memory = self._lane.allocate(array.nbytes)
            self.kept.append(memory)
            self._settled[key] = self._lane.view(memory, 0, (array.size,), array.dtype.name)
            self._lane.do([Transfer(np.ascontiguousarray(array), self._settled[key], back=False)])
        return self._settled[key]


EXTRA = ("AveragePool", "Resize", IM2COL_CODES)
"""Kinds that take factors by place, or the code of padding."""
SHUFFLE = "PixelShuffle"


def _numbers(kind: str, found: Geometry) -> list[int]:
    """What the kernel is told; where whole windows are copied, the channels of a result are those of all pixels."""
    total, *sizes, last = found.sizes
    if kind in (IM2COL, IM2COL_CODES, SHUFFLE):
        _, _, rows_in, columns_in, channels, *_ = sizes
        last = rows_in * columns_in * channels
    if total * last > MOST:
        raise ValueError(f"windows of {total} x {last} numbers are more than kernels number")
    return [total, *sizes, last]


def _same(name: str, expected: Any, of: Any) -> Item:
    """Sees that a value is what it was when the call was recorded."""
    def check(values: dict[str | None, Any]) -> None:
        if of(values[name]) != expected:
            raise Unplanned

    return check
