"""The step that calls the kernel of attention, see `kernels.cpu.tensors.sized_attention`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from sparsec.machine import tvm_runtime
from sparsec.runtime.sized.growing import Part

FLOAT = 4  # bytes
INPUTS = 5  # at most, of which the last are the levels that scores and weights are rounded to


class Attention:
    """A step with its scratch; one call at a time.

    Args:
        kernel: the function.
        depth, width: features of keys and of values.
        pair: keys that are worked on at once.
        rows: rows of scores that a thread keeps.
        threads: those that the kernel was compiled for.

    """

    def __init__(self, kernel: Callable[..., Any], depth: int, width: int, pair: int, rows: int, threads: int) -> None:
        self._kernel, self._width, self._pair = kernel, width, pair
        self._floats = threads * (depth + rows)
        self._share = tvm_runtime.load().from_dlpack
        self._work = self._share(np.empty(1, np.float32))
        self._room = 1

    def run(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Y (batch, heads, tokens, width), which lies token by token."""
        q, k, v = (by_rows(each) for each in inputs[:3])
        (batch, heads, tokens, _), keys = q.shape, k.shape[2]
        out = np.empty((batch, tokens, heads, self._width), np.float32)
        y = out.transpose(0, 2, 1, 3)
        if not out.size:
            return [y]
        if not keys:
            out.fill(np.nan)  # as 0 / 0 is
            return [y]
        mask = None if len(inputs) < 4 or inputs[3] is None else spread(inputs[3], (batch, heads, tokens, keys))
        self._grow(-(-keys // self._pair) * self._pair * self._floats)
        sizes = np.array(lines_of(q, k, v, mask, y), np.int64)
        levels = [] if len(inputs) < INPUTS else [by_rows(inputs[INPUTS - 1])]
        views = [flat(array) for array in (q, k, v, q if mask is None else mask, *levels)]
        self._kernel(self._share(sizes), *map(self._share, views), self._work, self._share(out.reshape(-1)))
        return [y]

    def _grow(self, floats: int) -> None:
        if floats > self._room:
            self._room = 2 * floats
            self._work = self._share(np.empty(self._room, np.float32))


def lines_of(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, y: np.ndarray) -> list[int]:
    """The kernel's argument `sizes`: sizes, then strides in elements."""
    (batch, heads, tokens, _), groups, keys = q.shape, k.shape[1], k.shape[2]
    strides = [array.strides[:3] for array in (q, k, v)]
    strides += [(0, 0, 0) if mask is None else mask.strides[:3], y.strides[:3]]
    return [batch, groups, heads // groups, tokens, keys, int(mask is not None),
            *(stride // FLOAT for each in strides for stride in each)]


def by_rows(array: np.ndarray) -> np.ndarray:
    """The array, or a copy whose features are neighbours and which may be written to, as DLPack asks for."""
    near = array.strides[-1] == FLOAT or array.shape[-1] == 1
    return array if near and array.flags.writeable and min(array.strides) >= 0 else np.array(array, order="C")


def spread(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask with all keys of a row; other dimensions that it lacks have a stride of 0."""
    if mask.shape[-1:] != shape[-1:] or mask.strides[-1] != FLOAT or not mask.flags.writeable:
        mask = np.array(np.broadcast_to(mask, (*mask.shape[:-1], shape[-1])), order="C")
    return as_strided(mask, shape, [0] * (4 - mask.ndim) + [
        stride if size > 1 else 0 for stride, size in zip(mask.strides[:-1], mask.shape[:-1], strict=True)] + [FLOAT])


def flat(array: np.ndarray) -> np.ndarray:
    """Everything between the first and the last element of a view, or more, in one dimension."""
    if isinstance(array.base, Part) and array.base.buffer is not None:  # whose views begin where it does
        return array.base.buffer.whole.reshape(-1)
    span = 1 + sum((size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)) // FLOAT
    if span == array.size:
        order = sorted(range(array.ndim), key=array.strides.__getitem__, reverse=True)
        whole = array.transpose(order).reshape(-1)
        if whole.base is not None:  # numpy's `as_strided` takes longer
            return whole
    return as_strided(array, (span,), (FLOAT,))
