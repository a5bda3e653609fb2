"""Products of 8-bit integers, four at a time, as LLVM IR that is linked into a kernel (see `intrinsics.py`).

Two forms of the dot product, of unsigned activations and signed weights, for vectors of 256 and 512 bits:
    vpdpbusd   (AVX512_VNNI, AVX-VNNI) is exact for 8-bit activations;
    vpmaddubsw, vpmaddwd and vpaddd (AVX2, AVX512BW): the first adds two products in 16 bits, which never overflows if
               activations have 7 bits.
A tile of integers holds four float vectors in one vector of bytes, four elements of each in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit import lanes_of
from sparsec.kernels.intrinsics import unpack
from sparsec.kernels.isa import Isa

_NARROW = {8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
           16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512")}
_DOT = {8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}
_ADD_BYTES = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}
_ADD_PAIRS = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


def llvm_int8(isa: Isa) -> str:
    """What kernels that multiply 8-bit integers need on an instruction set of 8 or 16 lanes."""
    n = isa.lanes
    words, halves, chars = f"<{n} x i32>", f"<{2 * n} x i16>", f"<{4 * n} x i8>"
    words_down, halves_down = _NARROW[n]
    return "".join([
        f"declare {halves} @{words_down}({words}, {words})\n",
        f"declare {chars} @{halves_down}({halves}, {halves})\n",
        f"declare {words} @{_DOT[n]}({words}, {chars}, {chars})\n" if isa.vnni else
        f"declare {halves} @{_ADD_BYTES[n]}({chars}, {chars})\ndeclare {words} @{_ADD_PAIRS[n]}({halves}, {halves})\n",
        f"""
define linkonce_odr {halves} @sparsec_tile_int8({words} %a, {words} %b, {words} %c, {words} %d)
    alwaysinline nounwind readnone {{
  %ab = call {halves} @{words_down}({words} %a, {words} %b)
  %cd = call {halves} @{words_down}({words} %c, {words} %d)
  %q = call {chars} @{halves_down}({halves} %ab, {halves} %cd)
  %r = bitcast {chars} %q to {halves}
  ret {halves} %r
}}
""",
        *(_dot(isa, vector) for vector in range(4))])


def _dot(isa: Isa, vector: int) -> str:
    """Elements of vector `vector` (0 to 3) of four rows, interleaved by bytes and then by pairs, times the weights."""
    n = isa.lanes
    words, halves, chars = f"<{n} x i32>", f"<{2 * n} x i16>", f"<{4 * n} x i8>"
    operands = ", ".join(f"{halves} %{row}" for row in "abcd")
    casts = "\n".join(f"  %{row}8 = bitcast {halves} %{row} to {chars}" for row in "abcd")
    bytes_mixed, pairs_mixed = unpack(4 * n, vector // 2, n // 4), unpack(2 * n, vector % 2, n // 4)
    ones = ", ".join(["i16 1"] * 2 * n)
    product = f"%r = call {words} @{_DOT[n]}({words} %sum, {chars} %x, {chars} %v)" if isa.vnni else f"""\
%p = call {halves} @{_ADD_BYTES[n]}({chars} %x, {chars} %v)
  %s = call {words} @{_ADD_PAIRS[n]}({halves} %p, {halves} <{ones}>)
  %r = add {words} %s, %sum"""
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
  {product}
  ret {words} %r
}}
"""


def tile_int8(vectors: Sequence[Any]) -> Any:
    """Four vectors of integers, each cut off at 0 and 255, as one vector of an 8-bit tile."""
    return T.call_extern(f"int16x{2 * lanes_of(vectors[0])}", "sparsec_tile_int8", *vectors)


def dot_int8(total: Any, rows: Sequence[Any], weights: Any, vector: int) -> Any:
    """The sum total + w[i] * rows[i] over i < 4, for integer vector `vector` (0 to 3) of four vectors of a tile."""
    return T.call_extern(f"int32x{lanes_of(total)}", f"sparsec_dot_int8_{vector}", total, *rows, weights)
