"""What threads of a kernel share beside arrays: counters that each of them moves on."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.tir import Buffer, Expr

LLVM_TURNS = """
define linkonce_odr i32 @sparsec_next_turn(ptr %counter) alwaysinline nounwind {
  %r = atomicrmw add ptr %counter, i32 1 monotonic
  ret i32 %r
}
"""
"""What kernels with `next_turn` need."""


def next_turn(counters: Buffer, index: Expr) -> Expr:
    """What a counter of 32 bits is, which is one more from then on; no two threads get the same."""
    return T.call_extern("int32", "sparsec_next_turn", T.address_of(counters[index]))
