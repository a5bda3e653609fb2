"""Scale and zero point of any number of float32, as DynamicQuantizeLinear finds them."""

from __future__ import annotations

from functools import reduce

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cpu.codes.quantize import LARGEST
from sparsec.kernels.emit.codes import llvm_codes, whole
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Kernel, kernel, load, registers, splat, store

FLIGHT = 4  # vectors that are compared at once, which hides the latency of a comparison


def build(isa: Isa) -> Kernel:
    """The kernel: (sizes, x) -> (scale, zero point); the first element of `sizes` tells how many x has."""
    return kernel({"sizes": (1, "int64"), "x": (None, "float32"), "scale": (None, "float32"),
                   "zero_point": (None, "uint8")}, lambda b: _emit(b, isa), llvm_codes(isa), views=True)


def _emit(b: Buffers, isa: Isa) -> None:
    lanes, count = isa.lanes, T.Bind(b["sizes"][0])
    ends = registers(2 * FLIGHT, lanes)
    for register in range(2 * FLIGHT):
        store(ends, register * lanes, splat(0.0, lanes))
    whole_blocks = T.Bind(T.floordiv(count, FLIGHT * lanes))
    with T.serial(0, whole_blocks) as block:
        for part in range(FLIGHT):
            x = T.Bind(load(b["x"], (block * FLIGHT + part) * lanes, lanes))
            for side, function in enumerate((T.min, T.max)):
                at = (side * FLIGHT + part) * lanes
                store(ends, at, function(load(ends, at, lanes), x))
    done = T.Bind(whole_blocks * (FLIGHT * lanes))
    with T.serial(0, count - done) as rest:
        x = T.Bind(b["x"][done + rest])
        for side, function in enumerate((T.min, T.max)):
            T.buffer_store(ends, function(ends[side * FLIGHT * lanes], x), [side * FLIGHT * lanes])
    least, most = (T.Bind(reduce(function, [ends[side * FLIGHT * lanes + lane] for lane in range(FLIGHT * lanes)]))
                   for side, function in enumerate((T.min, T.max)))
    scale = T.Bind(T.Select(most == least, T.float32(1.0), (most - least) / T.float32(float(LARGEST))))
    zero = T.min(T.max(T.float32(0.0) - least / scale, T.float32(0.0)), T.float32(float(LARGEST)))
    T.buffer_store(b["scale"], scale, [0])
    rounded = registers(1, lanes)
    store(rounded, 0, whole(splat(zero, lanes)))
    T.buffer_store(b["zero_point"], T.Cast("uint8", rounded[0]), [0])
