"""Instructions on operands that TIR cannot express: LLVM IR that is linked into a kernel and inlined.

A kernel built with `llvm_bf16` may call the functions below. Vectors of narrow elements travel as vectors of int32;
operations on them never cross a 128-bit lane, so tiles of narrow elements are stored in the order that unpacking
expects: word vector j of a bf16 tile holds the float vectors 2j and 2j + 1, four elements of each in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Expr, lanes_of

NEON = 4  # lanes of the one instruction set of so many that permutes registers


def _shuffle(positions: list[int]) -> str:
    return f"<{len(positions)} x i32> <{', '.join(f'i32 {each}' for each in positions)}>"


def unpack(elements: int, side: int, parts: int = 4) -> str:
    """The mask of vpunpckl (side 0) or vpunpckh (side 1): half of each 128-bit part of two registers, interleaved."""
    lane = elements // parts
    return _shuffle([position for start in range(side * lane // 2, elements, lane) for i in range(lane // 2)
                     for position in (start + i, elements + start + i)])


_BF16_X86 = (
    """declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
declare <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float>, <16 x float>)
""",
    "call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sum, <32 x bfloat> %v, <32 x bfloat> %a)",
    "call <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float> %high, <16 x float> %low)")
_BF16_NEON = (
    "declare <4 x float> @llvm.aarch64.neon.bfdot.v4f32.v8bf16(<4 x float>, <8 x bfloat>, <8 x bfloat>)\n",
    "call <4 x float> @llvm.aarch64.neon.bfdot.v4f32.v8bf16(<4 x float> %sum, <8 x bfloat> %v, <8 x bfloat> %a)",
    "fptrunc <8 x float> %both to <8 x bfloat>")
_BF16_SVE = (
    """declare <vscale x 4 x float> @llvm.vector.insert.nxv4f32.v8f32(<vscale x 4 x float>, <8 x float>, i64)
declare <vscale x 8 x bfloat> @llvm.vector.insert.nxv8bf16.v16bf16(<vscale x 8 x bfloat>, <16 x bfloat>, i64)
declare <8 x float> @llvm.vector.extract.v8f32.nxv4f32(<vscale x 4 x float>, i64)
declare <vscale x 4 x float> @llvm.aarch64.sve.bfdot(<vscale x 4 x float>, <vscale x 8 x bfloat>, <vscale x 8 x bfloat>)
define linkonce_odr <8 x float> @sparsec_bfdot(<8 x float> %sum, <16 x bfloat> %a, <16 x bfloat> %b)
    alwaysinline nounwind readnone {
  %s = call <vscale x 4 x float> @llvm.vector.insert.nxv4f32.v8f32(<vscale x 4 x float> poison, <8 x float> %sum, i64 0)
  %u = call <vscale x 8 x bfloat> @llvm.vector.insert.nxv8bf16.v16bf16(<vscale x 8 x bfloat> poison, <16 x bfloat> %a,
                                                                       i64 0)
  %w = call <vscale x 8 x bfloat> @llvm.vector.insert.nxv8bf16.v16bf16(<vscale x 8 x bfloat> poison, <16 x bfloat> %b,
                                                                       i64 0)
  %t = call <vscale x 4 x float> @llvm.aarch64.sve.bfdot(<vscale x 4 x float> %s, <vscale x 8 x bfloat> %u,
                                                         <vscale x 8 x bfloat> %w)
  %r = call <8 x float> @llvm.vector.extract.v8f32.nxv4f32(<vscale x 4 x float> %t, i64 0)
  ret <8 x float> %r
}
""",
    "call <8 x float> @sparsec_bfdot(<8 x float> %sum, <16 x bfloat> %v, <16 x bfloat> %a)",
    "fptrunc <16 x float> %both to <16 x bfloat>")
_BF16 = {NEON: _BF16_NEON, 8: _BF16_SVE, 16: _BF16_X86}
_INLINE = "alwaysinline nounwind readnone"


def llvm_bf16(isa: Isa) -> str:
    """What kernels that multiply pairs of bf16 need, on an instruction set with `bf16`."""
    n = isa.lanes
    declared, product, narrow = _BF16[n]
    floats, words, pairs = f"<{n} x float>", f"<{n} x i32>", f"<{2 * n} x bfloat>"
    quads = f"<{n // 2} x i64>"
    in_order = f"shufflevector {floats} %low, {floats} %high, {_shuffle(list(range(2 * n)))}"
    orders = {  # how the rounded elements of two vectors follow each other
        "tile": f"""%q = bitcast {pairs} %b to {quads}
  %o = shufflevector {quads} %q, {quads} poison, {_shuffle([i + half for i in range(n // 4) for half in (0, n // 4)])}
  %r = bitcast {quads} %o to {words}""",
        "pairs": f"""%o = shufflevector {pairs} %b, {pairs} poison, {_shuffle([i + half for i in range(n)
                                                                              for half in (0, n)])}
  %r = bitcast {pairs} %o to {words}""",
        "row": f"%r = bitcast {pairs} %b to {words}"}
    return declared + "".join(f"""
define linkonce_odr {words} @sparsec_{name}_bf16({floats} %low, {floats} %high) {_INLINE} {{
  %both = {in_order}
  %b = {narrow}
  {order}
  ret {words} %r
}}
""" for name, order in orders.items()) + f"""
define linkonce_odr {floats} @sparsec_dot_pairs({floats} %sum, {words} %x, {words} %w) {_INLINE} {{
  %a = bitcast {words} %x to {pairs}
  %v = bitcast {words} %w to {pairs}
  %r = {product}
  ret {floats} %r
}}
""" + "".join(f"""
define linkonce_odr {floats} @sparsec_dot_bf16_{side}({floats} %sum, {words} %first, {words} %second, {words} %w)
    {_INLINE} {{
  %x = bitcast {words} %first to <{2 * n} x i16>
  %y = bitcast {words} %second to <{2 * n} x i16>
  %xy = shufflevector <{2 * n} x i16> %x, <{2 * n} x i16> %y, {unpack(2 * n, side, n // 4)}
  %p = bitcast <{2 * n} x i16> %xy to {words}
  %r = call {floats} @sparsec_dot_pairs({floats} %sum, {words} %p, {words} %w)
  ret {floats} %r
}}
""" for side in (0, 1))


def tile_bf16(low: Expr, high: Expr) -> Expr:
    """Two float vectors rounded to bf16, as one word vector of a bf16 tile."""
    return T.call_extern(f"int32x{lanes_of(low)}", "sparsec_tile_bf16", low, high)


def pairs_bf16(low: Expr, high: Expr) -> Expr:
    """Two float vectors rounded to bf16 and paired: element i is (low[i], high[i])."""
    return T.call_extern(f"int32x{lanes_of(low)}", "sparsec_pairs_bf16", low, high)


def row_bf16(low: Expr, high: Expr) -> Expr:
    """Two float vectors rounded to bf16, in order: word i holds elements 2i and 2i + 1."""
    return T.call_extern(f"int32x{lanes_of(low)}", "sparsec_row_bf16", low, high)


def dot_bf16(total: Expr, first: Expr, second: Expr, weights: Expr, side: int) -> Expr:
    """The sum total + w[0] * first + w[1] * second, for float vector `side` (0 or 1) of two vectors of a bf16 tile."""
    return T.call_extern(f"float32x{lanes_of(total)}", f"sparsec_dot_bf16_{side}", total, first, second, weights)


def dot_pairs(total: Expr, pairs: Expr, weights: Expr) -> Expr:
    """The sum total + w[0] * pairs[0] + w[1] * pairs[1], element by element."""
    return T.call_extern(f"float32x{lanes_of(total)}", "sparsec_dot_pairs", total, pairs, weights)


def permuted(vector: Expr, places: Expr, lanes: int) -> Expr:
    """The elements of a register of 4 (NEON), 8 (AVX2) or 16 (AVX-512) floats at the low bits of `places`, int32."""
    if lanes == NEON:
        return _table("tbl1", (vector,), places)
    name = {8: "llvm.x86.avx2.permps", 16: "llvm.x86.avx512.permvar.sf.512"}[lanes]
    return T.call_llvm_pure_intrin(f"float32x{lanes}", name, vector, places)


def permuted_pair(low: Expr, high: Expr, places: Expr, lanes: int) -> Expr:
    """The elements of two registers, as `permuted`, one bit more of `places` telling them apart."""
    if lanes == NEON:
        return _table("tbl2", (low, high), places)
    if lanes == 16:
        return T.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.vpermi2var.ps.512", low, places, high)
    in_high = T.bitwise_and(places, T.Broadcast(T.int32(8), lanes)) != T.Broadcast(T.int32(0), lanes)
    return T.Select(in_high, permuted(high, places, lanes), permuted(low, places, lanes))


def _table(name: str, registers: Sequence[Expr], places: Expr) -> Expr:
    """NEON's look-up of bytes, four of them an element."""
    def every(value: int) -> Expr:
        return T.Broadcast(T.int32(value), NEON)

    low = T.bitwise_and(places, every(NEON * len(registers) - 1))
    at = T.reinterpret("int8x16", low * every(0x04040404) + every(0x03020100))
    picked = T.call_llvm_pure_intrin("int8x16", f"llvm.aarch64.neon.{name}.v16i8",
                                     *(T.reinterpret("int8x16", each) for each in registers), at)
    return T.reinterpret("float32x4", picked)


def gathered(buffer: Buffer, places: Expr, lanes: int) -> Expr:
    """The elements of a buffer at `places`, int32, for registers of 8 (AVX2) or 16 (AVX-512) floats.

    For 4 (NEON), which has no such instruction, they are loaded one by one.
    """
    base, zeros = T.address_of(buffer[0]), T.Broadcast(T.float32(0), lanes)
    if lanes == NEON:
        places = T.Bind(places)
        return T.Shuffle([buffer[T.Shuffle([places], [lane])] for lane in range(lanes)], list(range(lanes)))
    if lanes == 16:
        every = T.reinterpret("uint1x16", T.uint16(0xFFFF))
        return T.call_llvm_intrin("float32x16", "llvm.x86.avx512.mask.gather.dps.512", zeros, base, places, every,
                                  T.int32(4))
    every = T.reinterpret("float32x8", T.Broadcast(T.int32(-1), lanes))
    return T.call_llvm_intrin("float32x8", "llvm.x86.avx2.gather.d.ps.256", zeros, base, places, every, T.int8(4))
