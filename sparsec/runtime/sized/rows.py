"""Row stages: functions compiled for a few numbers of rows, of which as many calls as needed make any number."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.machine import tvm_runtime
from sparsec.machine.memory import ALIGNMENT, aligned, carrier, element_type

DIRECT_BYTES = 1 << 14
"""Bytes of rows from which on a function reads them where they are, rather than from a buffer."""


@dataclass(frozen=True)
class Tensor:
    """What every row of a tensor holds, or one that is the same `whole` for all rows."""

    dtype: np.dtype[Any]
    carrier: str
    shape: tuple[int, ...]
    whole: bool = False

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Tensor:
        """The tensor of its JSON form."""
        return cls(element_type(fields["dtype"]), carrier(fields["dtype"]), tuple(fields["shape"]),
                   bool(fields.get("whole", False)))

    def of_rows(self, rows: int, before: int = 0) -> tuple[int, ...]:
        """The shape of some rows, behind so many dimensions of size 1."""
        return self.shape if self.whole else (*[1] * before, rows, *self.shape)


class Splitter:
    """How rows are divided among functions for some numbers of rows, by what each takes.

    Args:
        seconds: by number of rows, what a call takes.

    Attributes:
        spare: rows that the last call may have beyond those that are left.

    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._seconds = dict(sorted(seconds.items()))
        self._largest = max(self._seconds)
        self.spare = self._largest - 1
        self._best: dict[int, list[tuple[float, int]]] = {}
        self.parts = functools.lru_cache(maxsize=4096)(self._parts)

    def takes(self, parts: Sequence[int]) -> float:
        """Seconds of calls for so many rows each."""
        return sum(self._seconds[part] for part in parts)

    def divides(self, rows: int, step: int) -> bool:
        """Whether `parts` has an answer."""
        return rows <= self._largest or not self._largest % step

    def _parts(self, rows: int, step: int = 1) -> tuple[int, ...]:
        """The numbers of rows of the calls, in order, the largest first; the last may have more than are left.

        All but the last are multiples of `step`, so that each begins where memory is aligned; the largest number is
        one of any step.
        """
        whole = max(0, rows // self._largest - 1)
        rest = rows - whole * self._largest
        best = self._best.setdefault(step, [(0.0, 0)])
        while len(best) <= rest:
            count = len(best)
            cost, part = min((seconds + best[max(0, count - part)][0], -part)
                             for part, seconds in self._seconds.items() if part >= count or not part % step)
            best.append((cost, -part))
        parts = [self._largest] * whole
        while rest > 0:
            parts.append(best[rest][1])
            rest -= parts[-1]
        return tuple(sorted(parts, reverse=True))


class RowStage:
    """A row stage with the functions of one virtual machine; one call at a time.

    Args:
        rank: dimensions that are rows.
        given, made: what it reads and gives.
        functions: by number of rows.
        splitter: shared by all stages.

    """

    def __init__(self, rank: int, given: Sequence[Tensor], made: Sequence[Tensor],
                 functions: Mapping[int, Callable[..., Any]], splitter: Splitter) -> None:
        self._rank, self._given, self._made, self._functions = rank, given, made, functions
        self._splitter = splitter
        runtime = tvm_runtime.load()
        self._share, self._item = runtime.from_dlpack, runtime.get_item
        self._buffers: dict[int, list[tuple[np.ndarray, Any]]] = {}

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for inputs of any, equally many, rows."""
        lead = arrays[0].shape[:self._rank]
        rows = math.prod(lead)
        flat = [np.ascontiguousarray(array).reshape(tensor.of_rows(rows))
                for array, tensor in zip(arrays, self._given, strict=True)]
        parts = self._splitter.parts(rows)
        if len(parts) == 1 and parts[0] == rows:
            return [found.reshape(*lead, *tensor.shape)
                    for found, tensor in zip(self._part(flat, 0, rows, rows), self._made, strict=True)]
        outputs = [np.empty((rows, *tensor.shape), tensor.dtype) for tensor in self._made]
        first = 0
        for part in parts:
            valid = min(part, rows - first)
            for output, found in zip(outputs, self._part(flat, first, valid, part), strict=True):
                output[first:first + valid] = found[:valid]
            first += valid
        return [output.reshape(*lead, *tensor.shape) for output, tensor in zip(outputs, self._made, strict=True)]

    def _part(self, flat: Sequence[np.ndarray], first: int, valid: int, part: int) -> list[np.ndarray]:
        """The outputs for some of the rows, of which `valid` are wanted."""
        tensors = [self._tensor(index, array, first, valid, part) for index, array in enumerate(flat)]
        results = self._functions[part](*tensors)
        return [np.from_dlpack(self._item(results, index)).reshape(part, *tensor.shape).view(tensor.dtype)
                for index, tensor in enumerate(self._made)]

    def _tensor(self, index: int, array: np.ndarray, first: int, valid: int, part: int) -> Any:
        """Rows as a function takes them."""
        tensor = self._given[index]
        rows = array if tensor.whole else array[first:first + valid]
        shape = tensor.of_rows(part, self._rank - 1)
        direct = valid == part and rows.nbytes >= DIRECT_BYTES and rows.flags.writeable
        if direct and not rows.ctypes.data % ALIGNMENT:
            return self._share(rows.reshape(shape).view(tensor.carrier))
        if part not in self._buffers:
            self._buffers[part] = []
            for each in self._given:
                buffer = aligned(each.of_rows(part, self._rank - 1), each.dtype)
                self._buffers[part].append((buffer.reshape(each.of_rows(part)),
                                            self._share(buffer.view(each.carrier))))
        buffer, shared = self._buffers[part][index]
        if tensor.whole:
            buffer[...] = rows
            return shared
        buffer[:valid] = rows
        buffer[valid:] = 0
        return shared
