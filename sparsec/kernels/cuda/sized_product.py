"""Products of computed matrices of any sizes and strides, on a GPU without its tensor cores.

A block of 16 x 16 threads computes a tile; both operands' parts of it lie in shared memory, a few columns of the first
and rows of the second at a time (Kirk and Hwu, Programming Massively Parallel Processors, chapter 5).
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

SIDE, OWN, DEPTH, FLOATS = 16, 4, 16, 4
"""Threads along a side of a block, rows and columns that a thread computes, what is multiplied at a time, and bytes."""
TILE, THREADS = SIDE * OWN, SIDE * SIDE
BATCHES = 3
"""Dimensions in front of the matrices, which may be 1."""
NUMBERS = ("rows", "columns", "inner", *(f"batch{axis}" for axis in range(BATCHES)),
           *(f"{name}{axis}" for name in ("a", "b") for axis in range(BATCHES)), "a_row", "a_inner", "b_inner",
           "b_column")
"""The kernel's numbers: sizes, and strides in elements, 0 along what an operand has once for all."""


def build(left: str, right: str, made: str) -> Kernel:
    """The kernel: (a, b) -> y in C order, then `NUMBERS`; element types of both operands and of y are floats."""
    def body(b: Buffers, told: pipeline.Numbers) -> None:
        across, down = (T.Bind((told[name] + (TILE - 1)) // TILE) for name in ("columns", "rows"))
        batches = told["batch0"] * told["batch1"] * told["batch2"]
        with (T.launch_thread("blockIdx.x", across * down * batches) as block,
              T.launch_thread("threadIdx.x", THREADS) as thread):
            shared = ptx.shared_memory(2 * TILE * DEPTH * FLOATS)
            column, rest = T.Bind(block % across * TILE), T.Bind(block // across)
            row, batch = T.Bind(rest % down * TILE), T.Bind(rest // down)
            a, w = _begins(batch, told)
            x, y = T.Bind(thread % SIDE), T.Bind(thread // SIDE)
            sums = ptx.registers(OWN * OWN, "float32")
            for place in range(OWN * OWN):
                T.buffer_store(sums, T.float32(0), [place])
            with T.serial(0, (told["inner"] + (DEPTH - 1)) // DEPTH) as turn:
                first = T.Bind(turn * DEPTH)
                for part in range(OWN):  # TILE x DEPTH elements of each operand
                    number = T.Bind(thread + part * THREADS)
                    line, deep = T.Bind(number // DEPTH), T.Bind(number % DEPTH)
                    _keep(shared, deep * TILE + line, b["a"], a + (row + line) * told["a_row"] + (first + deep) * told[
                        "a_inner"], T.And(row + line < told["rows"], first + deep < told["inner"]))
                    line, deep = T.Bind(number % TILE), T.Bind(number // TILE)
                    _keep(shared, (DEPTH + deep) * TILE + line, b["b"], w + (column + line) * told["b_column"] + (
                        first + deep) * told["b_inner"],
                        T.And(column + line < told["columns"], first + deep < told["inner"]))
                ptx.barrier()
                mine, theirs = ptx.registers(OWN, "float32"), ptx.registers(OWN, "float32")
                with T.serial(0, DEPTH) as deep:
                    ptx.load_words(mine, 0, OWN, shared, (deep * TILE + y * OWN) * FLOATS)
                    ptx.load_words(theirs, 0, OWN, shared, ((DEPTH + deep) * TILE + x * OWN) * FLOATS)
                    for i in range(OWN):
                        for j in range(OWN):
                            T.buffer_store(sums, sums[i * OWN + j] + mine[i] * theirs[j], [i * OWN + j])
                ptx.barrier()
            for i in range(OWN):
                for j in range(OWN):
                    at_row, at_column = T.Bind(row + y * OWN + i), T.Bind(column + x * OWN + j)
                    with T.If(T.And(at_row < told["rows"], at_column < told["columns"])), T.Then():
                        at = T.Bind((batch * told["rows"] + at_row) * told["columns"] + at_column)
                        T.buffer_store(b["y"], T.Cast(made, sums[i * OWN + j]), [at])

    return pipeline.sized_func({"a": left, "b": right, "y": made}, NUMBERS, body)


def _begins(batch: Expr, told: pipeline.Numbers) -> tuple[Expr, Expr]:
    """Where both matrices of a batch begin."""
    left, places = batch, []
    for axis in reversed(range(BATCHES)):
        places.append((axis, T.Bind(left % told[f"batch{axis}"])))
        left = T.Bind(left // told[f"batch{axis}"])
    first, second = (T.Bind(sum(place * told[f"{name}{axis}"] for axis, place in places)) for name in ("a", "b"))
    return first, second


def _keep(shared: Expr, to: Expr, source: Buffer, at: Expr, inside: Expr) -> None:
    """Bring an element to shared memory, 0 from outside."""
    held = ptx.registers(1, "float32")
    T.buffer_store(held, T.float32(0), [0])
    with T.If(inside), T.Then():
        T.buffer_store(held, T.Cast("float32", source[at]), [0])
    ptx.store_floats(shared, to * FLOATS, [held[0]])
