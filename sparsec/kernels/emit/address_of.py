"""Arrays by their addresses, where a loop goes over several arguments of a kernel or a table says where they lie."""

from __future__ import annotations

import tvm
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.tir import Buffer, Expr

LLVM = """
define linkonce_odr i64 @sparsec_address(ptr %of) alwaysinline nounwind readnone {
  %address = ptrtoint ptr %of to i64
  ret i64 %address
}
"""
"""What `address` calls, for the functions that call it."""


def address(buffer: Buffer) -> Expr:
    """Where an array lies, an int64."""
    return T.call_extern("int64", "sparsec_address", buffer.data)


def buffer_at(place: Expr, size: int, dtype: str) -> Buffer:
    """The array of so many elements at an address; the statements that follow may read it."""
    pointer = T.Bind(T.reinterpret(tvm.ir.PointerType(tvm.ir.PrimType(dtype)), place))
    return T.decl_buffer((size,), dtype, data=pointer)
