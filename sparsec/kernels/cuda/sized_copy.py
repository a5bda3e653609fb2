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
STEP = "step"
"""The number behind these of a kernel that appends: elements from one place of the cache to the next."""


def build(source: str, target: str, *, behind: bool = False) -> Kernel:
    """The kernel: (x, [past], y), then `NUMBERS`, and `STEP`; a thread copies an element.

    Args:
        source: the element type of x.
        target: that of y.
        behind: y is a cache, and the copy begins behind as many steps as the one number in `past`.

    """
    def body(buffers: Buffers, told: pipeline.Numbers) -> None:
        sizes = [told[f"size{axis}"] for axis in range(RANK)]
        total = sizes[0]
        for size in sizes[1:]:
            total = total * size
        with (T.launch_thread("blockIdx.x", (total + (THREADS - 1)) // THREADS) as block,
              T.launch_thread("threadIdx.x", THREADS) as thread):
            number = T.Bind(block * THREADS + thread)
            with T.If(number < total), T.Then():
                left, read, written = number, 0, buffers["past"][0] * told[STEP] if behind else 0
                for axis in reversed(range(RANK)):
                    place = T.Bind(left % sizes[axis])
                    left = T.Bind(left // sizes[axis])
                    read, written = read + place * told[f"from{axis}"], written + place * told[f"to{axis}"]
                T.buffer_store(buffers["y"], T.Cast(target, buffers["x"][read]), [written])

    given = {"x": source, **({"past": "int32"} if behind else {}), "y": target}
    return pipeline.sized_func(given, (*NUMBERS, STEP) if behind else NUMBERS, body)
