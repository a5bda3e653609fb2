"""The step that calls the kernel of NonMaxSuppression, see `kernels.cpu.tensors.sized_suppression`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.graph.sized import KEPT_PARTS, KEPT_ROOM
from sparsec.machine import tvm_runtime

KEPT_BYTES = 1 << 20
"""Bytes of a result's memory up to which it is kept for the next call."""


class Suppression:
    """A step; one call at a time.

    Args:
        kernel: the function.
        centred: whether boxes are given by their centres.

    """

    def __init__(self, kernel: Callable[..., Any], *, centred: bool) -> None:
        self._kernel, self._centred = kernel, centred
        self._share: Callable[[Any], Any] = tvm_runtime.load().from_dlpack
        self._memory: tuple[tuple[int, ...], _Memory] | None = None

    def run(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """The selected (rows, 3): batch, class and box; classes in order, in each the highest score first."""
        boxes, scores, most, overlap, least = inputs
        batches, classes, count = scores.shape
        if boxes.shape != (batches, count, 4):
            raise ValueError(f"boxes of shape {boxes.shape} do not fit scores of shape {scores.shape}")
        wanted = min(max(0, int(_single(most, 0))), count)
        if not (batches and classes and wanted):
            return [np.zeros((0, 3), np.int64)]
        memory = self._memory_of((batches, classes, count, wanted, self._centred, least is None))
        memory.limits[:] = _single(overlap, 0), _single(least, 0)
        sizes, limits, *others = memory.shared
        self._kernel(sizes, limits, self._share(_flat(boxes)), self._share(_flat(scores)), *others)
        return [memory.selected[:3 * int(memory.found[0])].reshape(-1, 3).copy()]

    def _memory_of(self, sizes: tuple[int, ...]) -> _Memory:
        """What the kernel works in, which calls of the same sizes share."""
        if self._memory is not None and self._memory[0] == sizes:
            return self._memory[1]
        memory = _Memory.of(sizes, self._share)
        self._memory = (sizes, memory) if memory.selected.nbytes <= KEPT_BYTES else None
        return memory


@dataclass(frozen=True)
class _Memory:
    """The kernel's arguments but for boxes and scores: `shared` are all of them as tensors, in order."""

    limits: np.ndarray
    selected: np.ndarray
    found: np.ndarray
    shared: Sequence[Any]

    @classmethod
    def of(cls, sizes: tuple[int, ...], share: Callable[[Any], Any]) -> _Memory:
        """New memory for some sizes."""
        batches, classes, count, wanted, *_ = sizes
        room = -(-wanted // KEPT_ROOM) * KEPT_ROOM
        limits, selected = np.empty(2, np.float32), np.empty(batches * classes * wanted * 3, np.int64)
        found = np.zeros(1, np.int64)
        scratch = np.empty(count, np.float32), np.empty(count, np.int32), np.empty(KEPT_PARTS * room, np.float32)
        arrays = np.array((*sizes, room), np.int64), limits, *scratch, selected, found
        return cls(limits, selected, found, [share(each) for each in arrays])


def _single(value: Any, default: float) -> Any:
    """The number that an input holds, which may be absent."""
    return default if value is None else value.reshape(-1)[0]


def _flat(array: np.ndarray) -> np.ndarray:
    """The elements in order, in memory that may be shared."""
    flat = np.ascontiguousarray(array, np.float32).reshape(-1)
    return flat if flat.flags.writeable else flat.copy()
