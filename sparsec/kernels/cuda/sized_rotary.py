"""Rotations of features by angles that grow with the position, for sizes and strides that the run tells.

As `kernels.cpu.tensors.sized_rotary` computes them: feature i of the first half makes a pair with feature i of the
second, (a, b) becomes (a cos - b sin, b cos + a sin).
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline
from sparsec.kernels.cuda.sized_threads import own_element
from sparsec.kernels.emit.tir import Buffers, Kernel

THREADS = 128
NUMBERS = ("batch", "heads", "tokens", "x_batch", "x_head", "x_token", "cos_batch", "cos_token", "sin_batch",
           "sin_token")
"""The kernel's numbers: sizes, then strides in elements, 0 where a table is the same for all."""


def build(depth: int, dtype: str, *, both: bool) -> Kernel:
    """The kernel: (x, cos, sin) -> y (batch, tokens, heads, depth), then `NUMBERS`; a thread rotates a pair.

    Args:
        depth: features of a head.
        dtype: of x and y; tables are float32.
        both: the tables have angles for both halves.

    """
    half = depth // 2

    def body(buffers: Buffers, told: pipeline.Numbers) -> None:
        total = told["batch"] * told["tokens"] * told["heads"] * half
        with own_element(total) as number:
            feature, row = T.Bind(number % half), T.Bind(number // half)
            head, place = T.Bind(row % told["heads"]), T.Bind(row // told["heads"])
            token, batch = T.Bind(place % told["tokens"]), T.Bind(place // told["tokens"])
            start = T.Bind(batch * told["x_batch"] + head * told["x_head"] + token * told["x_token"] + feature)
            near, far = (T.Bind(T.Cast("float32", buffers["x"][start + side])) for side in (0, half))
            tables = {name: T.Bind(batch * told[f"{name}_batch"] + token * told[f"{name}_token"] + feature)
                      for name in ("cos", "sin")}
            for side, (one, other) in ((0, (near, -far)), (half, (far, near))):
                cos, sin = (buffers[name][at + (side if both else 0)] for name, at in tables.items())
                T.buffer_store(buffers["y"], T.Cast(dtype, one * cos + other * sin),
                               [row * depth + side + feature])

    return pipeline.sized_func({"x": dtype, "cos": "float32", "sin": "float32", "y": dtype}, NUMBERS, body)
