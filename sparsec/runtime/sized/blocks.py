"""Blocks of calls of kernels in memory, as the kernel of `backends.cpu.replay` reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.machine.memory import aligned

WORD = 8  # bytes
_DL_TENSOR = 7
"""The type index of a pointer to a DLTensor among the arguments of TVM's functions."""
UNBOUNDED = 1 << 40
"""The length that a flat array has whose kernel knows by other means where it ends."""


@dataclass(frozen=True)
class Argument:
    """An array that a kernel takes.

    Attributes:
        base: the number of the address that the program gives, None for a fixed one.
        address: bytes behind the base; the fixed address where there is none.
        step: bytes that the array moves on at every repetition.

    """

    base: int | None
    address: int
    step: int
    shape: tuple[int, ...]
    dtype: str


Call = tuple[Any, Sequence[Argument]]
"""A kernel, as TVM's runtime gives it, and what it takes."""


class Block:
    """Calls in order, whose arrays lie where a program says.

    Args:
        calls: what is called.
        bases: how many addresses a program gives.
        type_of: TVM's element type of a name.

    Attributes:
        address: of the block.

    """

    def __init__(self, calls: Sequence[Call], bases: int, type_of: Callable[[str], Any]) -> None:
        self._kept = [kernel for kernel, _ in calls]
        self._words: list[int] = []
        self._inner: list[int] = []
        self._type_of = type_of
        moving = [(each, number, place) for number, (_, given) in enumerate(calls)
                  for place, each in enumerate(given) if each.base is not None]
        self._words += [bases, len(moving), len(calls)]
        slots = len(self._words)
        self._words += [0] * (4 * len(moving) + 3 * len(calls))
        heads = [self._call(given) for _, given in calls]
        for index, (each, number, place) in enumerate(moving):
            at = slots + 4 * index
            self._words[at:at + 4] = [WORD * heads[number][1][place], each.base or 0, each.address, each.step]
            self._inner.append(at)
        for number, (kernel, given) in enumerate(calls):
            at = slots + 4 * len(moving) + 3 * number
            self._words[at:at + 3] = [kernel.__chandle__(), WORD * heads[number][0], len(given)]
            self._inner.append(at + 1)
        self._memory = aligned((len(self._words),), np.dtype(np.int64))
        self._memory[:] = self._words
        self.address = self._memory.ctypes.data
        self._memory[self._inner] += self.address

    def _call(self, given: Sequence[Argument]) -> tuple[int, list[int]]:
        """Where the arguments of a call begin, and their arrays."""
        tensors = [self._tensor(each) for each in given]
        start = len(self._words)
        for tensor in tensors:
            self._inner.append(len(self._words) + 1)
            self._words += [_DL_TENSOR, WORD * tensor]
        return start, tensors

    def _tensor(self, each: Argument) -> int:
        """Where the DLTensor of an argument begins: data, device, rank and type, shape, strides, offset."""
        shape = len(self._words)
        self._words += each.shape
        start, kind = len(self._words), self._type_of(each.dtype)
        described = len(each.shape) | kind.type_code << 32 | kind.bits << 40 | kind.lanes << 48
        self._inner.append(start + 3)
        self._words += [0 if each.base is not None else each.address, 1, described, WORD * shape, 0, 0]
        return start
