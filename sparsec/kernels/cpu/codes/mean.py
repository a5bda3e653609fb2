"""The mean of every channel of quantised images, row-major: `sparsec::QAveragePool` of whole images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat, round_up
from sparsec.kernels.cpu.images.padded import load_lanes, padded_rows
from sparsec.kernels.cpu.images.reformat_padded import flip
from sparsec.kernels.emit.codes import FOUR, dot, fenced, llvm_codes, narrowed, natural, rounded
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, registers, splat, store

X_SUM, Y_ZERO, LOW, HIGH = range(4)
"""Places of the constants in `codes`: the pixels' zero points together, and those of the result."""


@dataclass(frozen=True)
class MeanParams:
    """A kernel; `dtype` is of the result: uint8, int8 or float32. Constants of int8 results are 128 larger."""

    source: PaddedFlat
    dtype: str

    @property
    def outputs(self) -> int:
        """Numbers that the kernel computes."""
        return self.source.batch * self.source.channels


def pack(x_zero_point: int, y: tuple[int, int, int], ratio: float, pixels: int) -> list[np.ndarray]:
    """The constants: zero point of x, (zero point, least and largest code) of y, the factor of a sum, pixels."""
    return [np.array([x_zero_point * pixels, *y], np.int32), np.array([ratio], np.float32)]


def build(params: MeanParams, isa: Isa) -> Kernel:
    """The kernel: (codes, ratios, x) -> y."""
    lanes = FOUR * isa.lanes
    count = round_up(params.outputs, lanes)

    def body(b: Buffers) -> None:
        sums = T.alloc_buffer((count,), "int32")
        with T.serial(0, params.source.batch) as n, T.serial(0, params.source.channels) as c:
            index = T.Bind(n * params.source.channels + c)
            store(sums, _place(index, isa.lanes), _sum(b, params.source, isa.lanes, n, c))
        results = T.alloc_buffer((count,), params.dtype)
        with T.serial(0, count // lanes) as block:
            _finish(b, sums, results, block * lanes, isa.lanes)
        with T.serial(0, params.outputs) as index:
            store(b["y"], index, results[index])

    return kernel({"codes": (4, "int32"), "ratios": (1, "float32"), "x": (params.source.size, "uint8"),
                   "y": (params.outputs, params.dtype)}, body, llvm_codes(isa))


def _place(index: Expr, lanes: int) -> Expr:
    """Where a number waits so that four vectors hold the order of `emit.codes`."""
    inside = T.floormod(index, FOUR * lanes)
    part, group, lane = T.floormod(inside, 16) // FOUR, inside // 16, T.floormod(inside, FOUR)
    return index - inside + part * lanes + group * FOUR + lane


def _sum(b: Buffers, source: PaddedFlat, lanes: int, n: Expr, c: Expr) -> Expr:
    """The sum of a channel's codes."""
    wide, rows = FOUR * lanes, padded_rows(source)
    total, ones = registers(1, lanes, "int32"), T.Broadcast(T.uint8(1), wide)
    store(total, 0, splat(T.int32(0), lanes))
    with T.serial(0, source.height) as h:
        for first in range(0, source.width, wide):
            codes = load_lanes(b["x"], rows.start(n, c, h) + first, wide, 0, source.width - first)
            store(total, 0, dot(load(total, 0, lanes), codes, ones))
    result = total[0]
    for lane in range(1, lanes):
        result = result + total[lane]
    return result


def _finish(b: Buffers, sums: Buffer, results: Buffer, at: Expr, lanes: int) -> None:
    """Four vectors of results."""
    shift = T.Broadcast(b["codes"][X_SUM], lanes)
    floats = [fenced(T.Cast(f"float32x{lanes}", load(sums, at + part * lanes, lanes) - shift)
                     * splat(b["ratios"][0], lanes)) for part in range(FOUR)]
    if str(results.dtype) == "float32":
        for part in range(FOUR):
            store(results, at + part * lanes, natural(floats, part))
        return
    zero = T.Broadcast(T.Cast("int16", b["codes"][Y_ZERO]), 2 * lanes)
    codes = T.Bind(narrowed([rounded(each) for each in floats], zero))
    low, high = (T.Broadcast(T.Cast("uint8", b["codes"][place]), FOUR * lanes) for place in (LOW, HIGH))
    codes = T.min(T.max(codes, low), high)
    if str(results.dtype) == "int8":
        codes = T.bitwise_xor(T.reinterpret(f"int8x{FOUR * lanes}", codes), flip("int8", FOUR * lanes))
    store(results, at, codes)
