"""Where a program's tensors live: how arrays get there and results come back."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from sparsec.machine import huge_pages, tvm_runtime
from sparsec.machine.huge_pages import Allocate

ALIGNMENT = 64
"""Bytes; the data of arrays that kernels read starts at a multiple of it."""

CPU, CUDA = 1, 2
"""DLPack's device types."""
_POOLED_ALLOCATOR = 2


class Recorded(Protocol):
    """A program of a device, recorded with fixed memory; it serves one call at a time.

    Attributes:
        buffers: arrays that the inputs are copied into.
        device: the number of the device.

    """

    buffers: list[np.ndarray]
    device: int

    def run(self, wanted: Sequence[int]) -> list[np.ndarray]:
        """The outputs asked for, for what is in the buffers, as arrays of their own memory."""

    def run_between(self, sources: Sequence[int | None], targets: Mapping[int, int], wanted: Sequence[int] = (),
                    stream: int = 0) -> list[np.ndarray]:
        """Run from addresses there (None: from the buffer) to such, in the order of the caller's stream."""


@dataclass(frozen=True)
class Launch:
    """A call of a kernel.

    Attributes:
        function: of a library.
        arguments: tensors, as `Lane.view` gives them, and numbers.

    """

    function: Callable[..., Any]
    arguments: Sequence[Any]


@dataclass(frozen=True)
class Transfer:
    """A copy between an array in pinned memory and a device's.

    Attributes:
        array: on the processor.
        tensor: as large on the device.
        back: from the device.

    """

    array: np.ndarray
    tensor: Any
    back: bool


class Again(Protocol):
    """Work that was recorded."""

    def __call__(self, more: Sequence[Transfer] = ()) -> None:
        """Do it again, and copies behind it, and wait for all."""


class Lane(Protocol):
    """A stream of a device with what was recorded on it; it serves one call at a time."""

    def check(self) -> None:
        """Raises DeviceError where this process has not the device."""

    def allocate(self, nbytes: int) -> Any:
        """Memory of the device."""

    def pinned(self, nbytes: int) -> np.ndarray:
        """Bytes of the processor's memory that the device reads and writes, until nobody refers to them."""

    def view(self, memory: Any, offset: int, shape: tuple[int, ...], dtype: str) -> Any:
        """The tensor in a memory or tensor from some byte on."""

    def do(self, work: Sequence[Launch | Transfer]) -> None:
        """Do some work in order and wait for it."""

    def record(self, work: Sequence[Launch | Transfer]) -> Again:
        """Do some work in order and wait for it; the result does it again, and waits, too."""


class Guard(Protocol):
    """What is done within needs so many bytes, for a call or for the program; says so where there are too few."""

    def __call__(self, nbytes: int, *, of_call: bool = False) -> AbstractContextManager[None]:
        """The context in which it is done."""


def _unguarded(nbytes: int, *, of_call: bool = False) -> AbstractContextManager[None]:  # noqa: ARG001
    """In place of a guard where running out of memory is the system's to tell."""
    return nullcontext()


Recorder = Callable[[Callable[..., Any], Sequence[Any], Sequence[np.ndarray], int], Recorded]


@dataclass(frozen=True)
class Memory:
    """One kind of memory.

    Attributes:
        devices: what the virtual machine is initialised with: device type, number and allocator of each.
        place: a tensor with an array's contents.
        fetch: the array of an output; one of the `reserved` addresses is memory that the program will use again.
        record: records an entry function with its constants, given the inputs in this memory, arrays of their shapes
            and element types, and the number of outputs; None where programs run as they are.
        guard: says what is needed where the memory does not hold it.
        lane: makes what calls of programs for run-time sizes run on; None where they run as they are.

    """

    devices: tuple[int, ...]
    place: Callable[[np.ndarray], Any]
    fetch: Callable[[Any, frozenset[int]], np.ndarray]
    record: Recorder | None = None
    guard: Guard = _unguarded
    lane: Callable[[], Lane] | None = None


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """A zeroed array whose data starts at a multiple of `ALIGNMENT`."""
    nbytes = math.prod(shape) * dtype.itemsize
    memory = np.zeros(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start:start + nbytes].view(dtype).reshape(shape)


def element_type(name: str) -> np.dtype[Any]:
    """Numpy's element type of a name, those that ml_dtypes adds included."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        added: type[Any] = getattr(ml_dtypes, name)
        return np.dtype(added)


def carrier(name: str) -> str:
    """The element type that programs take and give in place of one: of the same bits where DLPack has no such type."""
    dtype = element_type(name)
    return f"uint{8 * dtype.itemsize}" if dtype.isbuiltin != 1 else name


def _share(array: np.ndarray, allocate: Allocate = aligned) -> Any:
    """The array as TVM sees it, copied to memory of its own where it is not aligned."""
    array = array.view(carrier(array.dtype.name))
    if _is_copied(array):
        copy = allocate(array.shape, array.dtype)
        copy[...] = array
        array = copy
    return tvm_runtime.load().from_dlpack(array)


def _is_copied(array: np.ndarray) -> bool:
    return bool(array.ctypes.data % ALIGNMENT) or not array.flags.writeable


def _fetch_shared(tensor: Any, reserved: frozenset[int]) -> np.ndarray:
    array = np.from_dlpack(tensor)
    return array.copy() if tensor.data_ptr() in reserved else array


HOST = Memory((CPU, 0, _POOLED_ALLOCATOR), _share, _fetch_shared)
"""The processor's own memory, which arrays and tensors share."""


def placer(memory: Memory, arrays: Sequence[np.ndarray]) -> Callable[[np.ndarray], Any]:
    """The `place` of a memory for these arrays, which lie together: in huge pages where they fill some."""
    if memory is not HOST:
        return memory.place
    nbytes = sum(array.nbytes + -array.nbytes % ALIGNMENT for array in arrays if _is_copied(array))
    return partial(_share, allocate=huge_pages.allocator(nbytes, ALIGNMENT) or aligned)


def on_device(kind: int, number: int = 0, record: Recorder | None = None,
              guard: Guard = _unguarded,
              lane: Callable[[], Lane] | None = None) -> Memory:
    """The memory of a device, to and from which everything is copied; TVM's runtime for it has been loaded."""
    import tvm_ffi

    tvm_runtime.load()
    allocate, send, bring = (tvm_ffi.get_global_func(f"runtime.TVMTensor{name}") for name in
                             ("AllocWithScope", "CopyFromBytes", "CopyToBytes"))
    device = tvm_ffi.Device(kind, number)

    def place(array: np.ndarray) -> Any:
        array = np.asarray(array, order="C")
        tensor = allocate(tvm_ffi.Shape(array.shape), tvm_ffi.dtype(array.dtype.name), device, None)
        send(tensor, ctypes.c_void_p(array.ctypes.data), array.nbytes)
        return tensor

    def fetch(tensor: Any, _reserved: frozenset[int]) -> np.ndarray:
        array = np.empty(tuple(tensor.shape), str(tensor.dtype))
        bring(tensor, ctypes.c_void_p(array.ctypes.data), array.nbytes)
        return array

    return Memory((kind, number, _POOLED_ALLOCATOR, CPU, 0, _POOLED_ALLOCATOR), place, fetch, record, guard, lane)
