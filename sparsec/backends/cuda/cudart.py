"""CUDA's runtime, called as it is, which needs neither PyTorch nor TVM's compiler: errors, memory, events."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

from sparsec.backends.cuda import driver
from sparsec.errors import DeviceError

NO_MEMORY = 2
"""cudaErrorMemoryAllocation."""
NON_BLOCKING, NO_TIMING = 1, 2
"""cudaStreamNonBlocking and cudaEventDisableTiming."""
OWN_CAPTURE = 1
"""cudaStreamCaptureModeThreadLocal: what other threads of the process do with CUDA does not disturb a recording."""
TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3
"""The kinds of cudaMemcpyAsync."""
ALIGNMENT = 256
"""Bytes; arrays in pinned memory begin at a multiple of it."""


def call(name: str, *arguments: object) -> None:
    """Call a function of CUDA's runtime.

    Raises:
        DeviceError: it fails; says what CUDA says.

    """
    if status := getattr(driver.load_runtime(), name)(*arguments):
        raise failed(name, status)


def failed(name: str, status: int) -> DeviceError:
    """The error for a function that did not return zero."""
    cudart = driver.load_runtime()
    cudart.cudaGetErrorString.restype = ctypes.c_char_p
    return DeviceError(f"{name} failed: {cudart.cudaGetErrorString(status).decode()}; nvidia-smi shows "
                       "whether the GPU answers and what else uses it")


def handle(name: str, *arguments: object) -> ctypes.c_void_p:
    """What a function makes, which writes a handle or an address to its first argument."""
    made = ctypes.c_void_p()
    call(name, ctypes.byref(made), *arguments)
    return made


def free_bytes() -> tuple[int, int]:
    """The free bytes of the GPU's memory, and all."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


class Pinned:
    """Arrays in pinned memory, which the GPU reads and writes while the processor works on.

    Args:
        described: shape and element type of each.

    Attributes:
        arrays: they, in order; `free` ends them.

    Raises:
        DeviceError: the processor's memory does not hold them.

    """

    def __init__(self, described: list[tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in described]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
        nbytes = max(starts[-1], ALIGNMENT)
        self._memory = _pinned(nbytes)
        whole = (ctypes.c_uint8 * nbytes).from_address(self._memory.value or 0)
        bytes_ = np.frombuffer(memoryview(whole), np.uint8)
        bytes_[:] = 0
        self.arrays = [bytes_[start:start + size].view(dtype).reshape(shape)
                       for start, size, (shape, dtype) in zip(starts, sizes, described, strict=False)]

    def free(self) -> None:
        """Give the memory back; nobody may use the arrays any more."""
        self.arrays.clear()
        driver.load_runtime().cudaFreeHost(self._memory)


def _pinned(nbytes: int) -> ctypes.c_void_p:
    """Pinned memory."""
    made = ctypes.c_void_p()
    status = driver.load_runtime().cudaMallocHost(ctypes.byref(made), ctypes.c_size_t(nbytes))
    if status == NO_MEMORY:
        raise DeviceError(f"the processor's memory has no {nbytes / 1e6:,.1f} MB left that can be pinned for what the "
                          "GPU reads and writes; close other sessions and programs, or run smaller batches, one call "
                          "at a time")
    if status:
        raise failed("cudaMallocHost", status)
    return made
