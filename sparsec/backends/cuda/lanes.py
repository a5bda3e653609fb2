"""What a call of a program for run-time sizes runs on: a stream, whose work is recorded as CUDA graphs.

A graph holds the kernels and copies between two steps of the processor. It is recorded when the work is done for the
first time, and goes when nobody can ask for it any more; the processor waits for each.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm_ffi

from sparsec.backends.cuda import cudart, driver
from sparsec.backends.cuda.captures import CAPTURES, capturing
from sparsec.backends.cuda.graphs import Made, forks, refuse_fork
from sparsec.machine.memory import CUDA, Launch, Transfer


class Lane:
    """A stream with what was recorded on it.

    Raises:
        DeviceError: the GPU fails.

    """

    def __init__(self) -> None:
        self._cudart, self._made = driver.load_runtime(), Made(forks())
        weakref.finalize(self, self._made.release)
        self._stream = self._made.stream()
        self._type_of = functools.cache(tvm_ffi.dtype)
        with CAPTURES:
            cudart.call("cudaDeviceSynchronize")  # constants may be under way on another stream

    def check(self) -> None:
        """Raises DeviceError in a process that was forked since."""
        refuse_fork(self._made.born)

    def allocate(self, nbytes: int) -> Any:  # noqa: ANN401 - TVM's tensor
        """Memory of the GPU."""
        self.check()
        make = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        return make(tvm_ffi.Shape((nbytes,)), tvm_ffi.dtype("uint8"), tvm_ffi.Device(CUDA, 0), None)

    def pinned(self, nbytes: int) -> np.ndarray:
        """Pinned memory, which goes when nobody refers to it."""
        self.check()
        pinned = cudart.Pinned([((nbytes,), np.dtype(np.uint8))])
        array = pinned.arrays.pop()
        weakref.finalize(array.base, _free, pinned, self._made.born)  # of which views are all that anybody has
        return array

    def view(self, memory: Any, offset: int, shape: tuple[int, ...], dtype: str) -> View:  # noqa: ANN401 - as above
        """The tensor in a memory or tensor from some byte on."""
        return View(memory.data_ptr() + offset, shape, self._type_of(dtype))

    def do(self, work: Sequence[Launch | Transfer]) -> None:
        """Do some work and wait for it.

        Raises:
            DeviceError: the GPU fails.

        """
        self.check()
        with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), self._stream.value or 0):
            self._issue(work)
            cudart.call("cudaStreamSynchronize", self._stream)

    def record(self, work: Sequence[Launch | Transfer]) -> Replay:
        """Do some work and wait for it; the result replays it as one graph.

        Raises:
            DeviceError: the GPU fails, or CUDA cannot record the work.

        """
        self.check()
        with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), self._stream.value or 0):
            self._issue(work)  # loads the code, too
            cudart.call("cudaStreamSynchronize", self._stream)
            with capturing(self._stream) as graph:
                self._issue(work)
        return Replay(self, graph, work)

    def replay(self, executable: ctypes.c_void_p, more: Sequence[Transfer]) -> None:
        """Launch a graph, copy behind it, and wait for all."""
        self.check()
        if status := self._cudart.cudaGraphLaunch(executable, self._stream):
            raise cudart.failed("cudaGraphLaunch", status)
        self._issue(more)
        if status := self._cudart.cudaStreamSynchronize(self._stream):
            raise cudart.failed("cudaStreamSynchronize", status)

    def _issue(self, work: Sequence[Launch | Transfer]) -> None:
        """Put work on the stream."""
        for each in work:
            if isinstance(each, Launch):
                each.function(*(arg.argument if isinstance(arg, View) else arg for arg in each.arguments))
                continue
            there, here = ctypes.c_void_p(each.tensor.address), ctypes.c_void_p(each.array.ctypes.data)
            to, source = (here, there) if each.back else (there, here)
            cudart.call("cudaMemcpyAsync", to, source, ctypes.c_size_t(each.array.nbytes),
                        cudart.TO_HOST if each.back else cudart.TO_DEVICE, self._stream)


def _free(pinned: cudart.Pinned, born: int) -> None:
    if born == forks():
        pinned.free()


class View:
    """A tensor at an address, as kernels take it: TVM's own have none that begins within another's memory."""

    def __init__(self, address: int, shape: tuple[int, ...], kind: tvm_ffi.dtype) -> None:
        self.address, self._shape = address, (ctypes.c_int64 * len(shape))(*shape)
        self._tensor = _DLTensor(address, CUDA, 0, len(shape), kind.type_code, kind.bits, kind.lanes, self._shape)
        self.argument = ctypes.c_void_p(ctypes.addressof(self._tensor))


class _DLTensor(ctypes.Structure):
    """DLPack's tensor, in C order, of GPU 0."""

    _fields_ = (("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64))


class Replay:
    """Recorded work: a call does it again.

    Args:
        lane: of the stream, which goes after this.
        graph: what was recorded.
        work: whose memory it holds the addresses of.

    """

    def __init__(self, lane: Lane, graph: ctypes.c_void_p, work: Sequence[Launch | Transfer]) -> None:
        self._lane, self._work = lane, work
        made = Made(forks())
        self._executable = made.executable(graph)
        weakref.finalize(self, made.release)

    def __call__(self, more: Sequence[Transfer] = ()) -> None:
        """Replay it, and copy behind it."""
        self._lane.replay(self._executable, more)
