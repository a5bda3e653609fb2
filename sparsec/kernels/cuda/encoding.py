"""The kernel that makes codes of 8 bits of a tensor of floats, where what computes the tensor has not made them."""

from __future__ import annotations

import functools
import math

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.cuda.codes import STORED, encoded
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

THREADS, VECTOR = 256, 8
BYTES = 3
"""That a number of half precision and its code take."""


@functools.lru_cache(maxsize=256)
def build(size: int, source: str, dtype: str) -> Kernel:
    """The kernel (x, numbers of `Codes`) -> y that makes codes of a flat tensor of floats."""
    vector = math.gcd(size, VECTOR)

    def body(buffers: Buffers) -> None:
        pieces = size // vector
        with (T.launch_thread("blockIdx.x", -(-pieces // THREADS)) as block,
              T.launch_thread("threadIdx.x", THREADS) as thread):
            at = T.Bind((block * THREADS + thread) * vector)
            with T.If(at < size), T.Then():
                _piece(buffers, at, vector, source, dtype)

    arguments = {"x": (size, source), "codes": (2, "float32"), "y": (size, STORED.get(dtype, dtype))}
    return pipeline.prim_func(arguments, body)


def _piece(buffers: Buffers, at: Expr, vector: int, source: str, dtype: str) -> None:
    values, results = ptx.registers(vector, source), ptx.registers(vector, STORED.get(dtype, dtype))
    _copy(values, 0, buffers["x"], at, vector)
    for i in range(vector):
        T.buffer_store(results, encoded(T.Cast("float32", values[i]), dtype, buffers["codes"]), [i])
    _copy(buffers["y"], at, results, 0, vector)


def _copy(to: Buffer, at: Expr, source: Buffer, first: Expr, vector: int) -> None:
    if vector == 1:
        T.buffer_store(to, source[first], [at])
    else:
        T.buffer_store(to, source[T.Ramp(first, 1, vector)], [T.Ramp(at, 1, vector)])
