"""What the kernels for few rows on 8-bit integers share: activations as bytes, and sums back to floats.

A row of X is x = scale * (u - zero), its largest magnitude at the largest u; a row of W is w = scale * q. The sum of
q * (u - zero) is an exact 32-bit integer; the part without u is what its accumulator starts from.
"""

from __future__ import annotations

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.kernels.emit.intrinsics_int8 import TINY, integers_of, rounding
from sparsec.kernels.emit.tir import Buffers, Expr, load, registers, splat, store
from sparsec.kernels.packing.vnni import GROUP, quantize

MOST_INPUTS = 1 << 17  # 2^17 products of 7 and 7 bits, and as many of 8 and 7 bits to start from, stay below 2^31


def reject(weight: np.ndarray) -> str | None:
    """Why a weight (outputs, inputs) cannot be multiplied in 8-bit integers, or None."""
    if weight.shape[1] > MOST_INPUTS:
        return f"sums of {weight.shape[1]} products do not fit 32 bits"
    return None if np.isfinite(weight).all() else "integers have no NaN and no infinity"


def zero_of(bits: int) -> int:
    """What stands for zero among activations of so many bits."""
    return 1 << (bits - 1)


def reference(weight: np.ndarray, columns: np.ndarray, zero: int) -> np.ndarray:
    """The product (outputs, n) of a weight and columns of activations (inputs, n), in the kernels' integers."""
    integers, scales = quantize(weight)
    scale = np.maximum(np.abs(columns).max(axis=0, initial=0), TINY) / (zero - 1)
    return np.asarray(integers @ np.rint(columns / scale) * scale * scales[:, None])


def quantized_rows(b: Buffers, shape: Matvec, zero: int, width: int, lanes: int) -> tuple[Expr, int, Expr]:
    """X as bytes in rows of at least `width`, their stride in bytes, and the scale of every row.

    What lies behind a row's inputs is zero.
    """
    stride = max(width, -(-shape.inputs // (GROUP * lanes)) * GROUP * lanes)
    rows = T.alloc_buffer((shape.batch * stride,), "uint8")
    scales = T.alloc_buffer((shape.batch,), "float32")
    largest, factor = registers(1, lanes), registers(1, 1)
    whole = shape.inputs - shape.inputs % lanes
    with T.serial(0, shape.batch) as n:
        store(largest, 0, splat(TINY, lanes))
        with T.serial(0, whole // lanes) as v:
            x = load(b["x"], n * shape.inputs + v * lanes, lanes)
            store(largest, 0, T.max(load(largest, 0, lanes), T.fabs(x)))
        T.buffer_store(factor, T.float32(TINY), [0])
        for lane in range(lanes):
            T.buffer_store(factor, T.max(factor[0], largest[lane]), [0])
        with T.serial(whole, shape.inputs) as i:
            T.buffer_store(factor, T.max(factor[0], T.fabs(b["x"][n * shape.inputs + i])), [0])
        T.buffer_store(scales, factor[0] * T.float32(1 / (zero - 1)), [n])
        T.buffer_store(factor, T.float32(zero - 1) / factor[0], [0])

        def quantized(at: Expr, count: int) -> Expr:
            scaled = load(b["x"], at, count) * splat(factor[0], count) + splat(rounding(zero), count)
            return T.Cast(f"uint8x{count}" if count > 1 else "uint8", integers_of(scaled))

        with T.serial(0, whole // lanes) as v:
            store(rows, n * stride + v * lanes, quantized(n * shape.inputs + v * lanes, lanes))
        with T.serial(whole, shape.inputs) as i:
            T.buffer_store(rows, quantized(n * shape.inputs + i, 1), [n * stride + i])
        with T.serial(shape.inputs, stride) as i:
            T.buffer_store(rows, T.uint8(0), [n * stride + i])
    return rows, stride, scales


def finished(b: Buffers, row: Expr, total: Expr, scale: Expr, lanes: int) -> Expr:
    """A vector of sums as floats."""
    return T.Cast(f"float32x{lanes}", total) * load(b["scales"], row, lanes) * splat(scale, lanes)
