"""The recording of a stream's work as a CUDA graph, by one thread of the process at a time."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sparsec.backends.cuda import cudart, driver

CAPTURES = threading.RLock()
"""Who waits for all of the GPU, or records, has it: CUDA fails the former while any thread records, and ends that."""


@contextmanager
def capturing(stream: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
    """Record what is put on a stream within; behind it, what this gives is the graph, which the caller destroys.

    Raises:
        DeviceError: CUDA cannot record the work.

    """
    graph, runtime = ctypes.c_void_p(), driver.load_runtime()
    with CAPTURES, _no_collection():
        try:
            cudart.call("cudaStreamBeginCapture", stream, cudart.OWN_CAPTURE)
            yield graph
            cudart.call("cudaStreamEndCapture", stream, ctypes.byref(graph))
        except BaseException:
            if not graph:
                runtime.cudaStreamEndCapture(stream, ctypes.byref(graph))  # fails where CUDA has ended it
            if graph:
                runtime.cudaGraphDestroy(graph)
            raise


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage, of which a session's end calls CUDA; for every thread, so one at a time does this."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
