"""The time of kernels on the GPU alone: a CUDA graph records them once, and events enclose its replays.

Launching a model's kernels one by one takes the host longer than they run, where they are small; a graph leaves that
out.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable

import tvm_ffi

from sparsec.backends.cuda import cudart
from sparsec.backends.cuda.captures import CAPTURES, capturing
from sparsec.backends.cuda.cudart import call as _cuda
from sparsec.backends.cuda.graphs import Made, forks

REPLAYS = 10
"""Replays between two events: while one runs the next is launched, so that only the first waits for the host."""
WARM_UPS = 2  # the first loads the code and allocates, the second finds the memory that the first has given back


def replay(call: Callable[[], object]) -> Callable[[], float]:
    """Record the kernels that a call launches; the result replays them and returns the seconds of one replay.

    What CUDA has made of them goes with the result.

    Args:
        call: runs a program on tensors that are on the GPU, and leaves its results there.

    Raises:
        DeviceError: CUDA cannot record the call, which allocates or waits; or the GPU fails.

    """
    stream, *events = _handles()
    with CAPTURES, tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), stream.value or 0):
        _cuda("cudaDeviceSynchronize")  # what the call reads may be under way on another stream
        for _ in range(WARM_UPS):
            call()
        _cuda("cudaStreamSynchronize", stream)
        with capturing(stream) as graph:
            results = call()
    made = Made(forks())
    executable = made.executable(graph)

    def seconds(_held: object = (call, results)) -> float:  # replays read and write their memory
        _cuda("cudaEventRecord", events[0], stream)
        for _ in range(REPLAYS):
            _cuda("cudaGraphLaunch", executable, stream)
        _cuda("cudaEventRecord", events[1], stream)
        _cuda("cudaEventSynchronize", events[1])
        milliseconds = ctypes.c_float()
        _cuda("cudaEventElapsedTime", ctypes.byref(milliseconds), *events)
        return milliseconds.value / 1e3 / REPLAYS

    weakref.finalize(seconds, made.release)
    return seconds


@functools.cache
def _handles() -> list[ctypes.c_void_p]:
    """A stream of its own and two events."""
    stream, *events = (ctypes.c_void_p() for _ in range(3))
    _cuda("cudaStreamCreateWithFlags", ctypes.byref(stream), cudart.NON_BLOCKING)
    for event in events:
        _cuda("cudaEventCreate", ctypes.byref(event))
    return [stream, *events]
