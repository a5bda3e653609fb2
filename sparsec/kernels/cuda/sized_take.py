"""What indices name along an axis, of any sizes, on a GPU; the nearest element inside stands for one outside."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline
from sparsec.kernels.cuda.sized_threads import own_element
from sparsec.kernels.emit.tir import Buffers, Kernel

NUMBERS = ("outer", "size", "inner", "taken", "each")
"""Elements in front of the axis, along it and behind it, how many are taken along it, and whether every element of the
result has an index of its own (GatherElements) or the axis has (Gather)."""


def build(bits: str, index: str) -> Kernel:
    """The kernel: (x, indices) -> y, all in C order, then `NUMBERS`; a thread copies an element.

    Args:
        bits: the unsigned type as which elements are copied.
        index: the type of the indices, which may count from the end.

    """
    def body(b: Buffers, told: pipeline.Numbers) -> None:
        inner, taken = told["inner"], told["taken"]
        total = told["outer"] * taken * inner
        with own_element(total) as number:
            place, line = T.Bind(number % inner), T.Bind(number // inner)
            own = T.Bind(T.Select(told["each"] > 0, number, line % taken))
            size, at_index = T.Bind(T.Cast(index, told["size"])), T.Bind(b["indices"][own])
            front = T.Bind(T.Select(at_index < 0, at_index + size, at_index))
            inside = T.Bind(T.Cast("int32", T.max(T.min(front, size - 1), T.Cast(index, 0))))
            at = (line // taken * told["size"] + inside) * inner + place
            T.buffer_store(b["y"], b["x"][at], [number])

    return pipeline.sized_func({"x": bits, "indices": index, "y": bits}, NUMBERS, body)
