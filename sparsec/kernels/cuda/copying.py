"""A copy of an array, for values that must have memory of their own.

It begins at the element that a second input names: Relax looks for reshapes among kernels of one input, and takes only
those of its own schedules for kernels there.
"""

from __future__ import annotations

import functools

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline
from sparsec.kernels.emit.tir import Buffers, Kernel

THREADS = 256


@functools.lru_cache(maxsize=64)
def build(size: int, dtype: str) -> Kernel:
    """The kernel (x, first) -> y of so many elements, of which a thread copies one."""
    def body(buffers: Buffers) -> None:
        with (T.launch_thread("blockIdx.x", -(-size // THREADS)) as block,
              T.launch_thread("threadIdx.x", THREADS) as thread):
            number = T.Bind(block * THREADS + thread)
            with T.If(number < size), T.Then():
                T.buffer_store(buffers["y"], buffers["x"][buffers["first"][0] + number], [number])

    return pipeline.prim_func({"x": (size, dtype), "first": (1, "int32"), "y": (size, dtype)}, body)
