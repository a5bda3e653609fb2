"""Sums, means, extremes and the like over any dimensions of any sizes, on a GPU.

Threads of a block share `lanes` results, neighbours of which read neighbours, and leave what they have found to half as
many until one is left for each (Harris, Optimizing Parallel Reduction in CUDA, 2007). Where there are few results,
several blocks share one, and a second call puts together what they leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

THREADS = 256
FLOATS = 4
KEPT, GONE = 3, 2
"""Dimensions of the results, and of what each is of; they may be 1."""
NUMBERS = (*(f"{what}{axis}" for what in ("kept", "kept_by") for axis in range(KEPT)),
           *(f"{what}{axis}" for what in ("gone", "gone_by") for axis in range(GONE)),
           "lanes", "share", "first", "last", "count")
"""The kernel's numbers: sizes and strides in elements of both, the results of a block, a power of two that divides
THREADS, how many elements of a result a block has, whether elements are changed and results finished, and of how many
elements a result is."""


@dataclass(frozen=True)
class Kind:
    """What is computed.

    Attributes:
        start: of no elements.
        combine: two results.
        change: an element, before.
        finish: a result, of so many elements, in the end.

    """

    start: float
    combine: Callable[[Expr, Expr], Expr]
    change: Callable[[Expr], Expr] = lambda x: x
    finish: Callable[[Expr, Expr], Expr] = lambda x, _count: x


def build(kind: str, dtype: str) -> Kernel:
    """The kernel: x -> y, then `NUMBERS`; y are float32, those of every share of elements behind the others.

    Args:
        kind: of `KINDS`.
        dtype: of x, a type of floats.

    """
    return pipeline.sized_func({"x": dtype, "y": "float32"}, NUMBERS, lambda b, told: _emit(b, told, KINDS[kind]))


def _emit(b: Buffers, told: pipeline.Numbers, kind: Kind) -> None:
    results = told["kept0"] * told["kept1"] * told["kept2"]
    elements = told["gone0"] * told["gone1"]
    with (T.launch_thread("blockIdx.x", (results + (told["lanes"] - 1)) // told["lanes"]) as block,
          T.launch_thread("blockIdx.y", (elements - 1) // told["share"] + 1) as part,
          T.launch_thread("threadIdx.x", THREADS) as thread):
        shared = ptx.shared_memory(FLOATS * THREADS)
        lane, turn_of = T.Bind(thread % told["lanes"]), T.Bind(thread // told["lanes"])
        turns = T.Bind(THREADS // told["lanes"])
        result = T.Bind(block * told["lanes"] + lane)
        begin = T.Bind(part * told["share"])
        end = T.Bind(begin + T.min(told["share"], elements - begin))  # below 2^31 for as many as kernels number
        held = ptx.registers(1, "float32")
        T.buffer_store(held, T.float32(kind.start), [0])
        with T.If(result < results), T.Then():
            base = _place(result, [(told[f"kept{axis}"], told[f"kept_by{axis}"]) for axis in range(KEPT)])
            with T.serial(0, (told["share"] + (turns - 1)) // turns) as turn:
                element = T.Bind(begin + turn * turns + turn_of)
                with T.If(element < end), T.Then():
                    at = _place(element, [(told[f"gone{axis}"], told[f"gone_by{axis}"]) for axis in range(GONE)])
                    x = T.Bind(T.Cast("float32", b["x"][base + at]))
                    changed = T.Bind(T.Select(told["first"] > 0, kind.change(x), x))
                    T.buffer_store(held, kind.combine(held[0], changed), [0])
        _together(shared, thread, told["lanes"], held, kind)
        with T.If(T.And(turn_of == 0, result < results)), T.Then():
            found = T.Bind(held[0])
            finished = T.Select(told["last"] > 0, kind.finish(found, T.Cast("float32", told["count"])), found)
            T.buffer_store(b["y"], finished, [part * results + result])


def _place(number: Expr, dims: list[tuple[Expr, Expr]]) -> Expr:
    """Where an element lies, by its number in dimensions of (size, stride)."""
    left, at = number, 0
    for size, stride in reversed(dims):
        at = at + T.Bind(left % size) * stride
        left = T.Bind(left // size)
    return T.Bind(at)


def _together(shared: Expr, thread: Expr, lanes: Expr, held: Buffer, kind: Kind) -> None:
    """Put what the threads of a result hold together, in the first one's register."""
    ptx.store_floats(shared, thread * FLOATS, [held[0]])
    ptx.barrier()
    half = THREADS // 2
    while half:
        with T.If(T.And(half >= lanes, thread < half)), T.Then():
            other = ptx.registers(1, "float32")
            ptx.load_words(other, 0, 1, shared, (thread + half) * FLOATS)
            T.buffer_store(held, kind.combine(held[0], other[0]), [0])
            ptx.store_floats(shared, thread * FLOATS, [held[0]])
        ptx.barrier()
        half //= 2


def _largest(a: Expr, b: Expr) -> Expr:
    """NaN where one of them is."""
    return T.Select(T.Or(T.isnan(b), b > a), b, a)


def _least(a: Expr, b: Expr) -> Expr:
    return T.Select(T.Or(T.isnan(b), b < a), b, a)


def _sum(a: Expr, b: Expr) -> Expr:
    return a + b


KINDS: dict[str, Kind] = {
    "ReduceSum": Kind(0, _sum), "ReduceMean": Kind(0, _sum, finish=lambda x, count: x / count),
    "ReduceMax": Kind(float("-inf"), _largest), "ReduceMin": Kind(float("inf"), _least),
    "ReduceProd": Kind(1, lambda a, b: a * b), "ReduceL1": Kind(0, _sum, lambda x: T.Select(x < 0, -x, x)),
    "ReduceL2": Kind(0, _sum, lambda x: x * x, lambda x, _count: T.sqrt(x)),
    "ReduceSumSquare": Kind(0, _sum, lambda x: x * x),
    "ReduceLogSum": Kind(0, _sum, finish=lambda x, _count: T.log(x)),
}
"""By ONNX's operator."""
