"""Which elements along an axis are the largest or the smallest, of any sizes, on a GPU: one, or several in order."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.cuda.sized_threads import own_element
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel

ONE = ("outer", "size", "inner", "largest", "late")
"""Numbers of the kernel of one: elements in front of the axis, along it and behind it, whether the largest is meant,
and whether the last one of equal ones is."""
SEVERAL = ("outer", "size", "inner", "taken", "largest")
"""Numbers of the kernel of several: the same, and how many are taken."""


def build_one(dtype: str) -> Kernel:
    """The kernel: x -> y of int64, both in C order, then `ONE`; a thread looks at all elements of a result.

    NaN is found, be it the largest or the smallest that is meant.
    """
    def body(b: Buffers, told: pipeline.Numbers) -> None:
        inner, size = told["inner"], told["size"]
        total = told["outer"] * inner
        with own_element(total) as number:
            first = T.Bind(number // inner * size * inner + number % inner)
            best, place = ptx.registers(1, "float32"), ptx.registers(1, "int32")
            T.buffer_store(best, T.Cast("float32", b["x"][first]), [0])
            T.buffer_store(place, T.int32(0), [0])
            with T.serial(1, size) as index:
                x = T.Bind(T.Cast("float32", b["x"][first + index * inner]))
                ahead = T.Bind(_is_found(x, best[0], told["largest"]))
                with T.If(T.Or(ahead, T.And(told["late"] > 0, _same(x, best[0])))), T.Then():
                    T.buffer_store(best, x, [0])
                    T.buffer_store(place, index, [0])
            T.buffer_store(b["y"], T.Cast("int64", place[0]), [number])

    return pipeline.sized_func({"x": dtype, "y": "int64"}, ONE, body)


def build_several(dtype: str) -> Kernel:
    """The kernel: x -> values, places of int64, all in C order, then `SEVERAL`.

    A thread counts which elements come before its own; of equal ones the first does, and NaN is larger than all.
    """
    def body(b: Buffers, told: pipeline.Numbers) -> None:
        inner, size, taken = told["inner"], told["size"], told["taken"]
        total = told["outer"] * size * inner
        with own_element(total) as number:
            behind, own = T.Bind(number % inner), T.Bind(number // inner % size)
            outer = T.Bind(number // inner // size)
            first = T.Bind(outer * size * inner + behind)
            mine = T.Bind(T.Cast("float32", b["x"][number]))
            count = ptx.registers(1, "int32")
            T.buffer_store(count, T.int32(0), [0])
            with T.serial(0, size) as index:
                x = T.Bind(T.Cast("float32", b["x"][first + index * inner]))
                before = T.Or(_ahead(x, mine, told["largest"]), T.And(_same(x, mine), index < own))
                T.buffer_store(count, count[0] + T.Select(before, T.int32(1), T.int32(0)), [0])
            with T.If(count[0] < taken), T.Then():
                at = T.Bind((outer * taken + count[0]) * inner + behind)
                T.buffer_store(b["values"], b["x"][number], [at])
                T.buffer_store(b["places"], T.Cast("int64", own), [at])

    return pipeline.sized_func({"x": dtype, "values": dtype, "places": "int64"}, SEVERAL, body)


def _ahead(a: Expr, b: Expr, largest: Expr) -> Expr:
    """Whether a number comes before another that is not equal; NaN is larger than all."""
    above, below = T.Or(_alone(a, b), a > b), T.Or(_alone(b, a), a < b)
    return T.Or(T.And(largest > 0, above), T.And(largest <= 0, below))


def _is_found(a: Expr, b: Expr, largest: Expr) -> Expr:
    """Whether a number is found rather than another; NaN is."""
    return T.Or(_alone(a, b), T.Or(T.And(largest > 0, a > b), T.And(largest <= 0, a < b)))


def _same(a: Expr, b: Expr) -> Expr:
    """Whether neither comes first; TVM takes what is not larger for smaller or equal, which NaN is not."""
    return T.Or(a == b, T.And(T.isnan(a), T.isnan(b)))


def _alone(a: Expr, b: Expr) -> Expr:
    """Whether the first one alone is NaN."""
    return T.And(T.isnan(a), T.Not(T.isnan(b)))
