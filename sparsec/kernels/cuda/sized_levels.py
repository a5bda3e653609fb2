"""Scale and zero point of any number of floats, as DynamicQuantizeLinear finds them, on a GPU."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.graph.sized import LEVELS_LENGTH
from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.emit.tir import Buffers, Kernel

LANES, ENDS = 32, 2
"""Of a warp, and what it leaves: how far its numbers reach below zero, and above it."""
WARPS = LEVELS_LENGTH // ENDS
THREADS = LANES * WARPS
LARGEST = 255
"""The largest code."""
NUMBERS = ("count", "parts")
"""Numbers of x, 1 at least, and thread blocks that share them."""


def build(dtype: str) -> Kernel:
    """The kernels: (x, partial) -> (scale, zero point), then `NUMBERS`.

    `partial` has room for `LEVELS_LENGTH` floats of each part.
    """
    def body(b: Buffers, told: pipeline.Numbers) -> None:
        _find_ends(b, told)
        _settle(b, told)

    return pipeline.sized_func({"x": dtype, "partial": "float32", "scale": "float32", "zero": "uint8"}, NUMBERS, body)


def _find_ends(b: Buffers, told: pipeline.Numbers) -> None:
    """The first kernel: every thread looks at numbers that lie a grid apart."""
    with (T.launch_thread("blockIdx.x", told["parts"]) as block, T.launch_thread("threadIdx.x", THREADS) as thread):
        found = ptx.registers(ENDS, "float32")
        for end in range(ENDS):
            T.buffer_store(found, T.float32(0), [end])
        stride = T.Bind(told["parts"] * THREADS)
        with T.serial(0, (told["count"] + (stride - 1)) // stride) as turn:
            index = T.Bind(T.min(turn * stride + block * THREADS + thread, told["count"] - 1))
            x = T.Bind(T.Cast("float32", b["x"][index]))
            T.buffer_store(found, T.max(found[0], T.float32(0) - x), [0])
            T.buffer_store(found, T.max(found[1], x), [1])
        for end in range(ENDS):
            T.buffer_store(found, T.cuda.warp_max(found[end], LANES), [end])
        with T.If(thread % LANES == 0), T.Then():
            for end in range(ENDS):
                T.buffer_store(b["partial"], found[end], [block * LEVELS_LENGTH + thread // LANES * ENDS + end])


def _settle(b: Buffers, told: pipeline.Numbers) -> None:
    """The second kernel: one warp puts the parts together."""
    with (T.launch_thread("blockIdx.x", 1), T.launch_thread("threadIdx.x", LANES) as lane):
        found = ptx.registers(ENDS, "float32")
        for end in range(ENDS):
            T.buffer_store(found, T.float32(0), [end])
        warps = T.Bind(told["parts"] * WARPS)
        with T.serial(0, (warps + (LANES - 1)) // LANES) as turn:
            warp = T.Bind(T.min(turn * LANES + lane, warps - 1))
            for end in range(ENDS):
                T.buffer_store(found, T.max(found[end], b["partial"][warp * ENDS + end]), [end])
        for end in range(ENDS):
            T.buffer_store(found, T.cuda.warp_max(found[end], LANES), [end])
        with T.If(lane == 0), T.Then():
            least, reach = T.Bind(found[0]), T.Bind(found[0] + found[1])
            scale = T.Bind(T.Select(reach == T.float32(0), T.float32(1), reach / T.float32(LARGEST)))
            T.buffer_store(b["scale"], scale, [0])
            zero = T.min(T.nearbyint(least / scale), T.float32(LARGEST))
            T.buffer_store(b["zero"], T.Cast("uint8", zero), [0])
