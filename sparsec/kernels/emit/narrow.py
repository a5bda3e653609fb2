"""What differs between processors on vectors of narrow integers: LLVM functions for `codes` and `intrinsics_int8`.

    sparsec_narrow_words    two vectors of int32, each cut off at the ends of int16, as one of int16;
    sparsec_narrow_halves   two vectors of int16, each cut off at 0 and 255, as one of bytes;
    sparsec_dot             a vector of int32 plus the products of four unsigned and four signed bytes in every lane,
                            exact;
    sparsec_rounded         floats to the nearest integers, halves to even; what does not fit becomes the least one.

On x86 products are vpdpbusd, or else vpmaddwd on bytes widened to 16 bits. On NEON they are usdot, or else sdot on
unsigned bytes less 128, whose share of the sum is added apart, or else products of 16 bits, which hold them. SVE's
vectors of 256 bits have usdot.
"""

from __future__ import annotations

from sparsec.kernels.emit.isa import Isa

INLINE = "alwaysinline nounwind readnone"
_NARROW = {4: ("llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128"),
           8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
           16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512")}
_DOT = {8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}
_ADD_PAIRS = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


def constant(value: int, kind: str, count: int) -> str:
    """A vector of equal integers, without its type."""
    return f"<{', '.join([f'{kind} {value}'] * count)}>"


def llvm_narrow(isa: Isa) -> str:
    """The functions above."""
    return _arm(isa) if isa.neon else _x86(isa)


def _x86(isa: Isa) -> str:
    n = isa.lanes
    words, halves, chars, kind = f"<{n} x i32>", f"<{2 * n} x i16>", f"<{4 * n} x i8>", f"<{n} x float>"
    words_down, halves_down = _NARROW[n]
    product = (f"declare {words} @{_DOT[n]}({words}, {chars}, {chars})\n" if isa.vnni
               else f"declare {words} @{_ADD_PAIRS[n]}({halves}, {halves})\n")
    convert = {4: f"call {words} @llvm.x86.sse2.cvtps2dq({kind} %x)",
               8: f"call {words} @llvm.x86.avx.cvt.ps2dq.256({kind} %x)",
               16: f"call {words} @llvm.x86.avx512.mask.cvtps2dq.512({kind} %x, {words} undef, i16 -1, i32 4)"}[n]
    declared = convert.replace("call", "declare").replace(" %x", "").replace(" undef", "").replace(" -1", "")
    return f"""{product}declare {halves} @{words_down}({words}, {words})
declare {chars} @{halves_down}({halves}, {halves})
{declared.replace("i32 4", "i32")}
define linkonce_odr {halves} @sparsec_narrow_words({words} %a, {words} %b) {INLINE} {{
  %r = call {halves} @{words_down}({words} %a, {words} %b)
  ret {halves} %r
}}
define linkonce_odr {chars} @sparsec_narrow_halves({halves} %a, {halves} %b) {INLINE} {{
  %r = call {chars} @{halves_down}({halves} %a, {halves} %b)
  ret {chars} %r
}}
define linkonce_odr {words} @sparsec_dot({words} %sum, {chars} %x, {chars} %v) {INLINE} {{
  {_x86_product(isa)}
  ret {words} %r
}}
define linkonce_odr {words} @sparsec_rounded({kind} %x) {INLINE} {{
  %r = {convert}
  ret {words} %r
}}
"""


def _x86_product(isa: Isa) -> str:
    """The dot product of unsigned bytes %x and signed bytes %v added to %sum, as %r."""
    n = isa.lanes
    words, halves, chars = f"<{n} x i32>", f"<{2 * n} x i16>", f"<{4 * n} x i8>"
    if isa.vnni:
        return f"%r = call {words} @{_DOT[n]}({words} %sum, {chars} %x, {chars} %v)"
    low, high = constant(255, "i16", 2 * n), constant(8, "i16", 2 * n)
    return f"""\
%x16 = bitcast {chars} %x to {halves}
  %v16 = bitcast {chars} %v to {halves}
  %xe = and {halves} %x16, {low}
  %xo = lshr {halves} %x16, {high}
  %vl = shl {halves} %v16, {high}
  %ve = ashr {halves} %vl, {high}
  %vo = ashr {halves} %v16, {high}
  %pe = call {words} @{_ADD_PAIRS[n]}({halves} %xe, {halves} %ve)
  %po = call {words} @{_ADD_PAIRS[n]}({halves} %xo, {halves} %vo)
  %p = add {words} %pe, %po
  %r = add {words} %p, %sum"""


def _arm(isa: Isa) -> str:
    n = isa.lanes
    words, halves, chars, kind = f"<{n} x i32>", f"<{2 * n} x i16>", f"<{4 * n} x i8>", f"<{n} x float>"
    declared, words_down, halves_down, near = _NEON if n == NEON else _sve()
    return f"""{declared}declare {kind} @llvm.fabs.v{n}f32({kind})
define linkonce_odr {halves} @sparsec_narrow_words({words} %a, {words} %b) {INLINE} {{
  {words_down}
  %r = shufflevector <{n} x i16> %low, <{n} x i16> %high, {_joined(n, 4)}
  ret {halves} %r
}}
define linkonce_odr {chars} @sparsec_narrow_halves({halves} %a, {halves} %b) {INLINE} {{
  {halves_down}
  %r = shufflevector <{2 * n} x i8> %low, <{2 * n} x i8> %high, {_joined(2 * n, 8)}
  ret {chars} %r
}}
define linkonce_odr {words} @sparsec_dot({words} %sum, {chars} %x, {chars} %v) {INLINE} {{
  {_arm_product(isa)}
  ret {words} %r
}}
define linkonce_odr {words} @sparsec_rounded({kind} %x) {INLINE} {{
  {near}
  %size = call {kind} @llvm.fabs.v{n}f32({kind} %x)
  %fits = fcmp olt {kind} %size, {_beyond(n)}
  %r = select <{n} x i1> %fits, {words} %near, {words} {constant(-(1 << 31), "i32", n)}
  ret {words} %r
}}
"""


def _joined(elements: int, part: int) -> str:
    """The mask that joins two vectors as x86 does, 128 bits of the result at a time."""
    places = [start + i for begin in range(0, elements, part) for start in (begin, elements + begin)
              for i in range(part)]
    return f"<{2 * elements} x i32> <{', '.join(f'i32 {place}' for place in places)}>"


def _two(name: str, result: str, operand: str) -> str:
    """A narrowing instruction on %a and %b."""
    return "\n  ".join(f"%{half} = call {result} @llvm.aarch64.neon.{name}({operand} %{each})"
                       for half, each in (("low", "a"), ("high", "b")))


NEON = 4  # lanes
_NEON = ("""declare <4 x i16> @llvm.aarch64.neon.sqxtn.v4i16(<4 x i32>)
declare <8 x i8> @llvm.aarch64.neon.sqxtun.v8i8(<8 x i16>)
declare <4 x i32> @llvm.aarch64.neon.fcvtns.v4i32.v4f32(<4 x float>)
declare <4 x i32> @llvm.aarch64.neon.usdot.v4i32.v16i8(<4 x i32>, <16 x i8>, <16 x i8>)
declare <4 x i32> @llvm.aarch64.neon.sdot.v4i32.v16i8(<4 x i32>, <16 x i8>, <16 x i8>)
""", _two("sqxtn.v4i16", "<4 x i16>", "<4 x i32>"), _two("sqxtun.v8i8", "<8 x i8>", "<8 x i16>"),
    "%near = call <4 x i32> @llvm.aarch64.neon.fcvtns.v4i32.v4f32(<4 x float> %x)")


def _sve() -> tuple[str, str, str, str]:
    """As `_NEON` for 256 bits, in operators that LLVM has for every vector."""
    def clamped(kind: str, count: int, low: int, high: int, to: str) -> str:
        vector, suffix = f"<{count} x {kind}>", f"v{count}{kind}"
        return "\n  ".join(f"""%{each}1 = call {vector} @llvm.smax.{suffix}({vector} %{each}, {vector} {
            constant(low, kind, count)})
  %{each}2 = call {vector} @llvm.smin.{suffix}({vector} %{each}1, {vector} {constant(high, kind, count)})
  %{half} = trunc {vector} %{each}2 to <{count} x {to}>""" for half, each in (("low", "a"), ("high", "b")))

    declared = "".join(f"declare {vector} @llvm.{name}.{suffix}({vector}, {vector})\n" for vector, suffix in (
        ("<8 x i32>", "v8i32"), ("<16 x i16>", "v16i16")) for name in ("smax", "smin"))
    declared += """declare <8 x float> @llvm.roundeven.v8f32(<8 x float>)
declare <8 x i32> @llvm.fptosi.sat.v8i32.v8f32(<8 x float>)
declare <vscale x 16 x i8> @llvm.vector.insert.nxv16i8.v32i8(<vscale x 16 x i8>, <32 x i8>, i64)
declare <vscale x 4 x i32> @llvm.vector.insert.nxv4i32.v8i32(<vscale x 4 x i32>, <8 x i32>, i64)
declare <8 x i32> @llvm.vector.extract.v8i32.nxv4i32(<vscale x 4 x i32>, i64)
declare <vscale x 4 x i32> @llvm.aarch64.sve.usdot.nxv4i32(<vscale x 4 x i32>, <vscale x 16 x i8>, <vscale x 16 x i8>)
"""
    near = """%whole = call <8 x float> @llvm.roundeven.v8f32(<8 x float> %x)
  %near = call <8 x i32> @llvm.fptosi.sat.v8i32.v8f32(<8 x float> %whole)"""
    return (declared, clamped("i32", 8, -(1 << 15), (1 << 15) - 1, "i16"), clamped("i16", 16, 0, 255, "i8"), near)


def _beyond(count: int) -> str:
    """2^31, the first float beyond int32."""
    return f"<{', '.join(['float 0x41E0000000000000'] * count)}>"


_SVE_PRODUCT = """\
%s = call <vscale x 4 x i32> @llvm.vector.insert.nxv4i32.v8i32(<vscale x 4 x i32> poison, <8 x i32> %sum, i64 0)
  %u = call <vscale x 16 x i8> @llvm.vector.insert.nxv16i8.v32i8(<vscale x 16 x i8> poison, <32 x i8> %x, i64 0)
  %w = call <vscale x 16 x i8> @llvm.vector.insert.nxv16i8.v32i8(<vscale x 16 x i8> poison, <32 x i8> %v, i64 0)
  %t = call <vscale x 4 x i32> @llvm.aarch64.sve.usdot.nxv4i32(<vscale x 4 x i32> %s, <vscale x 16 x i8> %u,
                                                               <vscale x 16 x i8> %w)
  %r = call <8 x i32> @llvm.vector.extract.v8i32.nxv4i32(<vscale x 4 x i32> %t, i64 0)"""


def _arm_product(isa: Isa) -> str:
    if isa.lanes != NEON:
        return _SVE_PRODUCT
    dot = "call <4 x i32> @llvm.aarch64.neon.{}.v4i32.v16i8(<4 x i32> {}, <16 x i8> {}, <16 x i8> %v)"
    if isa.mixed:
        return f"%r = {dot.format('usdot', '%sum', '%x')}"
    if isa.vnni:
        centre = constant(-128, "i8", 16)
        return f"""\
%apart = {dot.format('sdot', 'zeroinitializer', centre)}
  %begin = sub <4 x i32> %sum, %apart
  %signed = xor <16 x i8> %x, {centre}
  %r = {dot.format('sdot', '%begin', '%signed')}"""
    pick = [f"<4 x i32> <{', '.join(f'i32 {4 * lane + part}' for lane in range(4))}>" for part in range(4)]
    lines = ["%x16 = zext <16 x i8> %x to <16 x i16>", "%v16 = sext <16 x i8> %v to <16 x i16>",
             "%p16 = mul <16 x i16> %x16, %v16", "%p = sext <16 x i16> %p16 to <16 x i32>"]
    lines += [f"%p{part} = shufflevector <16 x i32> %p, <16 x i32> poison, {mask}" for part, mask in enumerate(pick)]
    lines += ["%p01 = add <4 x i32> %p0, %p1", "%p23 = add <4 x i32> %p2, %p3", "%all = add <4 x i32> %p01, %p23",
              "%r = add <4 x i32> %all, %sum"]
    return "\n  ".join(lines)
