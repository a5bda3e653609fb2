"""Kernels that tell what a GPU's launches and loads take."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.emit.tir import Buffers, Kernel

THREADS, VECTOR = 256, 4
PIECE = THREADS * VECTOR
"""Floats that a block reads at once."""
TOGETHER = 8
"""Pieces that are asked for before the first one is needed."""


def nothing() -> Kernel:
    """The kernel (y,) of one thread that writes a number."""
    def body(buffers: Buffers) -> None:
        with T.launch_thread("blockIdx.x", 1), T.launch_thread("threadIdx.x", 1):
            T.buffer_store(buffers["y"], T.Cast("float32", 0), [0])

    return pipeline.prim_func({"y": (1, "float32")}, body)


def read(pieces: int, blocks: int, turns: int, stride: int) -> Kernel:
    """The kernel (x, y) whose blocks read a piece of x each in every turn, a stride behind the last, and sum them.

    Args:
        pieces: of `PIECE` floats, the length of x; behind the last comes the first.
        blocks: their number, each with `THREADS` sums in y.
        turns: of every block, a multiple of `TOGETHER`.
        stride: pieces.

    """
    def body(buffers: Buffers) -> None:
        with (T.launch_thread("blockIdx.x", blocks) as block, T.launch_thread("threadIdx.x", THREADS) as thread):
            sums, values = ptx.registers(VECTOR, "float32"), ptx.registers(TOGETHER * VECTOR, "float32")
            for lane in range(VECTOR):
                T.buffer_store(sums, T.Cast("float32", 0), [lane])
            with T.serial(0, turns // TOGETHER) as turn:
                for each in range(TOGETHER):
                    piece = T.Bind((block + (turn * TOGETHER + each) * stride) % pieces)
                    from_, to = piece * PIECE + thread * VECTOR, each * VECTOR
                    T.buffer_store(values, buffers["x"][T.Ramp(from_, 1, VECTOR)], [T.Ramp(to, 1, VECTOR)])
                for each in range(TOGETHER):
                    for lane in range(VECTOR):
                        T.buffer_store(sums, sums[lane] + values[each * VECTOR + lane], [lane])
            total = sums[0]
            for lane in range(1, VECTOR):
                total = total + sums[lane]
            T.buffer_store(buffers["y"], total, [block * THREADS + thread])

    return pipeline.prim_func({"x": (pieces * PIECE, "float32"), "y": (blocks * THREADS, "float32")}, body)
