"""A program on the GPU as a session runs it: recorded once as a CUDA graph, then replayed by one launch a call.

Every recording has a stream, fixed tensors for inputs and outputs, and memory for intermediate values of its own, so
that several threads run several recordings at once. Inputs come from pinned memory, or from where a caller has them on
the GPU; outputs go there. Copies and the graph follow one another on the stream, and the processor waits once, at the
end, or not at all. After the recording nothing is allocated.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm_ffi

from sparsec.backends.cuda import cudart, driver
from sparsec.backends.cuda.captures import CAPTURES, capturing
from sparsec.errors import DeviceError
from sparsec.machine import tvm_runtime
from sparsec.machine.memory import carrier

_forks = [0]  # how many forks lie between this process and the one that imported the module


def _count_fork() -> None:
    _forks[0] += 1


os.register_at_fork(after_in_child=_count_fork)


def forks() -> int:
    """How many lie between this process and the one that imported the module."""
    return _forks[0]


def refuse_fork(born: int) -> None:
    """Raises DeviceError in a process that was forked since there were so many forks."""
    if born != _forks[0]:
        raise DeviceError("CUDA does not survive a fork; open the session in the process that runs it")


class Graph:
    """A recorded program.

    Args:
        program: the entry function with constants and storages bound.
        tensors: the inputs on the GPU, which stay where they are.
        arrays: what the inputs of a call are copied into has their shapes and element types.
        outputs: the number of outputs.

    Attributes:
        buffers: pinned arrays that `run` reads the inputs from.
        device: the number of the GPU.

    Raises:
        DeviceError: CUDA cannot record the program, or the GPU's memory does not hold what it needs.

    """

    device = 0

    def __init__(self, program: Callable[..., Any], tensors: Sequence[Any], arrays: Sequence[np.ndarray],
                 outputs: int) -> None:
        self._cudart, made = driver.load_runtime(), Made(_forks[0])
        weakref.finalize(self, made.release)  # before the tensors, which a run may still use
        self._made, self._stream = made, made.stream()
        self._entered, self._left = made.event(), made.event()
        results = self._record(program, tensors)
        found = [tvm_runtime.load().get_item(results, index) for index in range(outputs)]
        self._held = program, tensors, found
        described = [(array.shape, array.dtype) for array in arrays]
        described += [(tuple(each.shape), np.dtype(carrier(str(each.dtype)))) for each in found]
        pinned = made.pinned(described)
        self.buffers, self._results = pinned[:len(arrays)], pinned[len(arrays):]
        self._inputs = [_Copied(each, array) for each, array in zip(tensors, self.buffers, strict=True)]
        self._outputs = [_Copied(each, array) for each, array in zip(found, self._results, strict=True)]

    def _record(self, program: Callable[..., Any], tensors: Sequence[Any]) -> object:
        """The results of the call that the graph holds."""
        with CAPTURES, tvm_ffi.use_raw_stream(tvm_ffi.device(f"cuda:{self.device}"), self._stream.value or 0):
            cudart.call("cudaDeviceSynchronize")  # constants may be under way on another stream
            program(*tensors)  # loads the code, and leaves memory for the outputs in TVM's pool
            cudart.call("cudaStreamSynchronize", self._stream)
            with capturing(self._stream) as graph:
                results = program(*tensors)
        self._executable = self._made.executable(graph)
        return results

    def run(self, wanted: Sequence[int]) -> list[np.ndarray]:
        """Run on what is in the buffers; the outputs asked for, as arrays of their own memory.

        Raises:
            DeviceError: the GPU fails.

        """
        self._start([None] * len(self._inputs))
        for index in wanted:
            self._bring(index)
        self._wait()
        return [self._results[index].copy() for index in wanted]

    def run_between(self, sources: Sequence[int | None], targets: Mapping[int, int], wanted: Sequence[int] = (),
                    stream: int = 0) -> list[np.ndarray]:
        """Run on inputs that are on the GPU, and leave outputs there.

        The run begins when what the caller's stream holds is done, and what the caller puts there afterwards begins
        when the run is done; the processor does not wait, unless an input or output is in pinned memory.

        Args:
            sources: the address of each input on the GPU, None for one that is in its buffer.
            targets: addresses on the GPU by the numbers of the outputs that go there.
            wanted: further outputs, which are returned.
            stream: the caller's, as CUDA has it; 0 is the default stream.

        Raises:
            DeviceError: the GPU fails.

        """
        theirs = ctypes.c_void_p(stream)
        self._do("cudaEventRecord", self._entered, theirs)
        self._do("cudaStreamWaitEvent", self._stream, self._entered, 0)
        self._start(sources)
        for index, address in targets.items():
            self._outputs[index].copy(self._do, self._stream, address, cudart.ON_DEVICE, back=True)
        for index in wanted:
            self._bring(index)
        self._do("cudaEventRecord", self._left, self._stream)
        self._do("cudaStreamWaitEvent", theirs, self._left, 0)
        if wanted or None in sources:
            self._wait()
        return [self._results[index].copy() for index in wanted]

    def _start(self, sources: Sequence[int | None]) -> None:
        """Put the copies of the inputs and the graph on the stream."""
        refuse_fork(self._made.born)
        for each, address in zip(self._inputs, sources, strict=True):
            kind = cudart.TO_DEVICE if address is None else cudart.ON_DEVICE
            each.copy(self._do, self._stream, address, kind, back=False)
        self._do("cudaGraphLaunch", self._executable, self._stream)

    def _bring(self, index: int) -> None:
        """Put the copy of an output to pinned memory on the stream."""
        self._outputs[index].copy(self._do, self._stream, None, cudart.TO_HOST, back=True)

    def _wait(self) -> None:
        self._do("cudaStreamSynchronize", self._stream)

    def _do(self, name: str, *arguments: object) -> None:
        if status := getattr(self._cudart, name)(*arguments):
            raise cudart.failed(name, status)


class _Copied:
    """A tensor on the GPU with its array in pinned memory, ready to be copied either way."""

    def __init__(self, tensor: tvm_ffi.Tensor, array: np.ndarray) -> None:
        self._tensor = ctypes.c_void_p(tensor.data_ptr())
        self._array = ctypes.c_void_p(array.ctypes.data)
        self._nbytes = ctypes.c_size_t(array.nbytes)

    def copy(self, do: Callable[..., None], stream: ctypes.c_void_p, address: int | None, kind: int, *,
             back: bool) -> None:
        """Copy from or, `back`, to an address; None is the array's."""
        if not self._nbytes.value:
            return
        other = self._array if address is None else ctypes.c_void_p(address)
        to, source = (other, self._tensor) if back else (self._tensor, other)
        do("cudaMemcpyAsync", to, source, self._nbytes, kind, stream)


class Made:
    """What CUDA has made for a graph; a forked child has none of it."""

    def __init__(self, born: int) -> None:
        self.born = born
        self._stream = ctypes.c_void_p()
        self._handles: list[tuple[str, ctypes.c_void_p]] = []
        self._pinned: list[cudart.Pinned] = []

    def stream(self) -> ctypes.c_void_p:
        """The stream, which no other waits for."""
        self._stream = self._kept("cudaStreamDestroy", cudart.handle("cudaStreamCreateWithFlags", cudart.NON_BLOCKING))
        return self._stream

    def event(self) -> ctypes.c_void_p:
        """An event that is no clock."""
        return self._kept("cudaEventDestroy", cudart.handle("cudaEventCreateWithFlags", cudart.NO_TIMING))

    def executable(self, graph: ctypes.c_void_p) -> ctypes.c_void_p:
        """A graph ready to be launched, in place of the graph."""
        try:
            made = cudart.handle("cudaGraphInstantiate", graph, ctypes.c_ulonglong(0))
        finally:
            driver.load_runtime().cudaGraphDestroy(graph)
        return self._kept("cudaGraphExecDestroy", made)

    def pinned(self, described: list[tuple[tuple[int, ...], np.dtype[Any]]]) -> list[np.ndarray]:
        """Arrays in pinned memory."""
        self._pinned.append(cudart.Pinned(described))
        return list(self._pinned[-1].arrays)

    def release(self) -> None:
        """Wait for what is under way and give everything back, the last first."""
        if self.born != _forks[0]:
            return
        runtime = driver.load_runtime()
        if self._stream:
            runtime.cudaStreamSynchronize(self._stream)
        for each in self._pinned:
            each.free()
        for destroy, made in reversed(self._handles):
            getattr(runtime, destroy)(made)

    def _kept(self, destroy: str, made: ctypes.c_void_p) -> ctypes.c_void_p:
        self._handles.append((destroy, made))
        return made
