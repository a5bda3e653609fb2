"""Copies between arrays of run-time sizes and strides, from one float type to another."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline
from sparsec.kernels.emit.tir import Buffers, Kernel

RANK = 5
"""Dimensions of an array, which may be 1."""
THREADS = 256
NUMBERS = tuple(f"{what}{axis}" for what in ("size", "from", "to") for axis in range(RANK))
"""The kernel's numbers: sizes, then the strides of both in elements."""


def build(source: str, target: str) -> Kernel:
    """The kernel: (x, y), then `NUMBERS`; a thread copies an element."""
    def body(buffers: Buffers, told: pipeline.Numbers) -> None:
        sizes = [told[f"size{axis}"] for axis in range(RANK)]
        total = sizes[0]
        for size in sizes[1:]:
            total = total * size
        with (T.launch_thread("blockIdx.x", (total + (THREADS - 1)) // THREADS) as block,
              T.launch_thread("threadIdx.x", THREADS) as thread):
            number = T.Bind(block * THREADS + thread)
            with T.If(number < total), T.Then():
                left, read, written = number, 0, 0
                for axis in reversed(range(RANK)):
                    place = T.Bind(left % sizes[axis])
                    left = T.Bind(left // sizes[axis])
                    read, written = read + place * told[f"from{axis}"], written + place * told[f"to{axis}"]
                T.buffer_store(buffers["y"], T.Cast(target, buffers["x"][read]), [written])

    return pipeline.sized_func({"x": source, "y": target}, NUMBERS, body)
