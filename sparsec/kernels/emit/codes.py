"""Codes of quantised tensors in registers: exact products of bytes, and the way from codes to integers and back.

A vector of codes holds 4n unsigned bytes for n lanes of 32 bits. Four vectors of integers hold the same places in the
order that interleaving makes of them (`spread`, `dot_fours`) and narrowing undoes (`narrowed`): codes lie in memory in
their natural order, and nothing is permuted across 128-bit lanes. Products are exact on every instruction set
(`narrow.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.gelu import LANES, llvm_gelu
from sparsec.kernels.emit.intrinsics import unpack
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.narrow import INLINE, llvm_narrow
from sparsec.kernels.emit.tir import Buffer, Expr, lanes_of

FOUR = 4  # codes in a lane of 32 bits
SIDES = 2  # of a range
RAISED = float(1 << 23)
"""What `raised` adds."""


def llvm_codes(isa: Isa) -> str:
    """The LLVM IR that a kernel needs which calls the functions below."""
    n = isa.lanes
    words, halves, chars = f"<{n} x i32>", f"<{2 * n} x i16>", f"<{4 * n} x i8>"
    return "".join([
        llvm_narrow(isa),
        f"declare {halves} @llvm.sadd.sat.v{2 * n}i16({halves}, {halves})\n",
        f"declare <{n} x float> @llvm.arithmetic.fence.v{n}f32(<{n} x float>)\n",
        _whole(isa), llvm_gelu() if n == LANES else "",
        *(make(n, part) for make in (_interleave, _spread, _raised, _natural, _ordered) for part in range(FOUR)), f"""
define linkonce_odr {words} @sparsec_codes_dot({words} %sum, {chars} %x, {chars} %v) {INLINE} {{
  %r = call {words} @sparsec_dot({words} %sum, {chars} %x, {chars} %v)
  ret {words} %r
}}
define linkonce_odr {chars} @sparsec_codes_narrow({words} %a, {words} %b, {words} %c, {words} %d, {halves} %zero)
    {INLINE} {{
  %ab = call {halves} @sparsec_narrow_words({words} %a, {words} %b)
  %cd = call {halves} @sparsec_narrow_words({words} %c, {words} %d)
  %abz = call {halves} @llvm.sadd.sat.v{2 * n}i16({halves} %ab, {halves} %zero)
  %cdz = call {halves} @llvm.sadd.sat.v{2 * n}i16({halves} %cd, {halves} %zero)
  %r = call {chars} @sparsec_narrow_halves({halves} %abz, {halves} %cdz)
  ret {chars} %r
}}
define linkonce_odr <{n} x float> @sparsec_codes_fence(<{n} x float> %x) {INLINE} {{
  %r = call <{n} x float> @llvm.arithmetic.fence.v{n}f32(<{n} x float> %x)
  ret <{n} x float> %r
}}
{_quotient(n)}define linkonce_odr {chars} @sparsec_codes_splat_at(ptr %from) alwaysinline nounwind {{
  %four = load i32, ptr %from, align 1
  %r = call {chars} @sparsec_codes_splat(i32 %four)
  ret {chars} %r
}}
define linkonce_odr {chars} @sparsec_codes_splat(i32 %four) {INLINE} {{
  %one = insertelement {words} undef, i32 %four, i64 0
  %all = shufflevector {words} %one, {words} undef, <{n} x i32> zeroinitializer
  %r = bitcast {words} %all to {chars}
  ret {chars} %r
}}
"""])


def _whole(isa: Isa) -> str:
    """Floats that fit 32 bits, rounded to whole numbers, halves to even."""
    n, kind = isa.lanes, f"<{isa.lanes} x float>"
    if not isa.fused:  # SSE2 rounds floats only to integers
        declared, body = "", f"""%i = call <{n} x i32> @sparsec_rounded({kind} %x)
  %r = sitofp <{n} x i32> %i to {kind}"""
    else:
        declared, body = f"declare {kind} @llvm.rint.v{n}f32({kind})", f"%r = call {kind} @llvm.rint.v{n}f32({kind} %x)"
    return f"""{declared}
define linkonce_odr {kind} @sparsec_codes_whole({kind} %x) {INLINE} {{
  {body}
  ret {kind} %r
}}
"""


def _raised(n: int, part: int) -> str:
    """Codes as the floats 2^23 + code: they are the low bits of the mantissa."""
    halves, chars, kind = f"<{2 * n} x i16>", f"<{4 * n} x i8>", f"<{n} x float>"
    high = f"{halves} <{', '.join(['i16 19200'] * 2 * n)}>"  # 0x4B00
    return f"""
define linkonce_odr {kind} @sparsec_codes_raised_{part}({chars} %x) {INLINE} {{
  %low8 = shufflevector {chars} %x, {chars} zeroinitializer, {unpack(4 * n, part // 2, n // 4)}
  %low = bitcast {chars} %low8 to {halves}
  %both = shufflevector {halves} %low, {high}, {unpack(2 * n, part % 2, n // 4)}
  %r = bitcast {halves} %both to {kind}
  ret {kind} %r
}}
"""


def _quotient(n: int) -> str:
    """A quotient by the rounded reciprocal: a product and its correction, rounded as a division (Markstein 1990)."""
    kind = f"<{n} x float>"
    declared = "" if n == LANES else f"declare {kind} @llvm.fma.v{n}f32({kind}, {kind}, {kind})"  # `llvm_gelu` has it
    return f"""{declared}
define linkonce_odr {kind} @sparsec_codes_quotient({kind} %x, {kind} %s, {kind} %r) {INLINE} {{
  %q = fmul {kind} %x, %r
  %n = fneg {kind} %q
  %e = call {kind} @llvm.fma.v{n}f32({kind} %n, {kind} %s, {kind} %x)
  %y = call {kind} @llvm.fma.v{n}f32({kind} %e, {kind} %r, {kind} %q)
  ret {kind} %y
}}
"""


def _interleave(n: int, vector: int) -> str:
    """Place `vector` (0 to 3) of what four vectors of codes become where their codes are interleaved one by one."""
    halves, chars = f"<{2 * n} x i16>", f"<{4 * n} x i8>"
    operands = ", ".join(f"{chars} %{row}" for row in "abcd")
    return f"""
define linkonce_odr {chars} @sparsec_codes_interleave_{vector}({operands}) {INLINE} {{
  %ab8 = shufflevector {chars} %a, {chars} %b, {unpack(4 * n, vector // 2, n // 4)}
  %cd8 = shufflevector {chars} %c, {chars} %d, {unpack(4 * n, vector // 2, n // 4)}
  %ab = bitcast {chars} %ab8 to {halves}
  %cd = bitcast {chars} %cd8 to {halves}
  %abcd = shufflevector {halves} %ab, {halves} %cd, {unpack(2 * n, vector % 2, n // 4)}
  %r = bitcast {halves} %abcd to {chars}
  ret {chars} %r
}}
"""


def _spread(n: int, part: int) -> str:
    words, chars = f"<{n} x i32>", f"<{4 * n} x i8>"
    zeros = ", ".join([f"{chars} zeroinitializer"] * 3)
    return f"""
define linkonce_odr {words} @sparsec_codes_spread_{part}({chars} %x) {INLINE} {{
  %q = call {chars} @sparsec_codes_interleave_{part}({chars} %x, {zeros})
  %r = bitcast {chars} %q to {words}
  ret {words} %r
}}
"""


def _natural(n: int, part: int) -> str:
    """Vector `part` in natural order of the four that hold places as interleaving leaves them."""
    kind = f"<{n} x float>"
    operands = ", ".join(f"{kind} %{row}" for row in "abcd")
    at = [part * n + i for i in range(n)]
    chosen = [each % 16 // FOUR for each in at]
    low = [FOUR * (each // 16) + each % FOUR + n * (which % 2) for each, which in zip(at, chosen, strict=True)]
    both = ", ".join(f"i32 {i + (0 if which < 2 else n)}" for i, which in enumerate(chosen))
    picked = ", ".join(f"i32 {each}" for each in low)
    return f"""
define linkonce_odr {kind} @sparsec_codes_natural_{part}({operands}) {INLINE} {{
  %ab = shufflevector {kind} %a, {kind} %b, <{n} x i32> <{picked}>
  %cd = shufflevector {kind} %c, {kind} %d, <{n} x i32> <{picked}>
  %r = shufflevector {kind} %ab, {kind} %cd, <{n} x i32> <{both}>
  ret {kind} %r
}}
"""


def _ordered(n: int, part: int) -> str:
    """Vector `part` of the four in the order of interleaving, of vectors in natural order."""
    kind = f"<{n} x float>"
    operands = ", ".join(f"{kind} %{row}" for row in "abcd")
    places = [16 * (lane // FOUR) + FOUR * part + lane % FOUR for lane in range(n)]
    low = ", ".join(f"i32 {place % n + n * (place // n % 2)}" for place in places)
    both = ", ".join(f"i32 {lane + (0 if place // n < 2 else n)}" for lane, place in enumerate(places))
    return f"""
define linkonce_odr {kind} @sparsec_codes_ordered_{part}({operands}) {INLINE} {{
  %ab = shufflevector {kind} %a, {kind} %b, <{n} x i32> <{low}>
  %cd = shufflevector {kind} %c, {kind} %d, <{n} x i32> <{low}>
  %r = shufflevector {kind} %ab, {kind} %cd, <{n} x i32> <{both}>
  ret {kind} %r
}}
"""


def dot(total: Expr, codes: Expr, weights: Expr) -> Expr:
    """The sum of n integers and the products of four codes and four signed bytes in every lane."""
    return T.call_extern(f"int32x{lanes_of(total)}", "sparsec_codes_dot", total, codes, weights)


def splat_four(four: Expr, lanes: int) -> Expr:
    """Four bytes, given as an int32, in every lane."""
    return T.call_extern(f"uint8x{FOUR * lanes}", "sparsec_codes_splat", four)


def splat_codes(buffer: Buffer, index: Expr, lanes: int) -> Expr:
    """Four codes of a buffer from `index` on, in every lane."""
    return T.call_extern(f"uint8x{FOUR * lanes}", "sparsec_codes_splat_at", T.address_of(buffer[index]))


def interleaved(rows: Sequence[Expr], vector: int) -> Expr:
    """Vector `vector` (0 to 3) of four vectors of codes, interleaved: a lane holds a code of each."""
    return T.call_extern(f"uint8x{lanes_of(rows[0])}", f"sparsec_codes_interleave_{vector}", *rows)


def spread(codes: Expr, part: int) -> Expr:
    """Codes as integers: part 0 to 3 of them, in the order that `interleaved` has."""
    return T.call_extern(f"int32x{lanes_of(codes) // FOUR}", f"sparsec_codes_spread_{part}", codes)


def narrowed(integers: Sequence[Expr], zero_point: Expr) -> Expr:
    """Four vectors of integers, plus a vector of int16, cut off at 0 and 255, as codes."""
    return T.call_extern(f"uint8x{FOUR * lanes_of(integers[0])}", "sparsec_codes_narrow", *integers, zero_point)


def narrowed_in_order(integers: Sequence[Expr], zero_point: Expr) -> Expr:
    """As `narrowed`, of vectors in natural order."""
    return reordered(narrowed(integers, zero_point))


def reordered(codes: Expr) -> Expr:
    """Codes in natural order such that what interleaves them leaves it; and back."""
    count = lanes_of(codes) // FOUR
    words = T.reinterpret(f"int32x{count}", codes)
    places = [FOUR * j + vector for vector in range(FOUR) for j in range(count // FOUR)]
    return T.reinterpret(f"uint8x{FOUR * count}", T.Shuffle([words], places))


def natural(vectors: Sequence[Expr], part: int) -> Expr:
    """Four vectors of floats in the order of `interleaved`: part 0 to 3 of them in natural order."""
    return T.call_extern(f"float32x{lanes_of(vectors[0])}", f"sparsec_codes_natural_{part}", *vectors)


def ordered(vectors: Sequence[Expr], part: int) -> Expr:
    """Four vectors of floats in natural order: part 0 to 3 of them in the order of `interleaved`."""
    return T.call_extern(f"float32x{lanes_of(vectors[0])}", f"sparsec_codes_ordered_{part}", *vectors)


def rounded(x: Expr) -> Expr:
    """Floats to the nearest integers, halves to even; what does not fit 32 bits becomes the least integer."""
    return T.call_extern(f"int32x{lanes_of(x)}", "sparsec_rounded", x)


def whole(x: Expr) -> Expr:
    """Floats that fit 32 bits, rounded to whole numbers, halves to even."""
    return T.call_extern(f"float32x{lanes_of(x)}", "sparsec_codes_whole", x)


def quotient(x: Expr, divisor: Expr, reciprocal: Expr) -> Expr:
    """The correctly rounded x / divisor by its rounded reciprocal, where neither leaves the normal numbers."""
    return T.call_extern(f"float32x{lanes_of(x)}", "sparsec_codes_quotient", x, divisor, reciprocal)


def raised(codes: Expr, part: int) -> Expr:
    """Codes plus 2^23 as floats: part 0 to 3 of them, in the order that `interleaved` has."""
    return T.call_extern(f"float32x{lanes_of(codes) // FOUR}", f"sparsec_codes_raised_{part}", codes)


def fenced(x: Expr) -> Expr:
    """The floats themselves: what made them is rounded before anything else happens, so that no FMA takes it in."""
    return T.call_extern(f"float32x{lanes_of(x)}", "sparsec_codes_fence", x)
