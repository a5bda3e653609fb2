"""Broadcasts of two consecutive floats by one load: LLVM IR that is linked into a kernel, as `load_four`."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Expr


def llvm(isa: Isa) -> str:
    """What kernels that call the function below need beside `load_four.llvm`, whose picks take its vector apart."""
    lanes, register = isa.lanes, "w" if isa.neon else "v"
    vector, halves = f"<{lanes} x float>", f"<{lanes // 2} x double>"
    return f"""
define linkonce_odr {vector} @sparsec_load_two(ptr %values, i64 %index) alwaysinline nounwind {{
  %at = getelementptr float, ptr %values, i64 %index
  %two = load double, ptr %at, align 4
  %first = insertelement {halves} poison, double %two, i32 0
  %repeated = shufflevector {halves} %first, {halves} poison, <{lanes // 2} x i32> zeroinitializer
  %floats = bitcast {halves} %repeated to {vector}
  %hidden = call {vector} asm "", "={register},0"({vector} %floats)
  ret {vector} %hidden
}}
"""


def broadcasts(buffer: Buffer, first: Expr, lanes: int) -> Callable[[int], Expr]:
    """Two consecutive floats of a buffer from `first` on: slot -> a vector of that one."""
    two = T.Bind(T.call_extern(f"float32x{lanes}", "sparsec_load_two", buffer.access_ptr("r"),
                               T.Cast("int64", first)))
    return lambda slot: T.call_extern(f"float32x{lanes}", f"sparsec_pick{slot}", two)
