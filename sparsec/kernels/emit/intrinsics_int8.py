"""Products of 8-bit integers, four at a time, as LLVM IR that is linked into a kernel (see `intrinsics.py`).

Two forms of the dot product, of unsigned activations and signed weights:
    sparsec_dot (AVX512_VNNI, AVX-VNNI, NEON) of `narrow.py` is exact for 8-bit activations;
    vpmaddubsw, vpmaddwd and vpaddd (AVX2, AVX512BW): the first adds two products in 16 bits, which never overflows if
               activations have 7 bits.
A tile of integers holds four float vectors in one vector of bytes, four elements of each in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.intrinsics import unpack
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.narrow import llvm_narrow
from sparsec.kernels.emit.tir import Buffer, Expr, lanes_of, splat

TINY = 1e-30
"""Keeps the scale of an all-zero pixel or row finite."""

_ROUND = 12582912.0  # 1.5 * 2^23
_ROUND_BITS = 0x4B400000
_ADD_BYTES = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}
_ADD_PAIRS = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


def llvm_int8(isa: Isa) -> str:
    """What kernels that multiply 8-bit integers need on an instruction set with `int8`."""
    n = isa.lanes
    words, halves, chars = f"<{n} x i32>", f"<{2 * n} x i16>", f"<{4 * n} x i8>"
    return "".join([
        llvm_narrow(isa),
        "" if isa.vnni else
        f"declare {halves} @{_ADD_BYTES[n]}({chars}, {chars})\n",
        f"""
define linkonce_odr {halves} @sparsec_tile_int8({words} %a, {words} %b, {words} %c, {words} %d)
    alwaysinline nounwind readnone {{
  %ab = call {halves} @sparsec_narrow_words({words} %a, {words} %b)
  %cd = call {halves} @sparsec_narrow_words({words} %c, {words} %d)
  %q = call {chars} @sparsec_narrow_halves({halves} %ab, {halves} %cd)
  %r = bitcast {chars} %q to {halves}
  ret {halves} %r
}}
""",
        *(_dot(isa, vector) for vector in range(4)), _bytes(isa)])


def _dot(isa: Isa, vector: int) -> str:
    """Elements of vector `vector` (0 to 3) of four rows, interleaved by bytes and then by pairs, times the weights."""
    n = isa.lanes
    words, halves, chars = f"<{n} x i32>", f"<{2 * n} x i16>", f"<{4 * n} x i8>"
    operands = ", ".join(f"{halves} %{row}" for row in "abcd")
    casts = "\n".join(f"  %{row}8 = bitcast {halves} %{row} to {chars}" for row in "abcd")
    bytes_mixed, pairs_mixed = unpack(4 * n, vector // 2, n // 4), unpack(2 * n, vector % 2, n // 4)
    return f"""
define linkonce_odr {words} @sparsec_dot_int8_{vector}({words} %sum, {operands}, {words} %w)
    alwaysinline nounwind readnone {{
{casts}
  %ab8 = shufflevector {chars} %a8, {chars} %b8, {bytes_mixed}
  %cd8 = shufflevector {chars} %c8, {chars} %d8, {bytes_mixed}
  %ab = bitcast {chars} %ab8 to {halves}
  %cd = bitcast {chars} %cd8 to {halves}
  %abcd = shufflevector {halves} %ab, {halves} %cd, {pairs_mixed}
  %x = bitcast {halves} %abcd to {chars}
  %v = bitcast {words} %w to {chars}
  {_product(isa)}
  ret {words} %r
}}
"""


def _product(isa: Isa) -> str:
    """The dot product of unsigned bytes %x and signed bytes %v added to %sum, as %r."""
    n = isa.lanes
    words, halves, chars = f"<{n} x i32>", f"<{2 * n} x i16>", f"<{4 * n} x i8>"
    if isa.vnni:
        return f"%r = call {words} @sparsec_dot({words} %sum, {chars} %x, {chars} %v)"
    ones = ", ".join(["i16 1"] * 2 * n)
    return f"""\
%p = call {halves} @{_ADD_BYTES[n]}({chars} %x, {chars} %v)
  %s = call {words} @{_ADD_PAIRS[n]}({halves} %p, {halves} <{ones}>)
  %r = add {words} %s, %sum"""


def _bytes(isa: Isa) -> str:
    """Dot products of vectors of bytes, and four bytes of memory in every lane."""
    words, chars = f"<{isa.lanes} x i32>", f"<{4 * isa.lanes} x i8>"
    zeros = ", ".join(["i32 0"] * isa.lanes)
    return f"""
define linkonce_odr {words} @sparsec_dot_bytes({words} %sum, {chars} %x, {chars} %v)
    alwaysinline nounwind readnone {{
  {_product(isa)}
  ret {words} %r
}}
define linkonce_odr {chars} @sparsec_splat_four(ptr %from) alwaysinline nounwind {{
  %four = load i32, ptr %from, align 1
  %one = insertelement {words} undef, i32 %four, i64 0
  %all = shufflevector {words} %one, {words} undef, <{isa.lanes} x i32> <{zeros}>
  %r = bitcast {words} %all to {chars}
  ret {chars} %r
}}
"""


def rounding(zero: int) -> float:
    """What is added to a float so that its low bits hold the nearest integer plus `zero`, see `integers_of`."""
    return _ROUND + zero


def integers_of(rounded: Expr) -> Expr:
    """The integers in the low bits of floats that `rounding` was added to."""
    lanes = lanes_of(rounded)
    kind = f"int32x{lanes}" if lanes > 1 else "int32"
    return T.reinterpret(kind, rounded) - splat(T.int32(_ROUND_BITS), lanes)



def tile_int8(vectors: Sequence[Expr]) -> Expr:
    """Four vectors of integers, each cut off at 0 and 255, as one vector of an 8-bit tile."""
    return T.call_extern(f"int16x{2 * lanes_of(vectors[0])}", "sparsec_tile_int8", *vectors)


def dot_int8(total: Expr, rows: Sequence[Expr], weights: Expr, vector: int) -> Expr:
    """The sum total + w[i] * rows[i] over i < 4, for integer vector `vector` (0 to 3) of four vectors of a tile."""
    return T.call_extern(f"int32x{lanes_of(total)}", f"sparsec_dot_int8_{vector}", total, *rows, weights)


def splat_four(buffer: Buffer, index: Expr, lanes: int) -> Expr:
    """Four bytes of a buffer from `index` on, in every lane of a vector."""
    return T.call_extern(f"uint8x{4 * lanes}", "sparsec_splat_four", T.address_of(buffer[index]))


def permute_bytes(low: Expr, index: Expr, high: Expr) -> Expr:
    """The bytes of two vectors of 64 at the low seven bits of `index`; needs AVX512_VBMI."""
    return T.call_llvm_pure_intrin("uint8x64", "llvm.x86.avx512.vpermi2var.qi.512", low, index, high)


def dot_bytes(total: Expr, activations: Expr, weights: Expr) -> Expr:
    """The sum of a vector of integers and the products of four unsigned and four signed bytes in every lane."""
    return T.call_extern(f"int32x{lanes_of(total)}", "sparsec_dot_bytes", total, activations, weights)
