"""Copies between arrays of run-time sizes and strides, from one float type to another."""

from __future__ import annotations

from functools import reduce
from operator import mul

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline
from sparsec.kernels.cuda.sized_threads import RANK, own_element, places
from sparsec.kernels.emit.tir import Buffers, Kernel

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
        with own_element(reduce(mul, sizes)) as number:
            read, written = 0, buffers["past"][0] * told[STEP] if behind else 0
            for axis, place in enumerate(places(number, sizes)):
                read, written = read + place * told[f"from{axis}"], written + place * told[f"to{axis}"]
            T.buffer_store(buffers["y"], T.Cast(target, buffers["x"][read]), [written])

    given = {"x": source, **({"past": "int32"} if behind else {}), "y": target}
    return pipeline.sized_func(given, (*NUMBERS, STEP) if behind else NUMBERS, body)
