"""Broadcasts of four consecutive floats by one load: LLVM IR that is linked into a kernel and inlined.

A kernel that is bound by its loads spends one on every broadcast weight. One load that repeats four weights in every
128-bit lane, and a permute within the lanes for each of them, costs a quarter of that.
"""

from __future__ import annotations

from typing import Any

from tvm.tirx.script.builder import ir as T

QUAD = 4


def llvm(lanes: int) -> str:
    """What kernels that call the functions below need, for vectors of `lanes` floats (x86 with AVX)."""
    def shuffle(positions: list[int]) -> str:
        return f"<{lanes} x i32> <{', '.join(f'i32 {each}' for each in positions)}>"

    vector = f"<{lanes} x float>"
    repeat = shuffle([lane % QUAD for lane in range(lanes)])
    # The empty assembly hides where the vector comes from: LLVM would turn each pick into a load of its own again.
    source = f"""
define linkonce_odr {vector} @sparsec_quad(ptr %values, i64 %index) alwaysinline nounwind {{
  %at = getelementptr float, ptr %values, i64 %index
  %four = load <4 x float>, ptr %at, align 4
  %repeated = shufflevector <4 x float> %four, <4 x float> poison, {repeat}
  %hidden = call {vector} asm "", "=v,0"({vector} %repeated)
  ret {vector} %hidden
}}
"""
    for slot in range(QUAD):
        source += f"""
define linkonce_odr {vector} @sparsec_pick{slot}({vector} %quad) alwaysinline nounwind readnone {{
  %one = shufflevector {vector} %quad, {vector} poison, {shuffle([lane - lane % QUAD + slot for lane in range(lanes)])}
  ret {vector} %one
}}
"""
    return source


def quad(buffer: Any, index: Any, lanes: int) -> Any:
    """Four consecutive floats of a buffer, repeated over a vector."""
    return T.call_extern(f"float32x{lanes}", "sparsec_quad", buffer.access_ptr("r"), T.Cast("int64", index))


def pick(repeated: Any, slot: int, lanes: int) -> Any:
    """One of the four, in every lane."""
    return T.call_extern(f"float32x{lanes}", f"sparsec_pick{slot}", repeated)
