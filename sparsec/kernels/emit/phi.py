"""The normal distribution Phi by pieces, where a permutation of 16 elements picks the coefficients of each.

Phi(|x|) - 1/2 is a polynomial of degree four on every piece; the processor permutes beside multiplications, so that
GELU takes half as long as by one polynomial of a higher degree. The error of x Phi(x) is below 5e-7.
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.extremum import bind
from sparsec.kernels.emit.intrinsics import permuted
from sparsec.kernels.emit.tir import Expr, splat

LANES = 16
_STEP = 0.36  # of pieces, whose middles are multiples of it; Phi is 1 from the last one's on, and 0 on the other side
_MAGIC = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer in the low bits
_SIGN = -(2**31)
# Phi(step * piece + u) - 1/2 by powers of u: minimax fits in double precision, weighted by x, rounded to float32
_COEFFICIENTS = (
    (3.6006366777030507e-09, 0.14057646691799164, 0.26423749327659607, 0.3599289059638977, 0.4250662922859192,
     0.464069664478302, 0.48461365699768066, 0.49413225054740906, 0.49801161885261536, 0.49940234422683716,
     0.4998408854007721, 0.49996253848075867, 0.4999921917915344, 0.4999985694885254, 0.4999997615814209, 0.5),
    (0.3989412784576416, 0.37390828132629395, 0.3078511357307434, 0.22265507280826569, 0.14146192371845245,
     0.07895143330097198, 0.038707200437784195, 0.016669869422912598, 0.00630634929984808, 0.002095683477818966,
     0.0006117456941865385, 0.00015685883408877999, 3.532925256877206e-05, 6.989424946368672e-06,
     1.2145721939305076e-06, 0.0),
    (4.466895916266367e-05, -0.0673084706068039, -0.11082438379526138, -0.12022919952869415, -0.10184931755065918,
     -0.07105515897274017, -0.04180412366986275, -0.02100488170981407, -0.009081879630684853,
     -0.0033954528626054525, -0.0011013540206477046, -0.00031066301744431257, -7.633814675500616e-05,
     -1.6362730093533173e-05, -3.0624948976765154e-06, 0.0),
    (-0.06718746572732925, -0.05395875498652458, -0.02469400316476822, 0.005978933535516262, 0.025067880749702454,
     0.029316723346710205, 0.023604894056916237, 0.014894243329763412, 0.007713977247476578, 0.003353267442435026,
     0.0012390065239742398, 0.00039222268969751894, 0.00010694434604374692, 2.5210783860529773e-05,
     5.1525757953641005e-06, 0.0),
    (0.004447403363883495, 0.01615319773554802, 0.022760190069675446, 0.018209654837846756, 0.007817626930773258,
     -0.0013794440310448408, -0.00574532151222229, -0.0058327591978013515, -0.004001476336270571,
     -0.002127861138433218, -0.0009212793665938079, -0.0003326289588585496, -0.00010153353650821373,
     -2.6431727746967226e-05, -5.9032004173786845e-06, 0.0),
)


def phi(x: Expr) -> Expr:
    """Phi of a vector of 16 elements; NaN stays. `x` should be a variable."""
    kind, whole = f"float32x{LANES}", f"int32x{LANES}"
    sign = T.bitwise_and(T.reinterpret(whole, x), splat(T.int32(_SIGN), LANES))
    size = T.reinterpret(kind, T.bitwise_and(T.reinterpret(whole, x), splat(T.int32(~_SIGN), LANES)))

    def of_piece(z: Expr, shifted: Expr) -> Expr:
        piece = T.reinterpret(whole, shifted)
        rest = z - (shifted - splat(_MAGIC, LANES)) * splat(_STEP, LANES)

        def polynomial(u: Expr) -> Expr:
            *lower, result = (permuted(_vector(row), piece, LANES) for row in _COEFFICIENTS)
            for coefficient in reversed(lower):
                result = result * u + coefficient
            return result

        return bind(rest, polynomial)

    half = bind(T.min(splat((LANES - 1) * _STEP, LANES), size), lambda z: bind(
        z * splat(1 / _STEP, LANES) + splat(_MAGIC, LANES), lambda shifted: of_piece(z, shifted)))
    return splat(0.5, LANES) + T.reinterpret(kind, T.bitwise_or(T.reinterpret(whole, half), sign))


def _vector(elements: tuple[float, ...]) -> Expr:
    return T.Shuffle([T.float32(each) for each in elements], list(range(LANES)))
