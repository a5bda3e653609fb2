"""Broadcasts of four consecutive floats by one load: LLVM IR that is linked into a kernel and inlined.

A kernel that is bound by its loads spends one on every broadcast weight. One load that repeats four weights in every
128-bit lane, and a permute within the lanes for each of them, costs a quarter of that.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Expr

FOUR = 4


def suits(isa: Isa) -> bool:
    """Whether there are such permutes: SVE's vectors of a fixed size are none that LLVM lets assembly see."""
    return isa.lanes == FOUR if isa.neon else isa.lanes > FOUR


def llvm(isa: Isa) -> str:
    """What kernels that call the functions below need, for vectors of AVX, AVX-512 or NEON."""
    lanes, register = isa.lanes, "w" if isa.neon else "v"

    def shuffle(positions: list[int]) -> str:
        return f"<{lanes} x i32> <{', '.join(f'i32 {each}' for each in positions)}>"

    vector = f"<{lanes} x float>"
    repeat = shuffle([lane % FOUR for lane in range(lanes)])
    # The empty assembly hides where the vector comes from: LLVM would turn each pick into a load of its own again.
    source = f"""
define linkonce_odr {vector} @sparsec_load_four(ptr %values, i64 %index) alwaysinline nounwind {{
  %at = getelementptr float, ptr %values, i64 %index
  %four = load <4 x float>, ptr %at, align 4
  %repeated = shufflevector <4 x float> %four, <4 x float> poison, {repeat}
  %hidden = call {vector} asm "", "={register},0"({vector} %repeated)
  ret {vector} %hidden
}}
"""
    for slot in range(FOUR):
        source += f"""
define linkonce_odr {vector} @sparsec_pick{slot}({vector} %four) alwaysinline nounwind readnone {{
  %one = shufflevector {vector} %four, {vector} poison, {shuffle([lane - lane % FOUR + slot for lane in range(lanes)])}
  ret {vector} %one
}}
"""
    return source


def broadcasts(buffer: Buffer, first: Expr, count: int, lanes: int) -> Callable[[int], Expr]:
    """`count` consecutive floats of a buffer from `first` on, a multiple of four: slot -> a vector of that one."""
    fours = [T.Bind(T.call_extern(f"float32x{lanes}", "sparsec_load_four", buffer.access_ptr("r"),
                                  T.Cast("int64", first + slot))) for slot in range(0, count, FOUR)]
    return lambda slot: T.call_extern(f"float32x{lanes}", f"sparsec_pick{slot % FOUR}", fours[slot // FOUR])
