"""Concat that appends in place: what grows call by call, as the caches of decoders do, is not copied every time.

The result lies in a buffer with room to spare, of which a session's caller sees the filled part. Where that comes back
as the first operand and nothing was appended to it meanwhile, the other operands are written behind it: what the caller
has seen stays as it is. Otherwise everything is copied to a buffer of its own.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sparsec.machine import tvm_runtime
from sparsec.machine.memory import aligned

SPARE = 64
"""Room for so many more along the axis, at least; beyond that, half as much as there is."""


_claims = threading.Lock()
"""Held while a call looks whether buffers end where its caches do, and makes what lies behind its own."""
PATIENCE = 1.0  # seconds: a call within a signal's handler would wait for ever for the one that it interrupts


@dataclass(eq=False)
class Buffer:
    """An array, of which so much is filled along the axis that it grows along."""

    whole: Part
    axis: int
    filled: int
    _last: Callable[[], np.ndarray | None] = lambda: None

    @cached_property
    def flat(self) -> Any:
        """All of it in one dimension, as TVM sees it."""
        return tvm_runtime.load().from_dlpack(self.whole.reshape(-1).view(np.ndarray))

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Elements from one place to the next, along every axis."""
        return tuple(stride // self.whole.itemsize for stride in self.whole.strides)

    @property
    def room(self) -> int:
        """Places along the axis that it grows along."""
        return int(self.whole.shape[self.axis])

    @cached_property
    def address(self) -> int:
        """Of its first element."""
        return self.whole.ctypes.data

    def part(self, start: int, end: int) -> Part:
        """A piece of it."""
        return self.whole[(*[slice(None)] * self.axis, slice(start, end))].view(Part)

    def view(self, length: int) -> np.ndarray:
        """The filled part, as a plain array that knows its buffer by its base."""
        part = self.part(0, length)
        part.buffer = self
        view = part.view(np.ndarray)
        self._last = weakref.ref(view)
        return view

    def gave(self, array: object) -> bool:
        """Whether an array is the last view of it."""
        return array is not None and array is self._last()

    def claim(self, first: np.ndarray, total: int) -> bool:
        """Whether an array is all that the buffer holds, and there is room for more, which is the caller's then."""
        if total > self.whole.shape[self.axis]:
            return False
        last = first is self._last()
        if not last and (first.strides != self.whole.strides or first.ctypes.data != self.whole.ctypes.data):
            return False
        if not _claims.acquire(timeout=PATIENCE):
            return False
        try:
            if first.shape[self.axis] != self.filled or (not last and first.shape != self.part(0, self.filled).shape):
                return False
            self.filled = total
            return True
        finally:
            _claims.release()


def claim_next(buffers: Sequence[Buffer], length: int, room: int) -> bool:
    """Whether all buffers are filled as far, short of their room, so that one place more is the caller's then."""
    if not _claims.acquire(timeout=PATIENCE):
        return False
    try:
        if length >= room or any(each.filled != length for each in buffers):
            return False
        for each in buffers:
            each.filled = length + 1
        return True
    finally:
        _claims.release()


class Part(np.ndarray):
    """A buffer, and what stands between it and the plain arrays of sessions: numpy skips bases of equal type."""

    buffer: Buffer | None = None


def append(inputs: Sequence[Any], axis: int) -> np.ndarray:
    """The operands one behind the other along an axis."""
    first, *rest = inputs
    axis %= first.ndim
    start = first.shape[axis]
    buffer, whole = extended(first, sum(each.shape[axis] for each in rest), axis)
    for each in rest:
        buffer.part(start, start + each.shape[axis])[...] = each
        start += each.shape[axis]
    return whole


def extended(first: np.ndarray, more: int, axis: int = 2) -> tuple[Buffer, np.ndarray]:
    """A buffer that begins with an array, and its part with so many more places behind that, which are to be filled."""
    start = first.shape[axis]
    buffer = first.base.buffer if isinstance(first.base, Part) else None
    if buffer is None or buffer.axis != axis or not buffer.claim(first, start + more):
        buffer = _buffer((*first.shape[:axis], start + more, *first.shape[axis + 1:]), first.dtype, axis)
        buffer.part(0, start)[...] = first
        Copies.nbytes += first.nbytes
    return buffer, buffer.view(start + more)


def _buffer(shape: tuple[int, ...], dtype: np.dtype[Any], axis: int, room: int = 0) -> Buffer:
    """A buffer of which a shape is taken, with room along the axis."""
    room = max(room, shape[axis] + max(shape[axis] // 2, SPARE))
    whole = aligned((*shape[:axis], room, *shape[axis + 1:]), dtype).view(Part)
    return Buffer(whole, axis, shape[axis])


def reserved(shape: tuple[int, ...], dtype: np.dtype[Any], room: int, axis: int = 2) -> np.ndarray:
    """An array of a cache that can grow to so much along the axis without being copied."""
    return _buffer(shape, dtype, axis, room).view(shape[axis])


class Copies:
    """How many bytes of caches have been copied since the process began, as they outgrew their buffers or branched."""

    nbytes = 0


def append_at(inputs: Sequence[Any], _: object) -> tuple[np.ndarray]:
    """`graph.sized.APPEND`: in place where all rows have filled the past."""
    past, new, start = inputs
    length, tokens = past.shape[2], new.shape[2]
    if (start == length).all():
        return (append([past, new], 2),)
    if start.min() < 0 or start.max() > length:
        raise ValueError(f"the new tokens would begin at {start.tolist()} of a past of {length}")
    whole = np.zeros((*new.shape[:2], length + tokens, new.shape[3]), new.dtype)
    for row, first in enumerate(np.broadcast_to(start, new.shape[:1])):
        whole[row, :, :first] = past[row, :, :first]
        whole[row, :, first:first + tokens] = new[row]
    return (whole,)
