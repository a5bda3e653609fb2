"""AVX-512 instructions on operands that TIR cannot express: LLVM IR that is linked into a kernel and inlined.

A kernel built with `LLVM` may call the functions below. Vectors of narrow elements travel as vectors of 16 x int32;
operations on them never cross a 128-bit lane, so tiles of narrow elements are stored in the order that unpacking
expects: word vector j of a bf16 tile holds the float vectors 2j and 2j + 1, four elements of each in turn.
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.tir import Buffer, Expr


def _shuffle(positions: list[int]) -> str:
    return f"<{len(positions)} x i32> <{', '.join(f'i32 {each}' for each in positions)}>"


def unpack(elements: int, side: int, parts: int = 4) -> str:
    """The mask of vpunpckl (side 0) or vpunpckh (side 1): half of each 128-bit part of two registers, interleaved."""
    lane = elements // parts
    return _shuffle([position for start in range(side * lane // 2, elements, lane) for i in range(lane // 2)
                     for position in (start + i, elements + start + i)])


def _dot_bf16(name: str, operand: str) -> str:
    return f"""
define linkonce_odr <16 x float> @{name}(<16 x float> %sum, <16 x i32> %first, <16 x i32> %second, <16 x i32> %w)
    alwaysinline nounwind readnone {{
  %a = bitcast <16 x i32> %first to <32 x i16>
  %b = bitcast <16 x i32> %second to <32 x i16>
  {operand}
  %x = bitcast <32 x i16> %ab to <32 x bfloat>
  %v = bitcast <16 x i32> %w to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sum, <32 x bfloat> %v, <32 x bfloat> %x)
  ret <16 x float> %r
}}
"""


def _round_bf16(name: str, order: str) -> str:
    return f"""
define linkonce_odr <16 x i32> @{name}(<16 x float> %low, <16 x float> %high) alwaysinline nounwind readnone {{
  %b = call <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float> %high, <16 x float> %low)
  {order}
}}
"""


_QUADS = """%q = bitcast <32 x bfloat> %b to <8 x i64>
  %o = shufflevector <8 x i64> %q, <8 x i64> poison, """ + _shuffle([0, 4, 1, 5, 2, 6, 3, 7]) + """
  %r = bitcast <8 x i64> %o to <16 x i32>
  ret <16 x i32> %r"""
_PAIRS = """%o = shufflevector <32 x bfloat> %b, <32 x bfloat> poison, """ + _shuffle(
    [position for i in range(16) for position in (i, 16 + i)]) + """
  %r = bitcast <32 x bfloat> %o to <16 x i32>
  ret <16 x i32> %r"""
_ROW = """%r = bitcast <32 x bfloat> %b to <16 x i32>
  ret <16 x i32> %r"""

BF16 = "".join([
    "declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)\n",
    "declare <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float>, <16 x float>)\n",
    *(_dot_bf16(f"sparsec_dot_bf16_{side}", f"%ab = shufflevector <32 x i16> %a, <32 x i16> %b, {unpack(32, side)}")
      for side in (0, 1)),
    _round_bf16("sparsec_tile_bf16", _QUADS),
    _round_bf16("sparsec_pairs_bf16", _PAIRS),
    _round_bf16("sparsec_row_bf16", _ROW),
    """
define linkonce_odr <16 x float> @sparsec_dot_pairs(<16 x float> %sum, <16 x i32> %x, <16 x i32> %w)
    alwaysinline nounwind readnone {
  %a = bitcast <16 x i32> %x to <32 x bfloat>
  %v = bitcast <16 x i32> %w to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sum, <32 x bfloat> %v, <32 x bfloat> %a)
  ret <16 x float> %r
}
"""])
"""What kernels that multiply pairs of bf16 need (AVX512_BF16)."""


def tile_bf16(low: Expr, high: Expr) -> Expr:
    """Two float vectors rounded to bf16, as one word vector of a bf16 tile."""
    return T.call_extern("int32x16", "sparsec_tile_bf16", low, high)


def pairs_bf16(low: Expr, high: Expr) -> Expr:
    """Two float vectors rounded to bf16 and paired: element i is (low[i], high[i])."""
    return T.call_extern("int32x16", "sparsec_pairs_bf16", low, high)


def row_bf16(low: Expr, high: Expr) -> Expr:
    """Two float vectors rounded to bf16, in order: word i holds elements 2i and 2i + 1."""
    return T.call_extern("int32x16", "sparsec_row_bf16", low, high)


def dot_bf16(total: Expr, first: Expr, second: Expr, weights: Expr, side: int) -> Expr:
    """The sum total + w[0] * first + w[1] * second, for float vector `side` (0 or 1) of two vectors of a bf16 tile."""
    return T.call_extern("float32x16", f"sparsec_dot_bf16_{side}", total, first, second, weights)


def dot_pairs(total: Expr, pairs: Expr, weights: Expr) -> Expr:
    """The sum total + w[0] * pairs[0] + w[1] * pairs[1], element by element."""
    return T.call_extern("float32x16", "sparsec_dot_pairs", total, pairs, weights)


def permuted(vector: Expr, places: Expr, lanes: int) -> Expr:
    """The elements of a register of 8 (AVX2) or 16 (AVX-512) floats at the low bits of `places`, int32."""
    name = {8: "llvm.x86.avx2.permps", 16: "llvm.x86.avx512.permvar.sf.512"}[lanes]
    return T.call_llvm_pure_intrin(f"float32x{lanes}", name, vector, places)


def gathered(buffer: Buffer, places: Expr, lanes: int) -> Expr:
    """The elements of a buffer at `places`, int32, for registers of 8 (AVX2) or 16 (AVX-512) floats."""
    base, zeros = T.address_of(buffer[0]), T.Broadcast(T.float32(0), lanes)
    if lanes == 16:
        every = T.reinterpret("uint1x16", T.uint16(0xFFFF))
        return T.call_llvm_intrin("float32x16", "llvm.x86.avx512.mask.gather.dps.512", zeros, base, places, every,
                                  T.int32(4))
    every = T.reinterpret("float32x8", T.Broadcast(T.int32(-1), lanes))
    return T.call_llvm_intrin("float32x8", "llvm.x86.avx2.gather.d.ps.256", zeros, base, places, every, T.int8(4))
