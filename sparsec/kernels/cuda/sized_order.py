"""Which elements along an axis are the largest or the smallest, of any sizes, on a GPU: one, or several in order."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel

THREADS = 256
ONE = ("outer", "size", "inner", "largest", "late")
"""Numbers of the kernel of one: elements in front of the axis, along it and behind it, whether the largest is meant,
and whether the last one of equal ones is."""
SEVERAL = ("outer", "size", "inner", "taken", "largest")
"""Numbers of the kernel of several: the same, and how many are taken."""


def build_one(dtype: str) -> Kernel:
    """The kernel: x -> y of int64, both in C order, then `ONE`; a thread looks at all elements of a result."""
    def body(b: Buffers, told: pipeline.Numbers) -> None:
        inner, size = told["inner"], told["size"]
        total = told["outer"] * inner
        with (T.launch_thread("blockIdx.x", (total + (THREADS - 1)) // THREADS) as block,
              T.launch_thread("threadIdx.x", THREADS) as thread):
            number = T.Bind(block * THREADS + thread)
            with T.If(number < total), T.Then():
                first = T.Bind(number // inner * size * inner + number % inner)
                best, place = ptx.registers(1, "float32"), ptx.registers(1, "int32")
                T.buffer_store(best, T.Cast("float32", b["x"][first]), [0])
                T.buffer_store(place, T.int32(0), [0])
                with T.serial(1, size) as index:
                    x = T.Bind(T.Cast("float32", b["x"][first + index * inner]))
                    ahead = T.Bind(_ahead(x, best[0], told["largest"]))
                    same = T.Bind(T.Not(_ahead(best[0], x, told["largest"])))
                    with T.If(T.Or(ahead, T.And(told["late"] > 0, same))), T.Then():
                        T.buffer_store(best, x, [0])
                        T.buffer_store(place, index, [0])
                T.buffer_store(b["y"], T.Cast("int64", place[0]), [number])

    return pipeline.sized_func({"x": dtype, "y": "int64"}, ONE, body)


def build_several(dtype: str) -> Kernel:
    """The kernel: x -> values, places of int64, all in C order, then `SEVERAL`.

    A thread counts which elements come before its own; of equal ones the first does.
    """
    def body(b: Buffers, told: pipeline.Numbers) -> None:
        inner, size, taken = told["inner"], told["size"], told["taken"]
        total = told["outer"] * size * inner
        with (T.launch_thread("blockIdx.x", (total + (THREADS - 1)) // THREADS) as block,
              T.launch_thread("threadIdx.x", THREADS) as thread):
            number = T.Bind(block * THREADS + thread)
            with T.If(number < total), T.Then():
                behind, own = T.Bind(number % inner), T.Bind(number // inner % size)
                outer = T.Bind(number // inner // size)
                first = T.Bind(outer * size * inner + behind)
                mine = T.Bind(T.Cast("float32", b["x"][number]))
                count = ptx.registers(1, "int32")
                T.buffer_store(count, T.int32(0), [0])
                with T.serial(0, size) as index:
                    x = T.Bind(T.Cast("float32", b["x"][first + index * inner]))
                    same = T.Bind(T.Not(_ahead(mine, x, told["largest"])))
                    before = T.Or(_ahead(x, mine, told["largest"]), T.And(same, index < own))
                    T.buffer_store(count, count[0] + T.Select(before, T.int32(1), T.int32(0)), [0])
                with T.If(count[0] < taken), T.Then():
                    at = T.Bind((outer * taken + count[0]) * inner + behind)
                    T.buffer_store(b["values"], b["x"][number], [at])
                    T.buffer_store(b["places"], T.Cast("int64", own), [at])

    return pipeline.sized_func({"x": dtype, "values": dtype, "places": "int64"}, SEVERAL, body)


def _ahead(a: Expr, b: Expr, largest: Expr) -> Expr:
    """Whether a number comes before another that is not equal; NaN is the largest of all, and found as the smallest."""
    above = T.Or(T.And(T.isnan(a), T.Not(T.isnan(b))), a > b)
    below = T.Or(T.And(T.isnan(b), T.Not(T.isnan(a))), a < b)
    return T.Or(T.And(largest > 0, above), T.And(largest <= 0, below))
